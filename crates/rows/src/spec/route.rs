//! `table.name = "telemetry_{region}"`: a record names its table.

use crate::spec::Source;

/// How a record names its table. The name is one identifier, whatever characters it has: it is never read as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The parts of the schema's name.
    pub schema: Vec<Part>,
    /// The parts of the table's name.
    pub name: Vec<Part>,
    /// `max_tables`: records that name more tables than this are dead letters.
    pub max_tables: u32,
}

impl Route {
    /// Returns whether a field is part of the name, so that a record without a value names no table.
    pub fn needs_value(&self) -> bool {
        self.schema.iter().chain(&self.name).any(|part| matches!(part, Part::Value(Source::Field(_))))
    }
}

/// A piece of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// The part of the record that fills a placeholder: a field, or Kafka's topic, partition, key or a header.
    Value(Source),
}
