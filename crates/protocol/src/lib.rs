//! The protocol of Tidegate, by which every record is written exactly once.
//!
//! This crate decides where a consumer starts to read, when a batch is closed, what one transaction writes, and what an
//! error means. It has no Kafka client, database driver or random source: I/O and randomness are arguments or traits.
//! Time comes from tokio's clock, which a test can pause.

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

/// Returns the current time of tokio's clock, which a simulation can pause.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
