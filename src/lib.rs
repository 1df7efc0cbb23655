//! Tidegate drains Kafka into Postgres: exactly once, in batches, each with one binary `COPY`.
//!
//! The fuzzer is given the pure rooms alone (`cfg(fuzzing)`): without the clients of Kafka and Postgres they build in a minute.

pub mod batch;
pub mod budget;
pub mod catalog;
#[cfg(not(fuzzing))]
pub mod claimer;
#[cfg(not(fuzzing))]
pub mod cli;
pub mod commit_time;
pub mod config;
pub mod copy;
#[cfg(not(fuzzing))]
pub mod daemon;
pub mod ddl;
pub mod decode;
pub mod error;
pub mod gate;
#[cfg(not(fuzzing))]
pub mod http;
pub mod isolate;
#[cfg(not(fuzzing))]
pub mod kafka;
#[cfg(not(fuzzing))]
pub mod lag;
pub mod limits;
pub mod mapping;
pub mod metrics;
pub mod modes;
pub mod partition;
#[cfg(not(fuzzing))]
pub mod pipeline;
#[cfg(not(fuzzing))]
pub mod plan;
pub mod position;
#[cfg(not(fuzzing))]
pub mod postgres;
pub mod record;
pub mod registry;
pub mod retry;
pub mod session;
pub mod status;
pub mod store;
pub mod value;
#[cfg(not(fuzzing))]
pub mod watchdog;
pub mod writer;
