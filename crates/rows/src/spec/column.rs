//! `[pipelines.NAME.columns]`.

use std::fmt;

use jiff::tz::TimeZone;

use crate::spec::RowFilter;

/// One column of the mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The column's name in the table.
    pub name: String,
    /// The source of its values.
    pub source: Source,
    /// `type = "timestamptz"`: for `create`, and compared with the catalog if the table exists. Always Postgres' own name with its
    /// modifier, so the part before `(` is a `pg_type.typname`: `float8`, `varchar(16)`, `numeric(10,2)`.
    pub type_name: Option<String>,
    /// `unit`: numbers are epochs in this unit.
    pub unit: Option<EpochUnit>,
    /// `zone`: text without a zone is a local time in this zone.
    pub zone: Option<TimeZone>,
    /// `default = …`: replaces a missing field. A TOML scalar, as JSON text.
    pub default: Option<String>,
    /// `missing = …`: what a missing field means; `None`: see [`Missing`].
    pub missing: Option<Missing>,
    /// `keep = …`: text that stands for a value which the record leaves out, as Debezium's `__debezium_unavailable_value`, also as the only
    /// element of an array, as the bytes of an array of numbers, and as a map of the text to itself. A field that is
    /// this text is missing. In mode upsert, together with [`Missing::Keep`].
    pub keep: Option<String>,
    /// `nul = …`: how a NUL in text is handled.
    pub nul: NulPolicy,
    /// `not_null = true`, for `create`.
    pub not_null: bool,
    /// The function that is applied to a value before it is written.
    pub function: Option<Function>,
    /// `aggregate = …`: how the records of a key become one value. In mode aggregate, all columns except the key's have it.
    pub aggregate: Option<Aggregate>,
}

/// A function of a value that is neither missing nor null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// `scale` and `offset`: the number times `scale` plus `offset`, computed exactly.
    Linear { scale: String, offset: String },
    /// `parse = "json"`: text is parsed as JSON.
    ParseJson,
    /// `hash = "sha256"`: HMAC-SHA-256 of the value's text with the key of `hash_key_file`, as hexadecimal digits or bytes.
    Hash(HashKey),
}

/// The key of a hash. No message shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey(Vec<u8>);

impl HashKey {
    pub fn new(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    /// Returns the key itself.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How the records of a key become one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// `aggregate = "sum"`
    pub function: AggregateFunction,
    /// `where`: only records that match it count for this column.
    pub condition: Option<RowFilter>,
}

/// The values of `aggregate`. All of them ignore missing and null fields. A key none of whose records count has NULL, and 0 as its
/// count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// The sum, exact for integers and numerics. A record that takes the sum beyond the column's range is a dead letter; the sum
    /// never wraps.
    Sum,
    /// The number of records whose field is present and not null; without a field, of all records.
    Count,
    Min,
    Max,
    /// The value of the record with the smallest `by`; of several, the one delivered first. Null if that record has no value.
    First {
        /// A column of the mapping with `aggregate = "min"`, which holds the smallest.
        by: String,
    },
    /// The value of the record with the largest `by`; of several, the one delivered last. Null if that record has no value.
    Last {
        /// A column of the mapping with `aggregate = "max"`, which holds the largest.
        by: String,
    },
}

/// The source of a column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field: its path from the top level, one element per level. `position.lat` has two levels; a dot in a name is written `\.`.
    Field(Vec<String>),
    /// `meta = "topic"`
    Topic,
    /// `meta = "partition"`
    Partition,
    /// `meta = "offset"`
    Offset,
    /// `meta = "ordinal"`: the number of the row in its record, from 1.
    Ordinal,
    /// `meta = "timestamp"`
    Timestamp,
    /// `meta = "key"`: bytes or text, as the column's type needs.
    Key,
    /// `meta = "headers"`: all headers, as a jsonb object of names with their text (an array of texts if a name repeats).
    Headers,
    /// `meta = "op"`, `"ts_ms"` and `"source.NAME"`: a field of Debezium's envelope itself.
    Envelope(Vec<String>),
    /// `value = …`: the same value in every row. A TOML scalar, as JSON text.
    Constant(String),
    /// `header = "trace-id"`: the last header with that name.
    Header(String),
    /// Nothing: `aggregate = "count"` without a field counts records.
    Record,
}

/// The unit of a number that is an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    Seconds,
    Millis,
    Micros,
    /// Nanoseconds, rounded half to even to Postgres' microseconds.
    Nanos,
}

/// The values of `missing`: what a record without a column's field means. If it isn't configured, a column that has a default in
/// the table takes that default (in mode upsert: [`Missing::Keep`]), and every other column is [`Missing::Null`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The column's default in the table, as with INSERT; NULL if the table has none. An upsert also sets it in a row that exists.
    Default,
    /// NULL. If the column is NOT NULL, the record is a dead letter.
    Null,
    /// The record is a dead letter.
    DeadLetter,
    /// An upsert keeps the column's value in a row that exists. A new row has the column's default.
    Keep,
}

/// How a NUL in text is handled. Postgres can't store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NulPolicy {
    /// The record is a dead letter.
    #[default]
    DeadLetter,
    /// The NUL is removed.
    Strip,
    /// The NUL becomes U+FFFD.
    Replace,
}
