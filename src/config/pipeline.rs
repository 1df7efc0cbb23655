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
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The pipeline's name, which is its key in the ledger.
    pub name: String,
    /// The topics to read.
    pub topics: Topics,
    /// The consumer group; the pipeline's name by default.
    pub group: String,
    /// How many consumers this process runs. Each has a thread and a connection. Default
    /// [`CONSUMERS`](super::defaults::CONSUMERS).
    pub consumers: NonZeroU32,
    /// Where reading begins in partitions that exist at the first start. Default: earliest.
    pub start: Start,
    /// The protocol by which partitions are assigned within the group.
    pub group_protocol: GroupProtocol,
    /// How values are decoded.
    pub decode: Decode,
    /// How keys are decoded, whether values are change events, which arrays contain the rows, and which records delete
    /// rows.
    pub shape: Shape,
    /// `[schema_registry]`, if the schemas of values or keys are read from it.
    pub schema_registry: Option<Arc<SchemaRegistry>>,
    /// The limits at which a batch is closed.
    pub batch: BatchLimits,
    /// `flow.max_rows_per_second`; `None`: as fast as the database accepts rows.
    pub max_rows_per_second: Option<NonZeroU32>,
    /// `where`: rows that don't match are skipped. A record may have several rows.
    pub keep: Option<RowFilter>,
    pub table: Table,
    /// The mapping; `None`: every top-level field goes to the column of the same name.
    pub columns: Option<Vec<Column>>,
    /// The policy for fields that are mapped to no column.
    pub unknown_fields: UnknownFields,
    /// The policy for a partition whose log was truncated or recreated, or lost unwritten records by retention.
    pub on_offset_loss: OffsetLossPolicy,
    /// The dead-letter budget: the pipeline stops if it would dead-letter a larger share of its records.
    pub dead_letters: DeadLetterLimits,
    /// The limits on the age and the size of dead letters.
    pub dead_letter_retention: DeadLetterRetention,
    /// librdkafka properties of this pipeline only.
    pub kafka_properties: BTreeMap<String, Secret>,
    /// The files that values of `kafka_properties` were read from.
    pub kafka_files: BTreeMap<String, PathBuf>,
    /// Digests of the certificate and key files that `kafka_properties` name, except those that couldn't be read.
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

/// The topics that a pipeline reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// `topics = [...]`
    List(Vec<String>),
    /// `topic_pattern = "^..."`: a regular expression of librdkafka, anchored with `^`.
    Pattern(String),
}

/// Where reading begins in partitions that exist at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that Kafka still has.
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
    /// `dead_letters.max_size`: the highest size, in bytes, of the keys, values, headers and details of all the pipeline's dead
    /// letters together.
    pub max_bytes: Option<u64>,
}
