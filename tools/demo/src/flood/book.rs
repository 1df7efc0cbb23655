//! The history of each record: when it was due, sent, answered and committed, and how often it was written.
//!
//! No I/O. Times are microseconds since the schedule's start.

use crate::numbers::quantile;

/// The time of an event that hasn't happened.
pub(crate) const NEVER: u32 = u32::MAX;

/// The history of one record. The times are in microseconds since the schedule's start, or [`NEVER`]:
///
/// - `due`: when the record should be sent. All waits count from this time.
/// - `sent`: when it was sent, or was dropped because the buffer was full.
/// - `acked`: when the sender was told that the record is safe.
/// - `freed`: when it left the bounded buffer.
/// - `committed`: when Postgres committed its first row, by the commit timestamp. The table has `copies` rows of the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) due: u32,
    pub(crate) sent: u32,
    pub(crate) acked: u32,
    pub(crate) freed: u32,
    pub(crate) committed: u32,
    /// When a process was killed that had acknowledged the record but not written it.
    pub(crate) lost: u32,
    /// The length of the record's JSON, in bytes.
    pub(crate) bytes: u16,
    pub(crate) copies: u8,
    /// Whether the record was dropped because the buffer was full, or given up by the receiver.
    pub(crate) refused: bool,
}

/// All records of a run, by index.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) marks: Vec<Mark>,
}

/// The counts of one bin, an interval of the run that is usually half a second long. A record counts as `intended` in the bin in
/// which it was due. It counts as `sent`, `acked` and `committed` in the bins in which that happened. A refused record counts
/// only as `intended` and, in the bin in which it was sent or dropped, as `refused`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bin {
    /// The end of the bin, in seconds since the start.
    pub(crate) second: f64,
    pub(crate) intended: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) committed: u64,
    /// How many records had been sent by the end of the bin but were not in the table. Refused records don't count, and neither
    /// do records that were lost by then.
    pub(crate) backlog: u64,
    /// How many bytes were in the bounded buffer at the end of the bin.
    pub(crate) buffer_bytes: u64,
    /// Waits of the records due in the bin, in microseconds: median, 99th percentile and longest. A record waits from its
    /// intended time until its acknowledgement, or until the end of the run. Refused records don't count. `None` if no record
    /// counts.
    pub(crate) wait_p50: Option<u32>,
    pub(crate) wait_p99: Option<u32>,
    pub(crate) wait_max: Option<u32>,
}

/// The record accounting of a run. The table has `rows` rows of `in_table` distinct records. The difference is `twice`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) intended: u64,
    pub(crate) refused: u64,
    pub(crate) acked: u64,
    pub(crate) rows: u64,
    pub(crate) in_table: u64,
    pub(crate) twice: u64,
    /// Records that were acknowledged but are not in the table. Their data was lost.
    pub(crate) missing: u64,
    /// Records that were neither acknowledged nor refused, and weren't in the table at the end of the run.
    pub(crate) waiting: u64,
    /// The longest time from a record's intended time until its acknowledgement, or until the end of the run; in microseconds.
    /// Refused records don't count.
    pub(crate) longest_wait: u32,
}

impl Book {
    /// Adds a record that was sent, or dropped because the buffer was full. Records are added in order of their index.
    pub(crate) fn sent(&mut self, due: u32, sent: u32, bytes: usize) {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let (acked, freed, committed, lost) = (NEVER, NEVER, NEVER, NEVER);
        self.marks.push(Mark { due, sent, acked, freed, committed, lost, bytes, copies: 0, refused: false });
    }

    pub(crate) fn mark(&mut self, index: u32) -> Option<&mut Mark> {
        self.marks.get_mut(index as usize)
    }

    /// Adds a row of the table, committed at the time `committed`. The earliest commit of a record's rows counts.
    pub(crate) fn row(&mut self, index: u32, committed: u32) {
        if let Some(mark) = self.mark(index) {
            mark.committed = mark.committed.min(committed);
            mark.copies = mark.copies.saturating_add(1);
        }
    }

    /// Returns how many records had been sent by the time `at`, but were not in the table then. Refused records don't count. A
    /// record that is lost with a killed writer counts until the kill.
    pub(crate) fn backlog(&self, at: u32) -> u64 {
        let taken = self.marks.iter().filter(|mark| !mark.refused && mark.sent <= at);
        taken.filter(|mark| mark.left() > at).count() as u64
    }

    /// Returns the first time after `from` at which the backlog is at most `rest` records. Looks only at every 50 ms up to `end`.
    /// `None` if there is no such time.
    pub(crate) fn caught_up(&self, from: u32, end: u32, rest: u64) -> Option<u32> {
        const STEP: usize = 50_000;
        let mut change = vec![0i64; (end as usize) / STEP + 2];
        for mark in self.marks.iter().filter(|mark| !mark.refused) {
            if let Some(bin) = change.get_mut(mark.sent as usize / STEP) {
                *bin += 1;
            }
            if let Some(bin) = change.get_mut(mark.left() as usize / STEP) {
                *bin -= 1;
            }
        }
        let mut backlog = 0;
        for (step, change) in change.iter().enumerate() {
            backlog += change;
            // The last step may be shorter than the others.
            let at = u32::try_from((step + 1) * STEP).unwrap_or(NEVER).min(end);
            if at > from && backlog.unsigned_abs() <= rest {
                return Some(at);
            }
        }
        None
    }

    /// Returns the counts of the run up to `end`, in bins of `width` microseconds.
    pub(crate) fn bins(&self, width: u32, end: u32) -> Vec<Bin> {
        let count = end.div_ceil(width) as usize;
        let mut bins = vec![Bin::default(); count];
        let (mut taken, mut freed) = (vec![0u64; count], vec![0u64; count]);
        let (mut entered, mut left) = (vec![0u64; count], vec![0u64; count]);
        let mut waits: Vec<Vec<u32>> = vec![Vec::new(); count];
        let bin = |at: u32| (at / width) as usize;
        for mark in &self.marks {
            let sent = bin(mark.sent);
            add(&mut bins, bin(mark.due), |bin| bin.intended += 1);
            if mark.refused {
                add(&mut bins, sent, |bin| bin.refused += 1);
                continue;
            }
            add(&mut bins, sent, |bin| bin.sent += 1);
            add(&mut bins, bin(mark.acked), |bin| bin.acked += 1);
            add(&mut bins, bin(mark.committed), |bin| bin.committed += 1);
            add(&mut taken, sent, |sum| *sum += u64::from(mark.bytes));
            add(&mut freed, bin(mark.freed), |sum| *sum += u64::from(mark.bytes));
            add(&mut entered, sent, |sum| *sum += 1);
            add(&mut left, bin(mark.left()), |sum| *sum += 1);
            add(&mut waits, bin(mark.due), |waits| waits.push(mark.waited(end)));
        }
        let (mut backlog, mut buffer) = (0u64, 0u64);
        for (at, bin) in bins.iter_mut().enumerate() {
            backlog = (backlog + entered[at]).saturating_sub(left[at]);
            buffer = (buffer + taken[at]).saturating_sub(freed[at]);
            bin.second = f64::from(width) * (at + 1) as f64 / 1e6;
            (bin.backlog, bin.buffer_bytes) = (backlog, buffer);
            bin.wait_p50 = quantile(&mut waits[at], 0.5);
            bin.wait_p99 = quantile(&mut waits[at], 0.99);
            bin.wait_max = quantile(&mut waits[at], 1.0);
        }
        bins
    }

    pub(crate) fn tally(&self, end: u32) -> Tally {
        let mut tally = Tally { intended: self.marks.len() as u64, ..Tally::default() };
        for mark in &self.marks {
            let copies = u64::from(mark.copies);
            tally.rows += copies;
            tally.in_table += copies.min(1);
            tally.twice += copies.saturating_sub(1);
            if mark.refused {
                tally.refused += 1;
                continue;
            }
            let is_acked = mark.acked != NEVER;
            tally.acked += u64::from(is_acked);
            tally.missing += u64::from(is_acked && copies == 0);
            tally.waiting += u64::from(!is_acked && copies == 0);
            tally.longest_wait = tally.longest_wait.max(mark.waited(end));
        }
        tally
    }

    /// Returns the median and the 99th percentile of the time from a record's intended time to its commit. Only records that were
    /// due before `until` and are in the table count.
    pub(crate) fn commit_latency(&self, until: u32) -> Option<(u32, u32)> {
        let early = self.marks.iter().filter(|mark| mark.due < until && mark.committed != NEVER);
        let mut latencies: Vec<u32> = early.map(|mark| mark.committed.saturating_sub(mark.due)).collect();
        Some((quantile(&mut latencies, 0.5)?, quantile(&mut latencies, 0.99)?))
    }
}

impl Mark {
    /// Returns when the record left the backlog, because it was committed or lost.
    fn left(&self) -> u32 {
        if self.committed == NEVER { self.lost } else { self.committed }
    }

    fn waited(&self, end: u32) -> u32 {
        self.acked.min(end).saturating_sub(self.due)
    }
}

/// Changes the bin with this index. An index after the last bin is ignored.
fn add<T>(bins: &mut [T], at: usize, change: impl FnOnce(&mut T)) {
    if let Some(bin) = bins.get_mut(at) {
        change(bin);
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
