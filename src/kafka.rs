//! The Kafka side: librdkafka's settings, the members of consumer groups, rebalance callbacks, and requests about
//! topics and logs.

pub mod access;
pub mod credentials;
pub mod fault;
pub mod group;
pub mod health;
pub mod list;
pub mod membership;
pub mod observer;
pub mod reader;
pub mod rebalance;
pub mod settings;
pub mod times;
pub mod token;
