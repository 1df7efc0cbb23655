//! `[pipelines.NAME.columns]`: the mapping, which says how the columns of the table are filled.

use std::fmt;

use jiff::tz::TimeZone;

use crate::spec::RowFilter;

/// One column of the mapping. Most of its fields are named after their keys in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub source: Source,
    /// The type in Postgres' own spelling: `float8`, `varchar(16)`, `numeric(10,2)[]`. The name before `(` or `[` is a
    /// `pg_type.typname`. Used to create the table, and compared with the catalog if the table exists.
    pub type_name: Option<String>,
    /// Numbers are times since 1970 in this unit.
    pub unit: Option<EpochUnit>,
    /// Text without a time zone is a local time in this zone.
    pub zone: Option<TimeZone>,
    /// The value that replaces a missing field: a TOML scalar, as JSON text.
    pub default: Option<String>,
    /// If `None`, the table decides; see [`Missing`].
    pub missing: Option<Missing>,
    /// Text by which a record says that it leaves the value out, such as Debezium's `__debezium_unavailable_value`. A field with
    /// this text counts as missing. If the text is `X`, so do `["X"]`, `{"X":"X"}` and an array of the text's bytes. `missing` is
    /// then always [`Missing::Keep`].
    pub keep: Option<String>,
    pub nul: NulPolicy,
    /// Whether the column is NOT NULL in the table that `create = true` creates.
    pub not_null: bool,
    pub function: Option<Function>,
    /// In mode aggregate, all columns except those of the key have this setting.
    pub aggregate: Option<Aggregate>,
}

/// A function that changes a column's values. It isn't applied to missing fields and nulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// `scale` and `offset`: the result is the number times `scale` plus `offset`, computed exactly. Both are decimal numbers as
    /// text.
    Linear { scale: String, offset: String },
    /// `parse = "json"`: text is parsed as JSON.
    ParseJson,
    /// `hash = "sha256"`: HMAC-SHA-256 of the value's text with the key of `hash_key_file`, as hexadecimal digits or bytes.
    Hash(HashKey),
}

/// The key of a hash. Its `Debug` output is `***`, so that no message or log shows the key.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey(Vec<u8>);

impl HashKey {
    pub fn new(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How the values of all records of a key are combined into one value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    /// The column's `where`: only rows that match this filter count for this column. `None` if all rows count.
    pub condition: Option<RowFilter>,
}

/// The values of `aggregate`. `first` and `last` ignore records that have no value for column `by`. The other functions ignore
/// records whose field is missing or null. If all records of a key are ignored, the result is NULL. Except: the result of
/// `count`, and of `sum` in a NOT NULL column, is then 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// The sum, exact for integers and numerics. A record that takes the sum beyond the column's range is a dead letter; the sum
    /// never wraps.
    Sum,
    /// The number of records whose field is present and not null. If the column has no field, all records count.
    Count,
    Min,
    Max,
    /// The value of the record with the smallest value in column `by`. If several records have this smallest value, the one
    /// delivered first counts. NULL if that record has no value.
    First {
        /// The name of another mapped column, with `aggregate = "min"`. It stores the smallest value that it got from the records
        /// of the key.
        by: String,
    },
    /// The value of the record with the largest value in column `by`. If several records have this largest value, the one
    /// delivered last counts. NULL if that record has no value.
    Last {
        /// The name of another mapped column, with `aggregate = "max"`. It stores the largest value that it got from the records
        /// of the key.
        by: String,
    },
}

/// The source of a column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The path of a field from the top level, one element per level: `position.lat` has two levels. In the configuration, a dot
    /// in a name is written `\.`.
    Field(Vec<String>),
    Topic,
    Partition,
    Offset,
    /// `meta = "ordinal"`: the number of the row among the rows of its record, from 1.
    Ordinal,
    Timestamp,
    /// `meta = "key"`: the record's key, read as [`KeyFormat`](crate::spec::KeyFormat) says.
    Key,
    /// `meta = "headers"`: all headers, as a JSON object of names and their values. A name that occurs more than once has an
    /// array of values. A value that Postgres can't store as text is written in base64.
    Headers,
    /// `meta = "op"`, `"ts_ms"` and `"source.NAME"`: a field of Debezium's envelope itself, by its path.
    Envelope(Vec<String>),
    /// `value = …`: the same value in every row. A TOML scalar, as JSON text.
    Constant(String),
    /// `header = "trace-id"`: the last header of that name.
    Header(String),
    /// No source: `aggregate = "count"` without a field counts records.
    Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    Seconds,
    Millis,
    Micros,
    /// Rounded half to even to Postgres' microseconds.
    Nanos,
}

/// The values of `missing`: what a column gets from a record without the column's field. If `missing` isn't configured, the table
/// decides:
/// - [`Missing::Null`] for a column that has an aggregate, or that has no default in the table.
/// - [`Missing::Keep`] for other columns in mode upsert. Except: a column that decides which row is written, such as one of the
///   key or `newer_by`, gets its default.
/// - [`Missing::Default`] for other columns in other modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The column's default in the table, as with INSERT; NULL if the table has none. An upsert also sets an existing row's
    /// column to this default or NULL.
    Default,
    /// NULL. If the column is NOT NULL, the record is a dead letter.
    Null,
    DeadLetter,
    /// An upsert keeps the column's value in a row that exists. A new row gets the column's default.
    Keep,
}

/// How a NUL in text is handled. Postgres can't store a NUL in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NulPolicy {
    #[default]
    DeadLetter,
    Strip,
    /// The NUL becomes U+FFFD, the replacement character.
    Replace,
}
