//! The checked form of `[pipelines.NAME]`. `read_pipeline` creates it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_rows::spec::{Column, Decode, RowFilter, RowSpec, Shape, Table, UnknownFields};

use super::{Content, SchemaRegistry, Secret};

/// `[pipelines.NAME]`: topics that one consumer group reads, and the table into which they are written.
/// [`defaults`](super::defaults) has the defaults of keys, with their reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Also the pipeline's key in the ledger.
    pub name: String,
    pub topics: Topics,
    /// The consumer group. Default: the pipeline's name.
    pub group: String,
    /// How many consumers this process runs. Each has a thread and a connection.
    pub consumers: NonZeroU32,
    pub start: Start,
    pub group_protocol: GroupProtocol,
    pub decode: Decode,
    /// How keys are decoded, whether values are change events, which arrays contain the rows, and which records delete
    /// rows.
    pub shape: Shape,
    /// `[schema_registry]`, if the schemas of values or keys are read from it.
    pub schema_registry: Option<Arc<SchemaRegistry>>,
    pub batch: BatchLimits,
    /// `flow.max_rows_per_second`; `None`: as fast as the database accepts rows.
    pub max_rows_per_second: Option<NonZeroU32>,
    /// `where`: rows that don't match are skipped. If a record has several rows, each is tested on its own.
    pub keep: Option<RowFilter>,
    pub table: Table,
    /// The mapping; `None`: every top-level field goes to the column of the same name.
    pub columns: Option<Vec<Column>>,
    pub unknown_fields: UnknownFields,
    /// The policy for a partition whose log was truncated or recreated, or lost unwritten records by retention.
    pub on_offset_loss: OffsetLossPolicy,
    /// The dead-letter budget: the pipeline stops if it would dead-letter a larger share of its records.
    pub dead_letters: DeadLetterLimits,
    pub dead_letter_retention: DeadLetterRetention,
    /// librdkafka's properties for the clients of this pipeline only. `kafka_files` and `kafka_contents` are like `files` and
    /// `contents` of [`Kafka`](super::Kafka).
    pub kafka_properties: BTreeMap<String, Secret>,
    pub kafka_files: BTreeMap<String, PathBuf>,
    pub kafka_contents: BTreeMap<String, Content>,
}

impl Pipeline {
    /// Returns everything that decides how records become rows of the pipeline's table.
    pub fn rows(&self) -> RowSpec<'_> {
        RowSpec {
            pipeline: &self.name,
            decode: &self.decode,
            shape: &self.shape,
            table: &self.table,
            columns: self.columns.as_deref(),
            keep: self.keep.as_ref(),
            unknown_fields: &self.unknown_fields,
            max_bytes: self.batch.max_bytes,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    List(Vec<String>),
    /// `topic_pattern = "^..."`: a regular expression of librdkafka, anchored with `^`.
    Pattern(String),
}

/// Where reading begins in partitions that exist at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that Kafka still has. The default.
    Earliest,
    /// Only records that are written after the first start.
    Latest,
    /// The consumer group's committed offset (left by another sink); `earliest` if the group has none.
    Committed,
    /// The first record at or after this time, in milliseconds since the epoch.
    Time(i64),
}

/// The protocol by which partitions are assigned within the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// Classic protocol, `cooperative-sticky`: while a partition moves, the others are still consumed. The default.
    #[default]
    Cooperative,
    /// Classic protocol, `range` (eager): for groups shared with clients that support nothing else.
    Eager,
    /// KIP-848, `group.protocol=consumer`: the broker assigns partitions. Requires Kafka 4.
    Consumer,
}

/// The limits on the age and the size of dead letters; the oldest are deleted first. Without
/// limits, the daemon deletes no dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterRetention {
    /// `dead_letters.retention`: the highest age of a dead letter.
    pub retention: Option<Duration>,
    /// `dead_letters.max_size`: the highest total size of the pipeline's dead letters, in bytes: keys, values, headers and
    /// details.
    pub max_bytes: Option<u64>,
}
