//! What `[pipelines.NAME]` means, checked. `read_pipeline` makes it.

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

use super::{SchemaRegistry, Secret};

/// `[pipelines.NAME]`: topics that go into a table, read by a consumer group of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The pipeline's name, which is its key in the ledger.
    pub name: String,
    /// What to read.
    pub topics: Topics,
    /// The consumer group; the pipeline's name by default.
    pub group: String,
    /// Consumers in this process, each a thread and a connection. Default [`CONSUMERS`](super::defaults::CONSUMERS).
    pub consumers: NonZeroU32,
    /// Where partitions that exist at the first start begin. Default earliest.
    pub start: Start,
    /// How partitions are shared out in the group.
    pub group_protocol: GroupProtocol,
    /// How values are decoded.
    pub decode: Decode,
    /// What surrounds the fields of a record.
    pub shape: Shape,
    /// `[schema_registry]`, if `decode` has its schemas there.
    pub schema_registry: Option<Arc<SchemaRegistry>>,
    /// When a batch is closed.
    pub batch: BatchLimits,
    /// `flow.max_rows_per_second`; `None` is as fast as the database takes it.
    pub max_rows_per_second: Option<NonZeroU32>,
    /// `where`: records for which it doesn't hold are skipped.
    pub keep: Option<RowFilter>,
    /// The target.
    pub table: Table,
    /// The mapping; `None`: every top-level field goes to the column of its name.
    pub columns: Option<Vec<Column>>,
    /// What becomes of fields that no column takes.
    pub unknown_fields: UnknownFields,
    /// What to do when Kafka's log is not the one that the ledger knows.
    pub on_offset_loss: OffsetLossPolicy,
    /// When the pipeline stops rather than set more records aside.
    pub dead_letters: DeadLetterLimits,
    /// How long dead letters are kept.
    pub keep_letters: KeepLetters,
    /// librdkafka's properties for this pipeline alone.
    pub kafka_properties: BTreeMap<String, Secret>,
    /// The files that values of `kafka_properties` were read from.
    pub kafka_files: BTreeMap<String, PathBuf>,
}

impl Pipeline {
    /// Returns what decides how records become rows of the pipeline's table.
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

/// What a pipeline reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// `topics = [...]`
    List(Vec<String>),
    /// `topic_pattern = "^..."`: a regular expression of librdkafka, anchored with `^`.
    Pattern(String),
}

/// Where partitions that exist at the first start begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that Kafka still has.
    Earliest,
    /// Only what comes after the first start.
    Latest,
    /// Where the consumer group's committed offset stands (coming from another sink); `earliest` where it has none.
    Committed,
    /// The first record at or after this time, in milliseconds since the epoch.
    Time(i64),
}

/// How partitions are shared out in the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// Classic protocol, `cooperative-sticky`: the others keep flowing while a partition moves. The default.
    #[default]
    Cooperative,
    /// Classic protocol, `range` (eager): for groups shared with clients that know nothing else.
    Eager,
    /// KIP-848, `group.protocol=consumer`: the broker shares out. Needs Kafka 4.
    Consumer,
}

/// How long dead letters are kept, and how many: the oldest go first. Without either they are kept until someone purges them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepLetters {
    /// `dead_letters.retention`: since they were set aside.
    pub retention: Option<Duration>,
    /// `dead_letters.max_size`: of the pipeline's letters together, in bytes of keys, values, headers and details.
    pub max_bytes: Option<u64>,
}
