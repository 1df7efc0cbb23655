//! The batches and dead letters of a pipeline's consumers, as `/api/status` shows them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::status::ConsumerStatus;
use crate::status::work::BatchNote;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BatchesView {
    /// The number of batches that were handled since the pipeline's start, by the trigger that closed them.
    pub(super) by_trigger: BTreeMap<Cow<'static, str>, u64>,
    /// The median number of rows per batch, over the last 128 batches of each consumer.
    pub(super) rows_median: Option<u64>,
    pub(super) bytes_median: Option<u64>,
    pub(super) write_p50_ms: Option<f64>,
    pub(super) write_p99_ms: Option<f64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DeadView {
    pub(super) reason: Cow<'static, str>,
    /// The number of dead letters that this instance has written since the pipeline's start.
    pub(super) count: u64,
    /// The positions in Kafka of the newest dead letters. Their contents are only in the database.
    pub(super) newest: Vec<PlaceView>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PlaceView {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) column: Option<String>,
    pub(super) at_ms: i64,
}

impl DeadView {
    pub(super) fn newest_ms(&self) -> i64 {
        self.newest.first().map_or(0, |place| place.at_ms)
    }
}

pub(super) fn batches(consumers: &[Arc<ConsumerStatus>]) -> BatchesView {
    let (mut by_trigger, mut recent) = (BTreeMap::new(), Vec::new());
    for consumer in consumers {
        let batches = consumer.work.batches();
        for (trigger, count) in batches.by_trigger {
            *by_trigger.entry(trigger.into()).or_default() += count;
        }
        recent.extend(batches.recent);
    }
    let milliseconds = |note: &BatchNote| (note.took.as_secs_f64() * 10_000.0).round() / 10.0;
    let mut rows: Vec<u64> = recent.iter().map(|note| note.rows).collect();
    let mut bytes: Vec<u64> = recent.iter().map(|note| note.bytes).collect();
    let mut took: Vec<f64> = recent.iter().map(milliseconds).collect();
    rows.sort_unstable();
    bytes.sort_unstable();
    took.sort_by(f64::total_cmp);
    BatchesView {
        by_trigger,
        rows_median: at(&rows, 50),
        bytes_median: at(&bytes, 50),
        write_p50_ms: at(&took, 50),
        write_p99_ms: at(&took, 99),
    }
}

/// Returns a percentile of the sorted values, by the nearest-rank method; `None` if there are no values.
fn at<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

pub(super) fn dead(consumers: &[Arc<ConsumerStatus>]) -> Vec<DeadView> {
    let mut by_reason: BTreeMap<&'static str, DeadView> = BTreeMap::new();
    for consumer in consumers {
        for (reason, letters) in consumer.work.dead_letters() {
            let view =
                by_reason.entry(reason).or_insert(DeadView { reason: reason.into(), count: 0, newest: Vec::new() });
            view.count += letters.count;
            view.newest.extend(letters.newest.into_iter().map(|letter| PlaceView {
                topic: letter.source.topic.to_string(),
                partition: letter.source.partition,
                offset: letter.offset.get(),
                column: letter.column.map(Into::into),
                at_ms: letter.at_ms,
            }));
        }
    }
    let mut views: Vec<DeadView> = by_reason.into_values().collect();
    for view in &mut views {
        view.newest.sort_by_key(|place| (-place.at_ms, -place.offset));
        view.newest.truncate(5);
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_there() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!((at(&sorted, 50), at(&sorted, 99)), (Some(50), Some(99)));
        assert_eq!((at(&[7], 50), at(&[7], 99)), (Some(7), Some(7)));
        assert_eq!(at::<u64>(&[], 50), None);
    }
}
