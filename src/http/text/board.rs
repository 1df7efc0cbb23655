//! Describes which consumer reads which partitions, and which partitions have the most lag.

use super::super::board::BoardConsumer;
use super::super::document::{PartitionView, PipelineView, Sign};
use super::super::words::{duration, records};
use super::ago;

/// The most partitions that a list names. Further ones are only counted.
const PARTITIONS: usize = 24;
const WORST: usize = 5;

/// Describes the partitions with the most lag, beginning with the most. Partitions without lag are left out.
pub(super) fn behind(partitions: &[PartitionView]) -> Vec<String> {
    let mut worst: Vec<&PartitionView> = partitions.iter().filter(|p| p.lag_records > 0).collect();
    worst.sort_by_key(|partition| std::cmp::Reverse(partition.lag_records));
    worst
        .into_iter()
        .take(WORST)
        .map(|p| {
            let (lag, oldest) = (records(p.lag_records), duration(p.lag_seconds));
            format!("{}/{} {lag} (the oldest waits {oldest})", p.topic, p.partition)
        })
        .collect()
}

/// Describes the partitions that nobody reads: the last owner of each, and for how long nobody has read it.
pub(super) fn unread(pipeline: &PipelineView, places: &[usize], now_ms: i64) -> String {
    let name = |partition: &PartitionView| {
        let last = partition.owner.as_ref().map_or_else(
            || "never read".to_owned(),
            |owner| format!("last by {owner}, {} ago", ago(now_ms, partition.unread_since_ms.unwrap_or(now_ms))),
        );
        format!("{}/{} ({last})", partition.topic, partition.partition)
    };
    named(pipeline, places, name).join(", ")
}

/// Describes the partitions of one consumer. The state of a partition is added in words, unless its records are flowing.
pub(super) fn chips(pipeline: &PipelineView, seat: &BoardConsumer) -> String {
    let places = &seat.partitions;
    if places.is_empty() {
        let idle = "idle, because each partition has another consumer";
        return if seat.joining { "joining the group" } else { idle }.to_owned();
    }
    let several = pipeline.topics.len() > 1;
    let name = |partition: &PartitionView| {
        let topic = if several { format!("{}/", partition.topic) } else { String::new() };
        let state = match partition.sign {
            Sign::Flowing => "",
            Sign::Claiming => " (waits for its claim)",
            Sign::Waiting => " (waits for a service)",
            Sign::Held => " (held back by the rate limit)",
            Sign::Full => " (waits for the writer)",
            Sign::Fenced => " (another instance has taken it over)",
            Sign::Stopped => " (stopped)",
            Sign::Silent => " (its owner makes no progress)",
        };
        format!("{topic}{}{state}", partition.partition)
    };
    let word = if places.len() == 1 { "partition" } else { "partitions" };
    format!("{word} {}", named(pipeline, places, name).join(", "))
}

/// Names the partitions at these indexes of the pipeline's list. Those after the first [`PARTITIONS`] are only counted.
fn named(pipeline: &PipelineView, places: &[usize], name: impl Fn(&PartitionView) -> String) -> Vec<String> {
    let shown = places.iter().take(PARTITIONS).filter_map(|place| pipeline.partitions.get(*place));
    let mut names: Vec<String> = shown.map(name).collect();
    if places.len() > PARTITIONS {
        names.push(format!("and {} more", places.len() - PARTITIONS));
    }
    names
}
