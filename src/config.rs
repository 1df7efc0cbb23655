//! The configuration, checked: a [`Config`] can't be wrong. `config/` reads and checks the TOML.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::TableName;

/// All of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[http]`
    pub http: Http,
    /// `[limits]`
    pub limits: Limits,
    /// `[pipelines.NAME]`, in order of name; at least one.
    pub pipelines: Vec<Pipeline>,
}

/// `[kafka]`: how to reach the brokers.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `host:port,host:port`
    pub bootstrap_servers: String,
    /// librdkafka's own properties; those that would break a promise are refused by name. Values may be secret.
    pub properties: BTreeMap<String, Secret>,
}

/// `[postgres]`: how to reach the database.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Where the connection URL comes from.
    pub url: PostgresUrl,
    /// `[postgres.session]`: settings for our transactions, such as `synchronous_commit`.
    pub session: BTreeMap<String, String>,
    /// The longest that Postgres may work on one statement of ours. Default 60 s.
    pub statement_timeout: Duration,
    /// The longest that we wait for a lock. Default 10 s.
    pub lock_timeout: Duration,
}

/// Where the connection URL comes from.
#[derive(Clone, Debug)]
pub enum PostgresUrl {
    /// `url`
    Inline(Secret),
    /// `url_file`: read again on each connection, so that a rotated password is picked up.
    File(PathBuf),
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct Http {
    /// Where `/metrics` and the page listen. Default `127.0.0.1:9464`.
    pub listen: SocketAddr,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// One budget for the process, in bytes, Kafka's prefetch included. Default 256 MiB.
    pub memory: u64,
    /// How long a shutdown or a revoke may wait for the batches in flight. Default 20 s.
    pub drain_timeout: Duration,
}

/// `[pipelines.NAME]`: topics that go into a table, read by a consumer group of their own.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The pipeline's name, which is its key in the ledger.
    pub name: String,
    /// What to read.
    pub topics: Topics,
    /// The consumer group; the pipeline's name by default.
    pub group: String,
    /// Consumers in this process. Default 1.
    pub consumers: NonZeroU32,
    /// Where partitions that exist at the first start begin. Default earliest.
    pub start: Start,
    /// How partitions are shared out in the group.
    pub group_protocol: GroupProtocol,
    /// How values are decoded.
    pub decode: Decode,
    /// When a batch is closed.
    pub batch: BatchLimits,
    /// `flow.max_rows_per_second`; `None` is as fast as the database takes it.
    pub max_rows_per_second: Option<NonZeroU32>,
    /// The target.
    pub table: Table,
    /// The mapping; `None`: every top-level field goes to the column of its name.
    pub columns: Option<Vec<Column>>,
    /// What becomes of fields that no column takes.
    pub unknown_fields: UnknownFields,
    /// What to do when Kafka's log is not the one that the ledger knows.
    pub on_offset_loss: OffsetLossPolicy,
    /// When the pipeline stops rather than set more records aside.
    pub dead_letters: DeadLetterBudget,
    /// librdkafka's properties for this pipeline alone.
    pub kafka_properties: BTreeMap<String, Secret>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Classic protocol, `cooperative-sticky`: the others keep flowing while a partition moves. The default.
    Cooperative,
    /// Classic protocol, `range` (eager): for groups shared with clients that know nothing else.
    Eager,
    /// KIP-848, `group.protocol=consumer`: the broker shares out. Needs Kafka 4.
    Consumer,
}

/// How values are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decode {
    /// `format = "json"`: one object a record.
    Json,
}

/// When a batch is closed: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Default 50 000.
    pub max_rows: NonZeroU32,
    /// Encoded rows and raw records together, in bytes; one record always fits. Default 8 MiB.
    pub max_bytes: u64,
    /// Since the first record joined. Default 500 ms.
    pub max_age: Duration,
}

/// The target table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name; the schema is `public` where none is given.
    pub name: TableName,
    /// How rows go in.
    pub mode: TableMode,
    /// Make the table if it is missing.
    pub create: bool,
}

/// How rows go in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableMode {
    /// COPY straight into the table.
    Append,
    /// A row whose key is there already is skipped. The key's columns; empty: any unique constraint.
    InsertNew {
        /// `key`, columns with a unique index.
        key: Vec<String>,
    },
}

/// One column of the mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The column's name in the table.
    pub name: String,
    /// What fills it.
    pub source: Source,
    /// `type = "timestamptz"`: for `create`, and checked against the catalog where the table exists.
    pub type_name: Option<String>,
    /// `unit`: numbers are epochs in this unit.
    pub unit: Option<EpochUnit>,
    /// `default = …`: stands in for a missing field. A TOML scalar, as JSON text.
    pub default: Option<String>,
    /// `nul = …`: what a NUL in text means.
    pub nul: NulPolicy,
    /// `not_null = true`, for `create`.
    pub not_null: bool,
}

/// What fills a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field: the path from the top, one element a level. `position.lat` is two; a dot in a name is written `\.`.
    Field(Vec<String>),
    /// `meta = "topic"`
    Topic,
    /// `meta = "partition"`
    Partition,
    /// `meta = "offset"`
    Offset,
    /// `meta = "timestamp"`
    Timestamp,
    /// `meta = "key"`: bytes or text, as the column's type wants.
    Key,
    /// `meta = "headers"`: all of them, as a jsonb object of name to text (or array of text where a name repeats).
    Headers,
    /// `header = "trace-id"`: the last of that name.
    Header(String),
}

/// The unit of a number that is an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds; cut to Postgres' microseconds by rounding half to even.
    Nanos,
}

/// What a NUL in text means: Postgres can't store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NulPolicy {
    /// The record is a dead letter.
    #[default]
    DeadLetter,
    /// The NUL is left out.
    Strip,
    /// The NUL becomes U+FFFD.
    Replace,
}

/// What becomes of fields that no column takes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// Left out.
    #[default]
    Ignore,
    /// The record is a dead letter.
    DeadLetter,
    /// Top-level fields that no column takes, as an object in this jsonb column.
    Column(String),
}

/// What to do when Kafka's log is not the one that the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetLossPolicy {
    /// The pipeline stops, named.
    #[default]
    Fail,
    /// Go on at the oldest record that Kafka has; what is lost is counted.
    Earliest,
    /// Go on at the end; what is lost is counted.
    Latest,
}

/// When the pipeline stops rather than set more records aside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeadLetterBudget {
    /// The largest share of records within the window, `(0.0, 1.0]`; 1.0 never stops. Default 0.1.
    pub max_share: f64,
    /// The window. Default 5 min.
    pub window: Duration,
    /// Below this many dead letters in the window the share isn't asked. Default 100.
    pub min_count: u64,
}

/// Text that is shown nowhere: no log, page, metric, panic.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
