//! The Kafka side: settings we insist on, the poll thread, what the group says, and questions about logs.

pub mod credentials;
pub mod group;
pub mod observer;
pub mod reader;
pub mod rebalance;
pub mod settings;
pub mod token;
