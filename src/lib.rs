//! Tidegate drains Kafka into Postgres: exactly once, in batches, each with one binary `COPY`.

pub mod catalog;
pub mod config;
pub mod copy;
pub mod ddl;
mod decode;
pub mod mapping;
pub mod position;
pub mod postgres;
pub mod record;
pub mod value;
