//! Tidegate drains Kafka into Postgres: exactly once, in batches, each with one binary `COPY`.

pub mod catalog;
pub mod config;
pub mod position;
pub mod record;
