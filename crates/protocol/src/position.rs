//! Partitions, offsets in them, and claims of them.
//!
//! An [`Offset`] is the position of a record, or of the next record to read. The two are easily confused, because they
//! differ by 1. So callers advance an offset only by [`Offset::successor`], and never by arithmetic on its number.

use std::fmt;
use std::sync::Arc;

/// One partition of one topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The position of a record in its partition's log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(i64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// Wraps Kafka's number. Negative values are Kafka's special markers, never positions: they become 0.
    pub fn new(raw: i64) -> Self {
        Self(raw.max(0))
    }

    pub fn get(self) -> i64 {
        self.0
    }

    #[must_use]
    pub fn successor(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the number of offsets from `earlier` to this one; 0 if this one is not later.
    pub fn distance_from(self, earlier: Offset) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a claim. The id is random, so that no two claims have the same one, even in copies of a database.
pub type ClaimId = uuid::Uuid;

/// Ownership of a partition in the ledger. A write advances the ledger only if the ledger has the same claim, so a
/// later claim fences all earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub id: ClaimId,
    /// The claim's number. Each new claim of a partition gets a higher number. So if the number in the ledger is lower
    /// than ours, the database was restored, or the ledger row was recreated.
    pub epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_steps_by_its_successor_and_is_never_negative() {
        assert_eq!(Offset::new(-1001), Offset::ZERO);
        assert_eq!(Offset::new(41).successor().get(), 42);
        assert_eq!(Offset::new(42).distance_from(Offset::new(40)), 2);
        assert_eq!(Offset::new(40).distance_from(Offset::new(42)), 0);
    }

    #[test]
    fn people_read_partitions_and_offsets_as_kafka_writes_them() {
        let source = TopicPartition::new("telemetry", 3);
        assert_eq!(format!("{source} {source:?}"), "telemetry/3 telemetry/3");
        assert_eq!(format!("{} {:?} {:>4}", Offset::new(7), Offset::new(7), Offset::new(7)), "7 7    7");
    }
}
