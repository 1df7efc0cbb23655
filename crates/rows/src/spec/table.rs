//! `[pipelines.NAME.table]` and `unknown_fields`.

use crate::catalog::TableName;
use crate::spec::{PartitionBy, Route};

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The table's name. The schema is `public` if none is configured. If records name their table, this is the configured
    /// text, with its placeholders.
    pub name: TableName,
    /// Set if records name their table.
    pub route: Option<Route>,
    /// How rows are written.
    pub mode: WriteMode,
    /// Whether to create the table if it doesn't exist.
    pub create: bool,
    /// `after_create`: statements that run once, in the transaction that creates the table.
    pub after_create: Vec<String>,
    /// `evolve = "add"`: whether fields without a column become columns.
    pub evolve: bool,
    /// `sort_by`: the rows that a transaction writes are sorted by these columns, ascending. Only for mode append. If this is
    /// empty, the rows stay in the order of delivery.
    pub sort_by: Vec<String>,
    /// `partition_by`: range partitions that are created in advance, and removed after their retention.
    pub partition_by: Option<PartitionBy>,
}

impl Table {
    /// Returns the same settings for one of the tables that records name.
    #[must_use]
    pub fn named(&self, table: &TableName) -> Self {
        Self { name: table.clone(), ..self.clone() }
    }
}

/// How rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// `append`: each row is added. If possible, COPY writes directly into the table.
    Append,
    /// `insert_new`: a row whose key exists in the table is skipped. If no key is configured, a row that violates any unique
    /// constraint is skipped.
    InsertNew {
        /// `key`: columns that have a unique index.
        key: Vec<String>,
    },
    /// `upsert`: a record replaces the mapped columns of the row with its key, or makes a new row. If several records
    /// have the same key, the one delivered last wins, unless `newer_by` is set.
    Upsert {
        /// `key`: columns that have a unique index.
        key: Vec<String>,
        /// `newer_by`: a record replaces a row only if its value in this column is greater than the row's, or equal to
        /// it. NULL counts as smaller than every value.
        newer_by: Option<String>,
        /// `deletes`: a record without a value, or one that deletes by its value, deletes the row with its key, regardless of
        /// `newer_by`. A record of the same key that is delivered later makes a new row.
        deletes: bool,
    },
    /// `aggregate`: each column outside of the key combines the values of all records with the same key, as the column's
    /// `aggregate` says.
    Aggregate {
        /// `key`: columns that have a unique index.
        key: Vec<String>,
    },
}

impl WriteMode {
    /// Returns the name of the mode in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::InsertNew { .. } => "insert_new",
            Self::Upsert { .. } => "upsert",
            Self::Aggregate { .. } => "aggregate",
        }
    }

    /// Returns the columns of the key; empty if there is none.
    pub fn key(&self) -> &[String] {
        match self {
            Self::Append => &[],
            Self::InsertNew { key } | Self::Upsert { key, .. } | Self::Aggregate { key } => key,
        }
    }
}

/// How to treat fields without a column.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum UnknownFields {
    #[default]
    Ignore,
    /// The record is a dead letter.
    DeadLetter,
    /// Top-level fields without a column are written as an object into this column, whose type is jsonb or json.
    Column(String),
}
