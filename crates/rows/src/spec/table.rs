//! `[pipelines.NAME.table]`: the table that a pipeline fills, and how it is written. Also `unknown_fields`.

use crate::catalog::TableName;
use crate::spec::{PartitionBy, Route};

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// If no schema is configured, the schema is `public`. If records name their table, this is the configured text, with its
    /// placeholders.
    pub name: TableName,
    /// How records name their table. `None` if all records belong to the same table.
    pub route: Option<Route>,
    pub mode: WriteMode,
    pub create: bool,
    /// The statements of `after_create`, which run once, in the transaction that creates the table.
    pub after_create: Vec<String>,
    /// `evolve = "add"`: whether fields without a column become columns.
    pub evolve: bool,
    /// The rows that a transaction writes are sorted by these columns, ascending. Only for mode append. If this is empty, the
    /// rows stay in the order of delivery.
    pub sort_by: Vec<String>,
    pub partition_by: Option<PartitionBy>,
}

impl Table {
    /// Returns the same settings for one of the tables that records name.
    #[must_use]
    pub fn named(&self, table: &TableName) -> Self {
        Self { name: table.clone(), ..self.clone() }
    }
}

/// How rows are written. The columns of a `key` have a unique index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// `append`: each row is added. If possible, COPY writes directly into the table.
    Append,
    /// `insert_new`: a row whose key exists in the table is skipped. If no key is configured, a row that violates any unique
    /// constraint is skipped.
    InsertNew { key: Vec<String> },
    /// `upsert`: a record replaces the mapped columns of the row with its key, or makes a new row. If several records have the
    /// same key, the one delivered last wins, unless `newer_by` is set.
    Upsert {
        key: Vec<String>,
        /// A record replaces a row only if the record's value in this column isn't smaller than the row's value. NULL is smaller
        /// than every other value. `None`: the record always replaces the row.
        newer_by: Option<String>,
        /// Whether records delete rows: records without a value, and those whose value says so. A delete ignores `newer_by`. A
        /// later record of the same key makes a new row.
        deletes: bool,
    },
    /// `aggregate`: each column outside of the key combines the values of all records with the same key, as the column's
    /// `aggregate` says.
    Aggregate { key: Vec<String> },
}

impl WriteMode {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::InsertNew { .. } => "insert_new",
            Self::Upsert { .. } => "upsert",
            Self::Aggregate { .. } => "aggregate",
        }
    }

    /// Returns the columns of the key, or an empty slice if there is no key.
    pub fn key(&self) -> &[String] {
        match self {
            Self::Append => &[],
            Self::InsertNew { key } | Self::Upsert { key, .. } | Self::Aggregate { key } => key,
        }
    }
}

/// `unknown_fields`: how fields without a column are treated.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum UnknownFields {
    #[default]
    Ignore,
    DeadLetter,
    /// These fields are written together as a JSON object into this column, whose type is jsonb or json. Only top-level fields
    /// count.
    Column(String),
}
