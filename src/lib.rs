//! Tidegate drains Kafka into Postgres: exactly once, in batches, each with one binary `COPY`.

pub mod batch;
pub mod budget;
pub mod catalog;
pub mod config;
pub mod isolate;
pub mod metrics;
pub mod partition;
pub mod position;
pub mod record;
pub mod retry;
pub mod session;
pub mod status;
pub mod store;
pub mod writer;
