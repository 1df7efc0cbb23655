//! Reads records from librdkafka in bulk: up to 512 per call, instead of one event per record as
//! [`BaseConsumer::poll`](rdkafka::consumer::BaseConsumer::poll) does.
//!
//! A [`BatchQueue`] is used beside a consumer, which subscribes, assigns, pauses and commits as before. The consumer's own queue
//! keeps the events: rebalances, errors, statistics, answers to commits. The records of a forwarded partition go to the
//! `BatchQueue` instead. The caller reads a [`Bulk`], goes through its [runs](Run) and [faults](Fault), and polls the consumer
//! between two reads:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use rdkafka::consumer::BaseConsumer;
//! # use tidegate_kafka_batch::{BatchQueue, Item, Run};
//! # fn example(consumer: Arc<BaseConsumer>) -> rdkafka::error::KafkaResult<()> {
//! let mut queue = BatchQueue::new(Arc::clone(&consumer))?;
//! loop {
//!     // Serves the events. The answer to an assignment calls `queue.forward` first and then `assign`.
//!     let _event = consumer.poll(Duration::ZERO);
//!     let mut bulk = queue.read(Duration::from_millis(100))?;
//!     while let Some(item) = bulk.next_item() {
//!         match item {
//!             Item::Run(Run { topic, partition, records }) => {
//!                 for record in records {
//!                     println!("{topic}/{partition}@{}: {:?}", record.offset(), record.value());
//!                 }
//!             }
//!             Item::Fault(fault) => eprintln!("{}", fault.text()),
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! The statements about librdkafka below were verified in the source of version 2.12.1; tests check the ones that can
//! be observed.
//!
//! # Forwarding
//! Call [`BatchQueue::forward`] before the partition is assigned. Then all of its records go to the `BatchQueue`. librdkafka
//! itself forwards a partition to the consumer's queue when a fetch starts, but only if the application has never forwarded the
//! partition (`rd_kafka_toppar_op_fetch_start`, flag `RD_KAFKA_Q_F_FWD_APP`). If `forward` is called after the assignment, the
//! consumer's queue may already have records of the partition. `poll` returns them, and the caller must take them before the
//! first bulk.
//!
//! When librdkafka stops fetching a partition, it clears the forwarding (`rd_kafka_toppar_fetch_stop`). This happens on a thread
//! of librdkafka, possibly after `unassign` or `incremental_unassign` has returned. `assign` stops every assigned partition too,
//! even those that stay assigned. So an old fetch may stop after `forward` was called for the new assignment, and undo that call.
//! Records then arrive in the partition's own queue, where nobody reads them.
//!
//! So each forwarded partition's queue has a callback. librdkafka calls it if something arrives in the queue while the queue is
//! not forwarded. The callback wakes the waiting read, which forwards the partition again. This also moves the records that have
//! arrived meanwhile, in order. While the partition is forwarded, the callback costs nothing.
//!
//! With or without this crate, librdkafka 2.12.1 aborts the process if a partition is taken away twice before its fetch
//! has ended (issue 5573). Two calls of `assign` or of `incremental_unassign` within milliseconds can do this. A new
//! assignment's first record is a sign that earlier fetches have ended.
//!
//! Call `forward` again each time the partition is assigned: after the first `forward`, librdkafka no longer forwards the
//! partition to the consumer's queue by itself. Call [`BatchQueue::unforward`] when an assignment has ended, after the partition
//! was unassigned.
//!
//! # Waiting
//! An event on the consumer's queue ends the wait of a read (`rd_kafka_queue_cb_event_enable`, `rd_kafka_queue_yield`). A read
//! doesn't wait while that queue has an event. So the caller can answer a rebalance as promptly as a thread that waits in
//! `poll`. A queue that was made by [`BatchQueue::with_on_ready`] calls `on_ready` at an event, instead of ending a wait.
//!
//! # The consumer's liveness
//! Each read counts as a poll for `max.poll.interval.ms` (`rd_kafka_q_serve_rkmessages` calls `rd_kafka_app_poll_start`
//! and `rd_kafka_app_polled`). The exception is a read that only returns records left over from the last bulk: such a
//! read doesn't call librdkafka.
//!
//! # Positions
//! A read moves librdkafka's position of each partition (`rd_kafka_position`) past the partition's last record in the *whole
//! bulk*, even if that record isn't taken. The stored offset moves too, unless `enable.auto.offset.store = false`. `poll` moves
//! the position record by record. The difference matters in these cases:
//! - A pause throws away the records in librdkafka's queues, and a resume fetches from the position. The records of a bulk that
//!   were not taken are not lost: they stay in the `BatchQueue`, and the next read returns them.
//! - After a seek, or an assignment at an offset, the records of a bulk that were not taken are stale. Call
//!   [`BatchQueue::discard`] or [`BatchQueue::unforward`].
//! - librdkafka drops the records that it fetched before a seek, a pause or an assignment. So a read after such a call returns no
//!   stale records. A read on another thread during the call may return stale ones.
//! - A [`Fault`] that has an offset also moves the position, to the offset *after* the fault's own. (With `poll`, an error
//!   doesn't move the position.) At the end of a partition and after a failed fetch, this is one too far. For example, after a
//!   failed fetch at offset 10, the position is 11, though record 10 hasn't been fetched yet. If the partition is paused now, a
//!   resume skips record 10. So don't pause the partition until its next record has arrived. Or, **before you resume it, seek to
//!   the fault's own offset** (or assign the partition at that offset).
//!
//! # Memory
//! A record borrows the buffer of its fetch response or, if it was compressed, the buffer of its decompressed record batch. A
//! buffer is freed with the last record that uses it. A bulk keeps its records until it is dropped, and the `BatchQueue` keeps
//! those that were not taken. So up to 512 records keep up to 512 buffers in memory; in practice, they keep two or three. These
//! records no longer count for `queued.max.messages.kbytes`, a limit that all forwarded partitions of a consumer share. A read
//! allocates nothing in this crate.
//!
//! This crate doesn't use `rd_kafka_consume_callback_queue`, which costs as little as a bulk read, and moves the position record
//! by record. That function takes the whole queue at once. While its callbacks run, librdkafka would continue to fetch, beyond
//! its limits.

mod bulk;
mod credentials;
mod describe;
mod exit;
mod member;
mod native;
mod queue;

pub use bulk::{Bulk, Fault, Headers, Item, Record, Records, Run};
pub use credentials::{OAuthToken, set_oauth_token, set_password};
pub use describe::{may_read_group, named_members};
pub use exit::exit_now;
pub use member::is_member;
pub use queue::BatchQueue;

/// The most records and faults that one read returns.
pub const MAX_MESSAGES: usize = 512;
