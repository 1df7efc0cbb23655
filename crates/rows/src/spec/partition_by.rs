//! `partition_by = { column = "ts", interval = "1 day", ahead = 2 }`: range partitions by time.

use std::num::NonZeroU32;
use std::time::Duration;

/// Range partitions by time, made ahead of need and let go past a retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBy {
    /// The column that the table is partitioned by: a timestamptz, timestamp or date.
    pub column: String,
    /// How much time a partition holds, in UTC.
    pub interval: Interval,
    /// How many intervals after the present one have their partition. Default 2.
    pub ahead: u32,
    /// Partitions whose time ended longer ago than this are let go. `None`: they stay.
    pub retention: Option<Duration>,
    /// How they are let go.
    pub expired: Expiry,
    /// Make a default partition, which takes what has no other.
    pub default: bool,
}

/// How much time a partition holds: so many whole units since 1970 (weeks begin on Monday).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// How many.
    pub count: NonZeroU32,
    /// Of what.
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

/// The policy for a partition past its retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// It is detached, and stays as a table of its own.
    #[default]
    Detach,
    /// It is dropped with all that is in it.
    Drop,
}
