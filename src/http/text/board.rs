//! Describes which consumer reads which partitions, and which partitions have the most lag.

use super::super::board::BoardConsumer;
use super::super::document::{PartitionView, PipelineView, Sign};
use super::super::words::{duration, whole_number};
use super::word;

/// How many partitions of a consumer are named. Further ones are only counted.
const PARTITIONS: usize = 24;
/// How many partitions with the most lag are named.
const WORST: usize = 5;

/// Returns the partitions with the most lag, the worst first.
pub(super) fn behind(partitions: &[PartitionView]) -> Vec<String> {
    let mut worst: Vec<&PartitionView> = partitions.iter().filter(|p| p.lag_records > 0).collect();
    worst.sort_by_key(|partition| std::cmp::Reverse(partition.lag_records));
    worst
        .into_iter()
        .take(WORST)
        .map(|p| format!("{}/{} {} ({})", p.topic, p.partition, whole_number(p.lag_records), duration(p.lag_seconds)))
        .collect()
}

/// Returns the partitions that nobody reads, each with its last owner.
pub(super) fn unread(pipeline: &PipelineView, places: &[usize]) -> String {
    let name = |partition: &PartitionView| {
        let last = partition.owner.as_ref().map_or_else(
            || "never read".to_owned(),
            |owner| format!("last {owner}, {} ago", duration(partition.idle_seconds)),
        );
        format!("{}/{} ({last})", partition.topic, partition.partition)
    };
    named(pipeline, places, name).join(", ")
}

/// Returns the partitions of one consumer, each with a sign for its state unless it is flowing.
pub(super) fn chips(pipeline: &PipelineView, seat: &BoardConsumer) -> String {
    let places = &seat.partitions;
    if places.is_empty() {
        return if seat.joining { "joining" } else { "idle" }.to_owned();
    }
    let several = pipeline.topics.len() > 1;
    let name = |partition: &PartitionView| {
        let topic = if several { format!("{}/", partition.topic) } else { String::new() };
        let sign = match partition.sign {
            Sign::Flowing => String::new(),
            sign => format!("({})", word(&sign)),
        };
        format!("{topic}{}{sign}", partition.partition)
    };
    named(pipeline, places, name).join(" ")
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
