//! `partition_by = { column = "ts", interval = "1 day", ahead = 2 }`: range partitions by time.

use std::num::NonZeroU32;
use std::time::Duration;

/// How a table is partitioned by time. Partitions are created in advance, and removed after their retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBy {
    /// The column by which the table is partitioned. Its type is timestamptz, timestamp or date.
    pub column: String,
    /// How much time a partition covers, in UTC.
    pub interval: Interval,
    /// The number of intervals after the current one whose partitions are created in advance. Default 2.
    pub ahead: u32,
    /// Partitions whose end is longer ago than this are removed. `None` means that no partition is removed.
    pub retention: Option<Duration>,
    /// How expired partitions are removed.
    pub expired: Expiry,
    /// Whether to create a DEFAULT partition, for rows that belong to no other partition.
    pub default: bool,
}

/// How much time a partition covers: a number of whole units. Partitions begin at multiples of the interval in UTC: hours and
/// days are counted from 1970-01-01, weeks from the Monday before that day, months from the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The number of units.
    pub count: NonZeroU32,
    pub unit: IntervalUnit,
}

/// A unit of [`Interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalUnit {
    /// `"1 hour"`
    Hour,
    /// `"1 day"`
    Day,
    /// `"1 week"`
    Week,
    /// `"1 month"`
    Month,
}

/// How a partition is removed after its retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// The partition is detached, and remains as a separate table.
    #[default]
    Detach,
    /// The partition is dropped with all its rows.
    Drop,
}
