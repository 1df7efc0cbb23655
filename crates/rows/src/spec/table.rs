//! `[pipelines.NAME.table]` and `unknown_fields`.

use crate::catalog::TableName;
use crate::spec::{PartitionBy, Route};

/// The target table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its name; the schema is `public` where none is given. Where records name their table, as the configuration has it.
    pub name: TableName,
    /// How records name their table, where they do.
    pub route: Option<Route>,
    /// How rows go in.
    pub mode: WriteMode,
    /// Make the table if it is missing.
    pub create: bool,
    /// `after_create`: statements that run once, in the transaction that makes the table.
    pub after_create: Vec<String>,
    /// `evolve = "add"`: fields that no column takes become columns.
    pub evolve: bool,
    /// `sort_by`: a batch's rows go in in the ascending order of these columns. Append only; empty: as delivered.
    pub sort_by: Vec<String>,
    /// `partition_by`: range partitions made ahead of need, and let go past a retention.
    pub partition_by: Option<PartitionBy>,
}

impl Table {
    /// Returns the same for another table: one of those that records name.
    #[must_use]
    pub fn named(&self, table: &TableName) -> Self {
        Self { name: table.clone(), ..self.clone() }
    }
}

/// How rows go in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// COPY straight into the table.
    Append,
    /// A row whose key is there already is skipped. The key's columns; empty: any unique constraint.
    InsertNew {
        /// `key`, columns with a unique index.
        key: Vec<String>,
    },
    /// A row replaces what the mapping fills of the row with its key. Of a key's records the one delivered last wins.
    Upsert {
        /// `key`, columns with a unique index.
        key: Vec<String>,
        /// `newer_by`: a record replaces a row only where this column isn't smaller than the row's. Between equals the one
        /// delivered later wins. A NULL is older than everything else.
        newer_by: Option<String>,
        /// `deletes`: a record without a value deletes the row that its key names, whatever `newer_by` says; what is
        /// delivered after it is a new row.
        deletes: bool,
    },
    /// Each column but the key's is folded over the records of its key, as its `aggregate` says.
    Aggregate {
        /// `key`, columns with a unique index.
        key: Vec<String>,
    },
}

impl WriteMode {
    /// The word that the configuration has for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::InsertNew { .. } => "insert_new",
            Self::Upsert { .. } => "upsert",
            Self::Aggregate { .. } => "aggregate",
        }
    }

    /// The key's columns; empty where there is none.
    pub fn key(&self) -> &[String] {
        match self {
            Self::Append => &[],
            Self::InsertNew { key } | Self::Upsert { key, .. } | Self::Aggregate { key } => key,
        }
    }
}

/// The policy for fields that no column takes.
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
