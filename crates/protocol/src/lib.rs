//! The protocol of Tidegate, by which every record is written exactly once.
//!
//! This crate decides where a consumer starts to read, when a batch is closed, what one transaction writes, and what an error
//! means. It has no Kafka client, no database driver, no clock and no random source: time, randomness and I/O are arguments or
//! traits.

pub mod batch;
pub mod claim_loop;
pub mod dead_letter_budget;
pub mod event;
pub mod flush_deadline;
pub mod group;
pub mod partition;
pub mod poison_search;
pub mod poll_loop;
pub mod position;
pub mod rate_limit;
pub mod record;
pub mod retry;
pub mod session;
pub mod stopped;
pub mod store;
pub mod writer;

/// Returns the current time, by a clock that a simulation can pause.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
