//! `[pipelines.NAME.columns]`.

use std::fmt;

use jiff::tz::TimeZone;

use crate::spec::RowFilter;

/// One column of the mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The column's name in the table.
    pub name: String,
    /// What fills it.
    pub source: Source,
    /// `type = "timestamptz"`: for `create`, and checked against the catalog where the table exists. Always Postgres' own
    /// name with its modifier, so that a part before `(` is a `pg_type.typname`: `float8`, `varchar(16)`, `numeric(10,2)`.
    pub type_name: Option<String>,
    /// `unit`: numbers are epochs in this unit.
    pub unit: Option<EpochUnit>,
    /// `zone`: text without a zone is a local time of this one.
    pub zone: Option<TimeZone>,
    /// `default = …`: stands in for a missing field. A TOML scalar, as JSON text.
    pub default: Option<String>,
    /// `missing = …`: what a missing field means; `None`: see [`Missing`].
    pub missing: Option<Missing>,
    /// `keep = …`: text that stands for a value which the record leaves out, as Debezium's `__debezium_unavailable_value`, also as the only
    /// element of an array, as the bytes of an array of numbers, and as a map of the text to itself. A field that is
    /// this text is missing. In mode upsert, together with [`Missing::Keep`].
    pub keep: Option<String>,
    /// `nul = …`: what a NUL in text means.
    pub nul: NulPolicy,
    /// `not_null = true`, for `create`.
    pub not_null: bool,
    /// What is made of a value before it is written.
    pub function: Option<Function>,
    /// `aggregate = …`: how the records of a key become one value. In mode aggregate, all columns but the key's have it.
    pub aggregate: Option<Aggregate>,
}

/// What is made of a value that is neither missing nor null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// `scale` and `offset`: the number times `scale` plus `offset`, exactly.
    Linear {
        /// A decimal number.
        scale: String,
        /// A decimal number.
        offset: String,
    },
    /// `parse = "json"`: text is the JSON that it holds.
    ParseJson,
    /// `hash = "sha256"`: HMAC-SHA-256 of the value's text under the key of `hash_key_file`, as hexadecimal digits or bytes.
    Hash(HashKey),
}

/// The key of a hash, which is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey(Vec<u8>);

impl HashKey {
    /// Hides a key.
    pub fn new(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    /// The key itself.
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
    /// `where`: other records don't count for this column.
    pub condition: Option<RowFilter>,
}

/// What `aggregate` may be. All of them leave missing and null fields out; a key none of whose records count has NULL, and 0
/// as its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Exact for integers and numerics. What the column can't hold is a dead letter, and never wraps.
    Sum,
    /// Records whose field is there and not null; without a field, all.
    Count,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The value of the record whose `by` is smallest, of several the one delivered first; null where that record has none.
    First {
        /// A column of the mapping with `aggregate = "min"`, which keeps the smallest in the row.
        by: String,
    },
    /// The value of the record whose `by` is largest, of several the one delivered last; null where that record has none.
    Last {
        /// A column of the mapping with `aggregate = "max"`, which keeps the largest in the row.
        by: String,
    },
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
    /// `meta = "ordinal"`: the number of the row within its record, from 1.
    Ordinal,
    /// `meta = "timestamp"`
    Timestamp,
    /// `meta = "key"`: bytes or text, as the column's type wants.
    Key,
    /// `meta = "headers"`: all of them, as a jsonb object of name to text (or array of text where a name repeats).
    Headers,
    /// `meta = "op"`, `"ts_ms"` and `"source.NAME"` of Debezium's envelope: a field of the envelope itself.
    Envelope(Vec<String>),
    /// `value = …`: the same in every row. A TOML scalar, as JSON text.
    Constant(String),
    /// `header = "trace-id"`: the last of that name.
    Header(String),
    /// Nothing: `aggregate = "count"` without a field counts records.
    Record,
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

/// What `missing` may be: what a record without a column's field means. Without it a column that has a default in the table takes
/// that (in mode upsert: [`Missing::Keep`]), and every other column is [`Missing::Null`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The column's default in the table, as INSERT gives it; NULL where the table has none. An upsert sets it also in a row that
    /// exists.
    Default,
    /// NULL. Where the column is NOT NULL, the record is a dead letter.
    Null,
    /// The record is a dead letter.
    DeadLetter,
    /// An upsert leaves the column of a row that exists as it is. A new row has the column's default.
    Keep,
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
