//! Divides the memory budget of the process among the pipelines and their consumers. Pure.
//!
//! A consumer's share is the sum of these parts, and a quarter more for the allocator:
//!
//! - the records that librdkafka has queued: their bytes, and bookkeeping that librdkafka doesn't count;
//! - the fetch replies that are arriving, and the reply whose records the poll loop takes;
//! - the open batch and the batch in flight, each with a full `batch.max_bytes` and half as much again for buffers that grow;
//! - the buffers of a database connection;
//! - with the write mode upsert, the search for the newest row of each key.
//!
//! A batch accepts a record of any size. So with a record that is larger than these parts, a consumer can exceed its share.

use tidegate_rows::spec::WriteMode;
use tidegate_rows::write_mode::newest::BYTES_PER_ROW;

use crate::config::{Config, Pipeline};

/// librdkafka's own memory per queued message, in bytes: `rd_kafka_op_t` and the message in it, measured on a 64-bit machine.
const MESSAGE_OVERHEAD: u64 = 320;
/// The record size, in bytes, that the queue's limit assumes. librdkafka limits only
/// the bytes of queued records, so the overhead of smaller records isn't fully covered.
const RECORD_ASSUMED: u64 = 128;
/// The assumed number of fetch replies in flight at once: one from each of three brokers.
const REPLIES: u64 = 3;
/// The assumed size of a decompressed reply, as a multiple of its compressed size. With LZ4, librdkafka allocates 4 times the
/// compressed size, and 7 times if that isn't enough. With zstd, JSON has a similar factor. The queue's limit doesn't bound this
/// memory: librdkafka may request a reply while the queue is just below its limit.
const DECOMPRESSED: u64 = 8;
/// The number of replies that are kept in memory while the poll loop takes a bulk of records. Usually one reply contains the
/// whole bulk.
const BULK_REPLIES: u64 = 1;
/// A consumer's memory for replies, as a multiple of `fetch.max.bytes`. A reply in flight counts twice, as received and as
/// decompressed. A reply of the bulk counts only as decompressed.
const BUFFERS: u64 = REPLIES * (1 + DECOMPRESSED) + BULK_REPLIES * DECOMPRESSED;
/// Batches that a consumer holds: the open one, and the one in flight.
const BATCHES: u64 = 2;
/// The assumed size of a batch's buffers, in percent of what they contain. Buffers grow by doubling, so the true size is between
/// 100 and 200 percent.
const GROWTH_PERCENT: u64 = 150;
/// The assumed size of the smallest row, in bytes: two small columns, and the record that it came from.
const SMALLEST_ROW: u64 = 32;
/// The size of a database connection's own buffers, in bytes.
const CONNECTION_BYTES: u64 = 1 << 20;
const ALLOCATOR_PERCENT: u64 = 125;
/// The memory of the process without any consumer, in bytes: code, runtime, metrics, the page.
const PROCESS_BYTES: u64 = 24 << 20;

const FETCH_MIN: u64 = 64 << 10;
const FETCH_MAX: u64 = 8 << 20;
const QUEUE_MIN_KBYTES: u64 = 512;
/// The largest size of librdkafka's queue. A longer queue doesn't make a drain faster. Its records have left the CPU's caches
/// before they are taken: with 64 MiB, the CPU time per record was a fifth higher than with 16 MiB.
const QUEUE_MAX_KBYTES: u64 = 16 << 10;

/// librdkafka's settings that limit how much one consumer fetches in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// `queued.max.messages.kbytes`
    pub queued_kbytes: u64,
    /// `queued.min.messages`
    pub queued_messages: u64,
    /// `fetch.max.bytes`
    pub fetch_bytes: u64,
    /// `fetch.message.max.bytes`: the limit for one partition's part of a reply
    pub fetch_partition_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The limits on the prefetch of one consumer.
    pub prefetch: Prefetch,
    /// The most memory that all consumers of the pipeline together may use, in bytes.
    pub bytes: u64,
}

/// Returns a pipeline's share of the memory budget. Each pipeline has the same guaranteed share, so that none can take
/// another's.
///
/// # Errors
/// If the share is too small for the pipeline's batches and the smallest prefetch. The text says how much is needed, and what
/// to change.
pub fn share(config: &Config, pipeline: &Pipeline) -> Result<Share, String> {
    let pipelines = config.pipelines.len() as u64;
    let consumers = u64::from(pipeline.consumers.get());
    let part = for_pipelines(config) / pipelines.max(1);
    let a_consumer = part * 100 / ALLOCATOR_PERCENT / consumers;
    let batches = BATCHES * pipeline.batch.max_bytes * GROWTH_PERCENT / 100 + CONNECTION_BYTES + picking(pipeline);
    let smallest = batches + BUFFERS * FETCH_MIN + queue_bytes(QUEUE_MIN_KBYTES);
    if a_consumer < smallest {
        let needed = (smallest * consumers * ALLOCATOR_PERCENT / 100) * pipelines + PROCESS_BYTES;
        return Err(format!(
            "`limits.memory` is {} MiB, and pipeline `{}` with {consumers} consumers needs {} MiB: raise it, or lower `batch.max_bytes` or `consumers`",
            config.limits.memory >> 20,
            pipeline.name,
            needed.div_ceil(1 << 20)
        ));
    }
    let left = a_consumer - batches;
    let fetch_bytes = (left / 3 / BUFFERS).clamp(FETCH_MIN, FETCH_MAX);
    let queue = left - BUFFERS * fetch_bytes;
    let queued_kbytes =
        (queue * RECORD_ASSUMED / (RECORD_ASSUMED + MESSAGE_OVERHEAD) / 1024).clamp(QUEUE_MIN_KBYTES, QUEUE_MAX_KBYTES);
    let prefetch = Prefetch {
        queued_kbytes,
        // This count is a threshold per partition, so it can't be the limit on memory. It only has to be so high that
        // the limit in bytes stops the fetcher first.
        queued_messages: (queued_kbytes * 1024 / RECORD_ASSUMED).max(1000),
        fetch_bytes,
        fetch_partition_bytes: fetch_bytes / 2,
    };
    let used = batches + BUFFERS * fetch_bytes + queue_bytes(queued_kbytes);
    Ok(Share { prefetch, bytes: used * consumers * ALLOCATOR_PERCENT / 100 })
}

/// Returns how much of `limits.memory` all pipelines together may hold, in bytes.
pub fn for_pipelines(config: &Config) -> u64 {
    config.limits.memory.saturating_sub(PROCESS_BYTES)
}

/// Returns the memory, in bytes, that an upsert needs to find which row of a batch wins for each key.
fn picking(pipeline: &Pipeline) -> u64 {
    let rows = u64::from(pipeline.batch.max_rows.get()).min(pipeline.batch.max_bytes / SMALLEST_ROW);
    if matches!(pipeline.table.mode, WriteMode::Upsert { .. }) { rows * BYTES_PER_ROW } else { 0 }
}

fn queue_bytes(kbytes: u64) -> u64 {
    kbytes * 1024 * (RECORD_ASSUMED + MESSAGE_OVERHEAD) / RECORD_ASSUMED
}
