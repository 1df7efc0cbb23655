//! Tidegate drains Kafka into Postgres: exactly once, in batches that are written by binary `COPY`.

mod cgroup;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod error;
pub mod http;
pub mod kafka;
pub mod lag;
pub mod limits;
pub mod metrics;
pub mod pipeline;
pub mod plan;
pub mod postgres;
pub mod registry;
pub mod repeats;
pub mod report;
pub mod status;
mod systemd;
mod trust;
pub mod watchdog;
