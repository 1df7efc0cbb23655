//! A batch: encoded rows beside the raw records they came from, in the order of delivery. Pure.
//!
//! Everything lies in a few large buffers that are used again, whatever the number of partitions: the rows as COPY sends
//! them, an arena of raw records, one entry per record, and *runs*, which map stretches of records to segments.
//! A [`Segment`] is one claim of one partition, with the offsets that its records cover. A partition that is revoked or
//! superseded is dropped by leaving its runs out; the raw bytes make dead letters exact, and let rows be encoded again after
//! the catalog changed.
//!
//! The books balance: every record has rows, or is a reject, or was skipped by rule. [`Batch::seal`] asserts it.

mod window;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::position::{Claim, Offset, TopicPartition};
use crate::record::{Headers, Record};

/// When a batch is closed: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows. Default 50 000.
    pub max_rows: NonZeroU32,
    /// Encoded rows and raw records together, in bytes; one record always fits. Default 8 MiB.
    pub max_bytes: u64,
    /// Since the first record joined. Default 500 ms.
    pub max_age: Duration,
}

/// A record as it is delivered, before it joins a batch.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// A record that doesn't become rows: why, in a code for the metric and words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The record's place in the batch.
    pub record: u32,
    /// A stable code: the label of `dead_letters_total`.
    pub reason: &'static str,
    /// The SQLSTATE, where Postgres refused it.
    pub sqlstate: Option<Box<str>>,
    /// The column, where one is at fault.
    pub column: Option<Box<str>>,
    /// What, where and why.
    pub detail: Box<str>,
}

/// One claim of one partition within a batch. Its records may lie in several runs.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The partition.
    pub source: TopicPartition,
    /// The claim under which it was consumed.
    pub claim: Claim,
    /// Where the ledger stands when all earlier batches are written.
    pub from: Offset,
    /// Where it stands after this batch: the last delivered offset's successor.
    pub to: Offset,
    /// False once the partition was revoked or superseded: its records are left out.
    pub live: bool,
    /// Records delivered.
    pub records: u32,
    last_record: u32,
}

/// The step by which a write advances one segment's partition in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The segment's place in the batch.
    pub segment: usize,
    /// The partition.
    pub source: TopicPartition,
    /// The claim under which it was consumed.
    pub claim: Claim,
    /// Where the ledger must stand.
    pub from: Offset,
    /// Where it will stand.
    pub to: Offset,
    /// The last record that the span covers, by which the log is known again.
    pub last: LastRecord,
}

/// A record by which a log is known again: the last one committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp_ms: Option<i64>,
    /// FNV-1a over key and value.
    pub digest: i64,
}

/// Why a batch was closed: the label of `batches_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// `max_rows`
    Rows,
    /// `max_bytes`
    Bytes,
    /// `max_age`
    Age,
    /// A partition is leaving.
    Revoke,
    /// The daemon is ending.
    Shutdown,
}

impl Trigger {
    /// The metric's label.
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

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    key_len: i32,
    value_len: i32,
    /// Ends, not starts: the start is the entry before.
    arena_end: u32,
    rows_end: u32,
    /// Rows of this and all earlier records.
    row_count: u32,
}

const NO_TIMESTAMP: i64 = i64::MIN;

#[derive(Clone, Copy, Debug)]
struct Run {
    segment: u32,
    start: u32,
}

/// Records gathered for one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<u8>,
    arena: Vec<u8>,
    entries: Vec<Entry>,
    runs: Vec<Run>,
    segments: Vec<Segment>,
    rejects: Vec<Reject>,
    skipped: u32,
    opened_at: Option<Instant>,
    sealed: Option<Trigger>,
    /// The plan that the rows were encoded by: a writer that knows a newer one encodes again.
    pub plan_version: u64,
}

impl Batch {
    /// An empty batch; buffers grow as records come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties it for use again. Buffers keep their memory up to `keep_bytes` each, so that one huge record isn't paid for
    /// ever.
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
        self.rejects.clear();
        self.skipped = 0;
        self.opened_at = None;
        self.sealed = None;
    }

    /// Opens a segment whose first record will be pushed next.
    pub fn open_segment(&mut self, source: TopicPartition, claim: Claim, from: Offset) -> usize {
        self.segments.push(Segment { source, claim, from, to: from, live: true, records: 0, last_record: 0 });
        self.segments.len() - 1
    }

    /// Adds a record to a segment: the raw bytes go into the arena, `headers` appends those (in the arena's form), and `encode`
    /// makes rows of what lies there. Returns whether the record was accepted by `encode`.
    ///
    /// # Panics
    /// Where the offset lies before the segment's end: the caller sorts out what was delivered twice.
    pub fn push(
        &mut self,
        segment: usize,
        incoming: &Incoming<'_>,
        now: Instant,
        headers: impl FnOnce(&mut Vec<u8>),
        encode: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<u32, Reject>,
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

    fn book(&mut self, outcome: Result<u32, Reject>, index: u32, entry: &mut Entry) -> bool {
        let accepted = outcome.is_ok();
        match outcome {
            Ok(0) => self.skipped += 1,
            Ok(rows) => entry.row_count += rows,
            Err(reject) => self.rejects.push(Reject { record: index, ..reject }),
        }
        entry.rows_end = narrow(self.rows.len());
        accepted
    }

    /// Makes all rows anew, after the catalog changed. Records that fail now become rejects, and the other way round.
    pub fn encode_again(&mut self, mut encode: impl FnMut(&Record<'_>, &mut Vec<u8>) -> Result<u32, Reject>) {
        self.rows.clear();
        self.rejects.clear();
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

    /// Closes the batch. Its segments now cover all pushed records, and no record can be added.
    ///
    /// # Panics
    /// If the record accounting does not balance: a bug of ours that would lose records.
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
            with_rows + narrow(self.rejects.len()) + self.skipped,
            "records consumed = records with rows + rejects + skipped by rule"
        );
        self.sealed = Some(trigger);
    }

    /// Why it was closed, once it is.
    pub fn trigger(&self) -> Option<Trigger> {
        self.sealed
    }

    /// Leaves a segment out of what will be written.
    pub fn drop_segment(&mut self, segment: usize) {
        self.segments[segment].live = false;
    }

    /// The segments, in the order in which they were opened.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Records, dropped segments included.
    pub fn len(&self) -> u32 {
        narrow(self.entries.len())
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Rows, dropped segments included.
    pub fn row_count(&self) -> u32 {
        self.entries.last().map_or(0, |entry| entry.row_count)
    }

    /// Bytes held: rows, raw records and the entries that describe them.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.arena.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Bytes of the encoded rows.
    pub fn row_bytes(&self) -> usize {
        self.rows.len()
    }

    /// When the first record joined: the promise is a bound on staleness, so age counts from the first, not the last.
    pub fn opened_at(&self) -> Option<Instant> {
        self.opened_at
    }

    /// One record's raw bytes.
    pub fn record(&self, index: u32) -> Record<'_> {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.entries[index - 1].arena_end as usize };
        let entry = &self.entries[index];
        let segment = self.segment_of(narrow(index));
        record_of(entry, &self.arena[start..entry.arena_end as usize], &self.segments[segment].source)
    }

    /// The segment that a record belongs to.
    pub fn segment_of(&self, record: u32) -> usize {
        let run = self.runs.partition_point(|run| run.start <= record);
        self.runs[run - 1].segment as usize
    }
}

/// The mark by which a log is known again.
pub fn last_record(record: &Record<'_>) -> LastRecord {
    // FNV-1a, 64 bits (Fowler, Noll, Vo): stable across versions and machines, and one record a batch needs no faster one.
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

/// -1 stands for null, as in Kafka's own protocol.
fn signed_len(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("Kafka's lengths are 32-bit"))
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("batch.max_bytes and Kafka's largest record keep buffers below 4 GiB")
}

#[cfg(test)]
mod tests;
