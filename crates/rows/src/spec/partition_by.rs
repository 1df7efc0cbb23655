//! `partition_by = { column = "ts", interval = "1 day", ahead = 2 }`: range partitions by time.

use std::num::NonZeroU32;
use std::time::Duration;

/// How a table is partitioned by time. Partitions are created in advance, and removed after their retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBy {
    /// Its type is timestamptz, timestamp or date.
    pub column: String,
    pub interval: Interval,
    /// The number of intervals after the current one whose partitions are created in advance.
    pub ahead: u32,
    /// A partition is removed when its end is longer ago than this. `None`: no partition is removed.
    pub retention: Option<Duration>,
    pub expired: Expiry,
    /// Whether to create a DEFAULT partition, for rows that belong to no other partition.
    pub default: bool,
}

/// How much time a partition covers: `count` whole units. Partitions begin at multiples of the interval in UTC. Hours and days
/// are counted from 1970-01-01, weeks from the Monday before that day, and months from January of the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub count: NonZeroU32,
    pub unit: IntervalUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalUnit {
    Hour,
    Day,
    Week,
    Month,
}

/// How a partition is removed when its retention is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// The partition is detached, and remains as a separate table.
    #[default]
    Detach,
    /// The partition is dropped with all its rows.
    Drop,
}
