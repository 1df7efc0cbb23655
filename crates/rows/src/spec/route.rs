//! `table.name = "telemetry_{region}"`: each record names its table.

use crate::spec::Source;

/// How a record names its table. The text from the record only becomes part of a quoted identifier, and is never executed as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name of the table's schema in Postgres, as fixed texts and placeholders.
    pub schema: Vec<Part>,
    /// The table's name without the schema, as fixed texts and placeholders.
    pub name: Vec<Part>,
    /// `max_tables`: how many different tables the records of the pipeline may name. A record that names a further one is a
    /// dead letter.
    pub max_tables: u32,
}

impl Route {
    /// Returns whether a field of the value is part of the table's name. If so, a record without a value names no table.
    pub fn needs_value(&self) -> bool {
        self.schema.iter().chain(&self.name).any(|part| matches!(part, Part::Value(Source::Field(_))))
    }
}

/// A piece of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// A value of the record: a field, or Kafka's topic, partition, key or a header.
    Value(Source),
}
