//! A batch: encoded rows together with the raw records they came from, in the order of delivery. No I/O.
//!
//! A batch has a few large buffers, which are reused. Their number doesn't depend on the number of partitions:
//! - the rows as COPY sends them
//! - the *arena*, which contains the raw records
//! - one entry per record
//! - the *runs*, which map ranges of records to segments
//!
//! A [`Segment`] is the part of the batch that belongs to one claim of one partition. The records of a dropped segment stay in
//! the buffers, but aren't written. The raw records are kept for dead letters, and to encode the rows again after a catalog
//! change.
//!
//! Record accounting: every record has rows, or is rejected, or is skipped by a rule, for example the row filter.
//! [`Batch::seal`] asserts that the three numbers add up to the number of records.

mod window;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::position::{Claim, Offset, TopicPartition};
use crate::record::{Headers, Record};

/// The limits at which a batch is closed. The batch is closed as soon as it has reached one of them and the writer is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The number of rows at which a batch is closed. Twice this number of records closes the batch too, because records may have
    /// no rows. Default 50 000.
    pub max_rows: NonZeroU32,
    /// The size in bytes of rows, raw records and entries together. The limit is checked before a record is added, so the last
    /// record of a batch may exceed it. Default 8 MiB.
    pub max_bytes: u64,
    /// In the configuration: the highest age that a record should have when its row is committed. Default 500 ms. A session gets
    /// a smaller value, because the broker may hold a record back before it is fetched.
    ///
    /// In a session: the longest time from the first record of a batch to its commit. The batch is closed earlier, see
    /// [`FlushDeadline`](crate::flush_deadline::FlushDeadline).
    pub max_age: Duration,
}

/// A record as Kafka delivered it, before it is added to a batch.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub offset: Offset,
    /// In milliseconds since 1970; `None` if the record has no timestamp.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// A record that can't become rows. `record` is its index in the batch; an encoder need not set it, because the batch does.
/// `reason` is a label value of `dead_letters_total`. `detail` says for people what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    pub record: u32,
    pub reason: &'static str,
    /// The SQLSTATE, if Postgres refused the record.
    pub sqlstate: Option<Box<str>>,
    /// The column at fault, if there is one.
    pub column: Option<Box<str>>,
    pub detail: Box<str>,
}

/// The part of a batch that was consumed under one claim of one partition. Records of other segments may lie between its records.
#[derive(Clone, Debug)]
pub struct Segment {
    pub source: TopicPartition,
    pub claim: Claim,
    /// The ledger's position in this partition once all earlier batches are written.
    pub from: Offset,
    /// The ledger's position in this partition after this batch: the offset after the last delivered one.
    pub to: Offset,
    /// Whether the segment's records are to be written. False once the segment was dropped, for example because its partition
    /// was revoked.
    pub live: bool,
    pub records: u32,
    last_record: u32,
}

/// The range of offsets by which a write advances one partition in the ledger. Before the write, the partition's ledger row must
/// have `claim` and be at `from`. After the write, it is at `to`. `segment` is the index of the written segment in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub segment: usize,
    pub source: TopicPartition,
    pub claim: Claim,
    pub from: Offset,
    pub to: Offset,
    /// The last record that the span covers. The ledger stores it, so that a later claim can check whether it reads the same
    /// log.
    pub last: LastRecord,
}

/// The last committed record of a partition. It identifies the log: in a recreated topic, this offset has another record, or
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    pub offset: Offset,
    pub timestamp_ms: Option<i64>,
    /// FNV-1a over the length of the key, the length of the value, the key and the value.
    pub digest: i64,
}

/// Why a batch was closed: a label value of `batches_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The batch reached `max_rows` rows, or twice as many records.
    Rows,
    Bytes,
    /// The batch reached its flush deadline, which depends on `max_age`.
    Age,
    Revoke,
    /// The consumer leaves the group: the daemon or the pipeline is ending, or the consumer is rebuilt.
    Shutdown,
}

impl Trigger {
    pub fn label(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Revoke => "revoke",
            Self::Shutdown => "shutdown",
        }
    }
}

/// One record of a batch. `arena_end`, `rows_end` and `row_count` are totals from the beginning of the batch. For example, if an
/// entry has the `row_count` 3 and the next one has 5, the second record has two rows.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    key_len: i32,
    value_len: i32,
    arena_end: u32,
    rows_end: u32,
    row_count: u32,
}

const NO_TIMESTAMP: i64 = i64::MIN;

#[derive(Clone, Copy, Debug)]
struct Run {
    segment: u32,
    start: u32,
}

/// Records gathered for one write, and the rows encoded from them. Usually one transaction writes them all.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<u8>,
    arena: Vec<u8>,
    entries: Vec<Entry>,
    runs: Vec<Run>,
    segments: Vec<Segment>,
    rejected_records: Vec<RejectedRecord>,
    skipped: u32,
    opened_at: Option<Instant>,
    sealed: Option<Trigger>,
    /// The version of the plan that encoded the rows (see [`Planner`](crate::store::Planner)). A writer with a
    /// newer plan encodes the rows again.
    pub plan_version: u64,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Clears the batch for reuse. The buffers of rows, raw records and entries keep at most `keep_bytes` of memory each, so
    /// that a huge record doesn't occupy memory forever.
    pub fn clear(&mut self, keep_bytes: usize) {
        fn reset<T>(buffer: &mut Vec<T>, keep_bytes: usize) {
            buffer.clear();
            if buffer.capacity().saturating_mul(size_of::<T>()) > keep_bytes {
                buffer.shrink_to(keep_bytes / size_of::<T>().max(1));
            }
        }
        reset(&mut self.rows, keep_bytes);
        reset(&mut self.arena, keep_bytes);
        reset(&mut self.entries, keep_bytes);
        self.runs.clear();
        self.segments.clear();
        self.rejected_records.clear();
        self.skipped = 0;
        self.opened_at = None;
        self.sealed = None;
    }

    /// Opens a segment. `from` is the partition's offset in the ledger once all earlier batches are written. Returns the
    /// segment's index, for [`Batch::push`].
    pub fn open_segment(&mut self, source: TopicPartition, claim: Claim, from: Offset) -> usize {
        self.segments.push(Segment { source, claim, from, to: from, live: true, records: 0, last_record: 0 });
        self.segments.len() - 1
    }

    /// Adds a record to a segment. `headers` appends the record's headers to the arena, in the form of [`Headers`]. `encode`
    /// appends the record's rows, and returns their number. Returns whether `encode` accepted the record.
    ///
    /// # Panics
    /// If the batch is sealed. Also if the offset is before the segment's end: the caller must ignore records that were delivered
    /// before.
    pub fn push(
        &mut self,
        segment: usize,
        incoming: &Incoming<'_>,
        now: Instant,
        headers: impl FnOnce(&mut Vec<u8>),
        encode: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<u32, RejectedRecord>,
    ) -> bool {
        assert!(self.sealed.is_none(), "a sealed batch takes no record");
        let index = narrow(self.entries.len());
        let target = &mut self.segments[segment];
        assert!(incoming.offset >= target.to, "a segment's offsets only grow");
        target.to = incoming.offset.successor();
        target.records += 1;
        target.last_record = index;
        let segment_index = narrow(segment);
        if self.runs.last().is_none_or(|run| run.segment != segment_index) {
            self.runs.push(Run { segment: segment_index, start: index });
        }
        self.opened_at.get_or_insert(now);

        let start = self.arena.len();
        self.arena.extend_from_slice(incoming.key.unwrap_or_default());
        self.arena.extend_from_slice(incoming.value.unwrap_or_default());
        headers(&mut self.arena);
        let row_count = self.entries.last().map_or(0, |entry| entry.row_count);
        let mut entry = Entry {
            offset: incoming.offset.get(),
            timestamp_ms: incoming.timestamp_ms.unwrap_or(NO_TIMESTAMP),
            key_len: signed_len(incoming.key),
            value_len: signed_len(incoming.value),
            arena_end: narrow(self.arena.len()),
            rows_end: 0,
            row_count,
        };
        let record = record_of(&entry, &self.arena[start..], &self.segments[segment].source);
        let outcome = encode(&record, &mut self.rows);
        let accepted = self.book(outcome, index, &mut entry);
        self.entries.push(entry);
        accepted
    }

    fn book(&mut self, outcome: Result<u32, RejectedRecord>, index: u32, entry: &mut Entry) -> bool {
        let accepted = outcome.is_ok();
        match outcome {
            Ok(0) => self.skipped += 1,
            Ok(rows) => entry.row_count += rows,
            Err(reject) => self.rejected_records.push(RejectedRecord { record: index, ..reject }),
        }
        entry.rows_end = narrow(self.rows.len());
        accepted
    }

    /// Encodes all rows again, after the catalog changed. A record that had rows may be rejected now, and a rejected record may
    /// get rows.
    pub fn encode_again(&mut self, mut encode: impl FnMut(&Record<'_>, &mut Vec<u8>) -> Result<u32, RejectedRecord>) {
        self.rows.clear();
        self.rejected_records.clear();
        self.skipped = 0;
        let (mut row_count, mut arena_start) = (0, 0);
        for (segment, records) in self.runs_owned() {
            for index in records {
                let mut entry = self.entries[index as usize];
                let arena_end = entry.arena_end as usize;
                let record = record_of(&entry, &self.arena[arena_start..arena_end], &self.segments[segment].source);
                entry.row_count = row_count;
                let outcome = encode(&record, &mut self.rows);
                self.book(outcome, index, &mut entry);
                row_count = entry.row_count;
                arena_start = arena_end;
                self.entries[index as usize] = entry;
            }
        }
    }

    /// Closes the batch, so that no record can be added any more, and checks the record accounting.
    ///
    /// # Panics
    /// If the record accounting does not add up. That is a bug of Tidegate, which would lose records.
    pub fn seal(&mut self, trigger: Trigger) {
        let consumed: u32 = self.segments.iter().map(|segment| segment.records).sum();
        let mut with_rows = 0;
        let mut before = 0;
        for entry in &self.entries {
            with_rows += u32::from(entry.row_count > before);
            before = entry.row_count;
        }
        assert_eq!(
            consumed,
            with_rows + narrow(self.rejected_records.len()) + self.skipped,
            "records consumed = records with rows + rejected records + skipped by rule"
        );
        self.sealed = Some(trigger);
    }

    /// Returns why the batch was closed; `None` while it is open.
    pub fn trigger(&self) -> Option<Trigger> {
        self.sealed
    }

    /// Excludes a segment's records from the write.
    pub fn drop_segment(&mut self, segment: usize) {
        self.segments[segment].live = false;
    }

    /// Returns the segments, in the order in which they were opened.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the number of records, dropped segments included.
    pub fn len(&self) -> u32 {
        narrow(self.entries.len())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of rows, dropped segments included.
    pub fn row_count(&self) -> u32 {
        self.entries.last().map_or(0, |entry| entry.row_count)
    }

    /// Returns the memory used, in bytes, by rows, raw records, and the entries that describe the records.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.arena.len() + self.entries.len() * size_of::<Entry>()
    }

    pub fn row_bytes(&self) -> usize {
        self.rows.len()
    }

    /// Returns when the first record was added; `None` if there is none. The batch's age counts from this time.
    pub fn opened_at(&self) -> Option<Instant> {
        self.opened_at
    }

    pub fn record(&self, index: u32) -> Record<'_> {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.entries[index - 1].arena_end as usize };
        let entry = &self.entries[index];
        let segment = self.segment_of(narrow(index));
        record_of(entry, &self.arena[start..entry.arena_end as usize], &self.segments[segment].source)
    }

    pub fn segment_of(&self, record: u32) -> usize {
        let run = self.runs.partition_point(|run| run.start <= record);
        self.runs[run - 1].segment as usize
    }
}

/// Returns offset, timestamp and digest of a record. A later claim identifies the log by them.
pub fn last_record(record: &Record<'_>) -> LastRecord {
    // FNV-1a, 64 bits (Fowler, Noll, Vo): stable across versions and machines. Its speed doesn't matter, because only about one
    // record per span and one per claim are digested.
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    let lengths = [signed_len(record.key).to_le_bytes(), signed_len(record.value).to_le_bytes()];
    let bytes = lengths.iter().flatten().chain(record.key.unwrap_or_default()).chain(record.value.unwrap_or_default());
    for byte in bytes {
        digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    LastRecord {
        offset: Offset::new(record.offset),
        timestamp_ms: record.timestamp_ms,
        digest: i64::from_ne_bytes(digest.to_ne_bytes()),
    }
}

fn record_of<'a>(entry: &Entry, bytes: &'a [u8], source: &'a TopicPartition) -> Record<'a> {
    let key_len = usize::try_from(entry.key_len).ok();
    let value_len = usize::try_from(entry.value_len).ok();
    let (key, rest) = bytes.split_at(key_len.unwrap_or(0));
    let (value, headers) = rest.split_at(value_len.unwrap_or(0));
    Record {
        topic: &source.topic,
        partition: source.partition,
        offset: entry.offset,
        timestamp_ms: Some(entry.timestamp_ms).filter(|timestamp| *timestamp != NO_TIMESTAMP),
        key: key_len.map(|_| key),
        value: value_len.map(|_| value),
        headers: Headers::from_arena(headers),
    }
}

/// Returns the length as in Kafka's protocol, where -1 means null.
fn signed_len(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("Kafka's lengths are 32-bit"))
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("batch.max_bytes and Kafka's largest record keep buffers below 4 GiB")
}

#[cfg(test)]
mod tests;
