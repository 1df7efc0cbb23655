//! `table.name = "telemetry_{region}"`: each record names its table.

use crate::spec::Source;

/// How a record names its schema and table in Postgres: by fixed texts and placeholders, such as `telemetry_{region}`. A value
/// from the record only becomes part of a quoted identifier, and is never executed as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub schema: Vec<Part>,
    pub name: Vec<Part>,
    /// How many different tables the records of the pipeline may name. A record that names a further table is a dead letter.
    pub max_tables: u32,
}

impl Route {
    /// Returns whether a field of the value is part of the table's name. If so, a record without a value (a tombstone) names no
    /// table.
    pub fn needs_value(&self) -> bool {
        self.schema.iter().chain(&self.name).any(|part| matches!(part, Part::Value(Source::Field(_))))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// A placeholder for a value of the record: a field, or Kafka's topic, partition, key or a header.
    Value(Source),
}
