//! The Kafka side: settings we insist on, the poll thread, what the group says, and questions about logs.

pub mod access;
pub mod credentials;
pub mod fault;
pub mod group;
pub mod health;
pub mod membership;
pub mod observer;
pub mod reader;
pub mod rebalance;
pub mod settings;
pub mod token;
