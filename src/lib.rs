//! Tidegate drains Kafka into Postgres: exactly once, in batches, each with one binary `COPY`.
//!
//! The fuzzer is given the pure rooms alone (`cfg(fuzzing)`): without the clients of Kafka and Postgres they build in a minute.

pub mod catalog;
#[cfg(not(fuzzing))]
pub mod claimer;
#[cfg(not(fuzzing))]
pub mod cli;
pub mod config;
pub mod copy;
#[cfg(not(fuzzing))]
pub mod daemon;
pub mod ddl;
pub mod decode;
pub mod error;
#[cfg(not(fuzzing))]
pub mod http;
#[cfg(not(fuzzing))]
pub mod kafka;
#[cfg(not(fuzzing))]
pub mod lag;
pub mod limits;
pub mod mapping;
pub mod metrics;
pub mod modes;
#[cfg(not(fuzzing))]
pub mod pipeline;
#[cfg(not(fuzzing))]
pub mod plan;
#[cfg(not(fuzzing))]
pub mod postgres;
pub mod registry;
pub mod status;
pub mod value;
#[cfg(not(fuzzing))]
pub mod watchdog;
pub mod writer;
