//! The part of a batch that one transaction writes: the rows, rejected records and spans of the live segments within a window.

use std::ops::Range;

use super::{Batch, NO_TIMESTAMP, RejectedRecord, Segment, Span, last_record, narrow};
use crate::position::Offset;

impl Batch {
    /// Returns the rejected records of live segments within a window of records, in the order of delivery.
    pub fn rejected_records(&self, window: Range<u32>) -> impl Iterator<Item = &RejectedRecord> {
        self.rejected_records
            .iter()
            .filter(move |reject| window.contains(&reject.record) && self.segments[self.segment_of(reject.record)].live)
    }

    /// Returns the index of the record to which row number `nth` belongs; `None` if there are fewer rows. The rows are
    /// those that [`Batch::copy_ranges`] returns for the same window, counted from 0.
    pub fn record_of_row(&self, window: Range<u32>, nth: u32) -> Option<u32> {
        let mut left = nth;
        for (_, records) in self.live_runs(window) {
            let base = self.rows_before(records.start);
            let rows = self.rows_before(records.end) - base;
            if left < rows {
                let row = base + left;
                return Some(narrow(self.entries.partition_point(|entry| entry.row_count <= row)));
            }
            left -= rows;
        }
        None
    }

    /// Returns the encoded rows of live segments within a window of records, in as few slices as possible. If no
    /// segment was dropped, there is at most one slice.
    pub fn copy_ranges(&self, window: Range<u32>) -> impl Iterator<Item = &[u8]> {
        let mut runs = self.live_runs(window).peekable();
        std::iter::from_fn(move || {
            let (_, mut records) = runs.next()?;
            while let Some((_, next)) = runs.next_if(|(_, next)| next.start == records.end) {
                records.end = next.end;
            }
            Some(&self.rows[self.bytes_before(records.start)..self.bytes_before(records.end)])
        })
    }

    /// Returns the number of rows of live segments within a window of records.
    pub fn rows_in(&self, window: Range<u32>) -> u32 {
        self.live_runs(window).map(|(_, run)| self.rows_before(run.end) - self.rows_before(run.start)).sum()
    }

    /// Returns the number of records of live segments within a window.
    pub fn records_in(&self, window: Range<u32>) -> u32 {
        self.live_runs(window).map(|(_, run)| run.end - run.start).sum()
    }

    /// Returns the spans by which the ledger advances when the window's live records are written. There is one span for each
    /// segment that has live records in the window, in order of topic and partition. All writers lock ledger rows in this
    /// order, so they can't deadlock.
    pub fn spans(&self, window: Range<u32>) -> Vec<Span> {
        // For each segment, the offset of the ledger before the window, and the index of the segment's last record in the
        // window.
        let mut covered: Vec<Option<(Offset, u32)>> = vec![None; self.segments.len()];
        for (segment, records) in self.live_runs(window.clone()) {
            let from = covered[segment].map_or_else(|| self.end_before(segment, window.start), |(from, _)| from);
            covered[segment] = Some((from, records.end - 1));
        }
        let mut spans: Vec<Span> = covered
            .into_iter()
            .enumerate()
            .filter_map(|(segment, covered)| {
                let (from, last) = covered?;
                let last = last_record(&self.record(last));
                let Segment { source, claim, .. } = &self.segments[segment];
                Some(Span { segment, source: source.clone(), claim: *claim, from, to: last.offset.successor(), last })
            })
            .collect();
        spans.sort_by(|a, b| a.source.cmp(&b.source));
        spans
    }

    /// Returns the timestamps of a window's live records, for the latency from record to commit. Records without a timestamp
    /// are left out.
    pub fn timestamps(&self, window: Range<u32>) -> impl Iterator<Item = i64> {
        self.live_runs(window)
            .flat_map(|(_, run)| self.entries[run.start as usize..run.end as usize].iter())
            .map(|entry| entry.timestamp_ms)
            .filter(|timestamp| *timestamp != NO_TIMESTAMP)
    }

    /// Returns the offset at which the ledger is for the segment's partition before record number `record` of the batch is
    /// written. This is the offset after the segment's last earlier record; if there is none, the segment's `from`.
    fn end_before(&self, segment: usize, record: u32) -> Offset {
        let earlier = self.all_runs().take_while(|(_, run)| run.start < record).filter(|(index, _)| *index == segment);
        match earlier.last() {
            Some((_, run)) => Offset::new(self.entries[run.end.min(record) as usize - 1].offset).successor(),
            None => self.segments[segment].from,
        }
    }

    fn rows_before(&self, record: u32) -> u32 {
        if record == 0 { 0 } else { self.entries[record as usize - 1].row_count }
    }

    fn bytes_before(&self, record: u32) -> usize {
        if record == 0 { 0 } else { self.entries[record as usize - 1].rows_end as usize }
    }

    fn all_runs(&self) -> impl Iterator<Item = (usize, Range<u32>)> + '_ {
        let ends = self.runs.iter().skip(1).map(|run| run.start).chain(std::iter::once(self.len()));
        self.runs.iter().zip(ends).map(|(run, end)| (run.segment as usize, run.start..end))
    }

    pub(super) fn runs_owned(&self) -> Vec<(usize, Range<u32>)> {
        self.all_runs().collect()
    }

    fn live_runs(&self, window: Range<u32>) -> impl Iterator<Item = (usize, Range<u32>)> + '_ {
        let first = self.runs.partition_point(|run| run.start <= window.start).saturating_sub(1);
        self.all_runs()
            .skip(first)
            .take_while(move |(_, run)| run.start < window.end)
            .filter(|(segment, _)| self.segments[*segment].live)
            .map(move |(segment, run)| (segment, run.start.max(window.start)..run.end.min(window.end)))
            .filter(|(_, run)| !run.is_empty())
    }
}
