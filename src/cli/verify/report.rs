//! The results of `verify`, as text and as JSON.

use serde::Serialize;
use tidegate_protocol::position::{Offset, TopicPartition};

use crate::cli::replay::safe;
use crate::cli::show::{self, Table};
use crate::config::Pipeline;

#[derive(Debug, Serialize)]
pub(super) struct PipelineReport {
    pub(super) pipeline: String,
    pub(super) table: String,
    /// Why the table wasn't checked; `null` if it was checked.
    pub(super) table_skipped: Option<String>,
    /// Whether the write mode skips existing keys. If it does, a record without a row is not a fault.
    pub(super) skips_by_key: bool,
    /// Whether records can safely be written a second time into the pipeline's own table.
    #[serde(skip)]
    replays_into_own_table: bool,
    pub(super) not_in_ledger: Vec<String>,
    pub(super) partitions: Vec<PartitionReport>,
}

/// The results for one partition. Fields about the table are `null` if the table wasn't checked.
#[derive(Debug, Serialize)]
pub(super) struct PartitionReport {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// The offset from which rows and dead letters are counted; usually where the pipeline began.
    pub(super) first: Option<i64>,
    pub(super) position: i64,
    pub(super) low: Option<i64>,
    pub(super) end: Option<i64>,
    /// The log-loss condition that was found, or the text that Kafka has no such partition. `null` if neither applies.
    pub(super) condition: Option<String>,
    /// `known again`: the last committed record is in Kafka. `another`: a different record has its offset. `gone`: the log has no
    /// record at its offset, as after compaction. `null` if this wasn't checked, for example because the ledger has no last
    /// record, or because `condition` was found first.
    pub(super) last_record: Option<&'static str>,
    pub(super) rows: Option<u64>,
    pub(super) dead_letters: Option<u64>,
    /// Records in Kafka from `first` up to the ledger's position that are neither in the table nor in the dead letters.
    pub(super) missing: Option<u64>,
    pub(super) twice: Option<u64>,
    /// Rows of records at or after the ledger's position. These records will be read again, and written a second time unless the
    /// mode prevents that.
    pub(super) beyond: Option<u64>,
    /// Offsets from `first` up to the ledger's position that have neither a row nor a dead letter, and that Kafka has already
    /// deleted. It can't be known whether they held records.
    pub(super) unknown: Option<u64>,
}

impl PartitionReport {
    pub(super) fn new(source: &TopicPartition, next: Offset) -> Self {
        Self {
            topic: source.topic.to_string(),
            partition: source.partition,
            first: None,
            position: next.get(),
            low: None,
            end: None,
            condition: None,
            last_record: None,
            rows: None,
            dead_letters: None,
            missing: None,
            twice: None,
            beyond: None,
            unknown: None,
        }
    }
}

impl PipelineReport {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        Self {
            pipeline: pipeline.name.clone(),
            table: pipeline.table.name.to_string(),
            table_skipped: None,
            skips_by_key: false,
            replays_into_own_table: safe::refuses(
                &pipeline.table.mode,
                pipeline.columns.as_deref().unwrap_or_default(),
            )
            .is_none(),
            not_in_ledger: Vec::new(),
            partitions: Vec::new(),
        }
    }

    /// Returns the findings that require manual action.
    pub(super) fn faults(&self) -> Vec<String> {
        let Self { pipeline, table, skips_by_key, .. } = self;
        let mut faults = Vec::new();
        for partition in &self.partitions {
            let place = format!("{pipeline} {}/{}", partition.topic, partition.partition);
            if let Some(condition) = &partition.condition {
                faults.push(format!("{place}: {condition}"));
            }
            let number = |count: Option<u64>| count.filter(|count| *count > 0);
            if let Some(missing) = number(partition.missing).filter(|_| !skips_by_key) {
                let it = if missing == 1 { "it" } else { "them" };
                faults.push(format!(
                    "{place}: {} missing: Kafka holds {it} and the ledger counts {it} as done, but neither `{table}` nor the dead letters have {it}; {}",
                    show::counted(missing, "record is", "records are"),
                    if self.replays_into_own_table {
                        format!("`tidegate replay` writes {it} again")
                    } else {
                        format!("`tidegate replay --into` another table shows {it}, and SQL can copy {it} from there")
                    }
                ));
            }
            if let Some(twice) = number(partition.twice) {
                faults.push(format!(
                    "{place}: {} in `{table}` or the dead letters more than once",
                    show::counted(twice, "record is", "records are")
                ));
            }
            if let Some(beyond) = number(partition.beyond).filter(|_| !skips_by_key) {
                faults.push(format!(
                    "{place}: {} of `{table}` from beyond the ledger's position: their records will be read and written again",
                    show::counted(beyond, "row is", "rows are")
                ));
            }
        }
        faults
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("pipeline {} → {}\n", self.pipeline, self.table);
        let mut table = Table::new(&[
            "topic",
            "partition",
            "from",
            "position",
            "log",
            "rows",
            "dead",
            "missing",
            "twice",
            "beyond",
            "unknown",
            "log is",
        ]);
        for partition in &self.partitions {
            let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), show::count);
            let log = match (partition.low, partition.end) {
                (Some(low), Some(end)) => format!("{low}..{end}"),
                _ => "none".to_owned(),
            };
            table.row([
                partition.topic.clone(),
                partition.partition.to_string(),
                partition.first.map_or_else(|| "-".to_owned(), show::count),
                show::count(partition.position),
                log,
                number(partition.rows),
                number(partition.dead_letters),
                number(partition.missing),
                number(partition.twice),
                number(partition.beyond),
                number(partition.unknown),
                match (&partition.condition, partition.last_record) {
                    (Some(_), _) => "NOT the ledger's".to_owned(),
                    (None, Some("known again")) => "the ledger's".to_owned(),
                    (None, _) => "plausible".to_owned(),
                },
            ]);
        }
        text += &table.text("  ");
        if let Some(why) = &self.table_skipped {
            text += &format!("  the table was not compared with the ledger: {why}\n");
        }
        if self.skips_by_key {
            text += "  mode insert_new skips a record if the table already has its key: records without a row may be such records\n";
        }
        if !self.not_in_ledger.is_empty() {
            text += &format!("  not in the ledger yet: {}\n", self.not_in_ledger.join(", "));
        }
        if self.faults().is_empty() && self.table_skipped.is_none() {
            text += "  found no missing and no repeated records\n";
        }
        text
    }
}
