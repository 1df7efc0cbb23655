//! The document of `/api/status`, which the daemon sends and `tidegate status` reads. Its format is versioned: fields are
//! added, never changed. A field that an older daemon doesn't send has the default of its type.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_rows::spec::WriteMode;

use super::board::Board;
use super::words::Sentence;
use super::work_view::{BatchesView, DeadView};
use crate::config::GroupProtocol;
use crate::status::work::Hold;
use crate::status::{PartitionState, PipelineState};

/// A daemon and its pipelines at one moment.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(super) version: u32,
    pub(super) instance: String,
    pub(super) host: String,
    pub(super) url: String,
    pub(super) tidegate: Cow<'static, str>,
    pub(super) started_ms: i64,
    pub(crate) now_ms: i64,
    pub(super) memory_limit_bytes: u64,
    pub(super) memory: Memory,
    pub(super) ready: bool,
    /// The state in sentences. Problems are sorted by severity, the worst first.
    pub(super) sentences: Vec<Sentence>,
    /// The other daemons on this database. Outdated if `instances_seen_ms` is long ago.
    pub(super) instances: Vec<InstanceView>,
    pub(super) instances_seen_ms: Option<i64>,
    pub(super) pipelines: Vec<PipelineView>,
    /// The last events, at most 500, the oldest first.
    pub(super) timeline: Vec<Entry>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) limit_bytes: u64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) buffered_bytes: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct InstanceView {
    pub(super) instance: String,
    pub(super) host: String,
    pub(super) url: Option<String>,
    pub(super) version: String,
    pub(super) consumers: BTreeMap<String, u32>,
    pub(super) age_seconds: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PipelineView {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) table: String,
    pub(super) mode: Mode,
    pub(super) topics: Vec<String>,
    pub(super) protocol: GroupProtocol,
    pub(super) state: PipelineState,
    pub(super) state_words: Cow<'static, str>,
    /// Why the pipeline isn't flowing.
    pub(super) reason: Option<String>,
    /// Records per second that are produced into Kafka.
    pub(super) into_per_second: Option<f64>,
    /// Records per second that all instances write into Postgres.
    pub(super) out_per_second: Option<f64>,
    /// Rows per second that this instance writes.
    pub(super) rows_per_second: f64,
    /// The mean rate into Postgres in the best minute of the last hour.
    pub(super) best_per_second: f64,
    pub(super) flow_limit_per_second: Option<u32>,
    pub(super) empty_in_seconds: Option<f64>,
    pub(super) rows: u64,
    pub(super) dead_letters: u64,
    pub(super) lag_records: u64,
    pub(super) lag_seconds: f64,
    pub(super) lag_age_seconds: Option<f64>,
    pub(super) lag_seen_ms: Option<i64>,
    pub(super) lag_trouble: Option<String>,
    /// `null` if unknown or infinite.
    pub(super) retention_headroom_seconds: Option<f64>,
    /// Whether Kafka keeps the records of all the pipeline's topics without any limit.
    pub(super) retention_unlimited: bool,
    /// A sentence that says what limits the pipeline's speed now, or that nothing does. `None` if that isn't known.
    pub(super) limit: Option<String>,
    pub(super) batches: BatchesView,
    pub(super) dead: Vec<DeadView>,
    pub(super) consumers: Vec<ConsumerView>,
    pub(super) partitions: Vec<PartitionView>,
    pub(super) board: Board,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConsumerView {
    pub(super) consumer: u32,
    pub(super) joined: bool,
    pub(super) held: Option<Hold>,
    pub(super) rows: u64,
    pub(super) buffered_bytes: u64,
    pub(super) waiting: Option<WaitingView>,
    /// How the consumer spent the last ten seconds, as shares from 0 to 1.
    pub(super) time: TimeView,
    pub(super) partitions: Vec<OwnedView>,
}

/// How a consumer's time is divided. The first three are shares of the poll thread's time. The others, together with the time
/// spent waiting for a batch, make up the writer's time.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct TimeView {
    pub(super) poll: f64,
    pub(super) decode: f64,
    pub(super) held: f64,
    pub(super) copy: f64,
    pub(super) commit: f64,
    pub(super) outage: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WaitingView {
    pub(super) why: String,
    pub(super) seconds: f64,
    pub(super) since_ms: i64,
    pub(super) attempt: u32,
    pub(super) retry_in_seconds: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct OwnedView {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) state: PartitionState,
    pub(super) next: Option<i64>,
    pub(super) committed: Option<i64>,
    pub(super) epoch: Option<i64>,
    pub(super) condition: Option<String>,
}

/// A partition of the pipeline in the ledger, whoever owns it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PartitionView {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) next: i64,
    pub(super) end: i64,
    pub(super) low: i64,
    pub(super) lag_records: u64,
    pub(super) lag_seconds: f64,
    pub(super) retention_headroom_seconds: Option<f64>,
    pub(super) owner: Option<String>,
    pub(super) epoch: i64,
    /// If no consumer reads the partition: when its ledger row last changed, by a commit or a claim, in milliseconds since the
    /// epoch.
    pub(super) unread_since_ms: Option<i64>,
    pub(super) sign: Sign,
}

/// The state of a partition, as the page marks it. `Waiting` means that the partition's consumer waits for Postgres, Kafka or a
/// schema; `Held`, that `flow.max_rows_per_second` holds back this consumer; `Full`, that its batch is full and the writer busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sign {
    /// The partition is read and written, or no consumer of this instance has it and none of the states below applies.
    #[default]
    Flowing,
    Claiming,
    Waiting,
    Held,
    Full,
    Fenced,
    /// The partition has a log-loss condition.
    Stopped,
    /// No consumer of this instance has the partition, there is lag, and the partition's ledger row hasn't changed for more than
    /// 12 s.
    Silent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    #[default]
    Append,
    InsertNew,
    Upsert,
    Aggregate,
}

impl From<&WriteMode> for Mode {
    fn from(mode: &WriteMode) -> Self {
        match mode {
            WriteMode::Append => Self::Append,
            WriteMode::InsertNew { .. } => Self::InsertNew,
            WriteMode::Upsert { .. } => Self::Upsert,
            WriteMode::Aggregate { .. } => Self::Aggregate,
        }
    }
}

/// An event of the timeline. `pipeline` is `null` if the event is about the whole daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// Increases by 1 with each event of the daemon.
    pub(super) id: u64,
    pub(super) at_ms: i64,
    pub(super) kind: Cow<'static, str>,
    pub(super) pipeline: Option<String>,
    pub(super) text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response of a daemon of version 0.1.0, in which every optional field occurs at least once.
    const ANSWER: &str = include_str!("document.json");

    #[test]
    fn an_answer_is_read_and_written_byte_for_byte() {
        let status: Status = serde_json::from_str(ANSWER).unwrap();
        // The daemon sends its document through a `Value`, which sorts the keys.
        assert_eq!(serde_json::to_value(&status).unwrap().to_string(), ANSWER.trim_end());
    }

    #[test]
    fn fields_of_other_versions_are_no_obstacle() {
        let status: Status = serde_json::from_str(r#"{"version":1,"later":[],"pipelines":[{"name":"a"}]}"#).unwrap();
        assert_eq!((status.version, status.pipelines[0].name.as_str()), (1, "a"));
    }

    #[test]
    fn modes_have_the_words_of_configuration_files() {
        let word = |mode: WriteMode| serde_json::to_value(Mode::from(&mode)).unwrap();
        assert_eq!(word(WriteMode::Append), "append");
        assert_eq!(word(WriteMode::InsertNew { key: Vec::new() }), "insert_new");
        assert_eq!(serde_json::to_value(GroupProtocol::Cooperative).unwrap(), "cooperative");
    }
}
