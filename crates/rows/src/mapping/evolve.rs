//! `evolve = "add"`: fields that no column takes become columns. Which, and of which type; the table is changed elsewhere. Pure.
//!
//! A record with such a field is refused at first (`new_field`), with its raw bytes kept like those of any refused record. Before
//! the batch is written, the columns are added, the plan is rebuilt and the batch is encoded again: so the first value of a
//! field is in its column too.
//!
//! The rule: `true` and `false` make a bool, numbers a numeric (which holds any number that JSON can say), text a text, all else
//! a jsonb; if the records of the batch differ, a jsonb. A field that is null everywhere waits for its first value.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, can_name_a_column};
use crate::json::members::Members;
use crate::value::{Kind, Value};

/// The most columns that a table grows to by itself. Postgres takes 1600, and a row must fit on a page.
pub const COLUMNS_MAX: usize = 400;

/// Fields that don't become columns, whatever comes: too many, a name that no column can have, or a column of that name that nothing can fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// These.
    Names(BTreeSet<String>),
    /// All: for a trial that changes nothing.
    All,
}

impl Default for GivenUp {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

/// New fields with the types that their columns will have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewFields(pub BTreeMap<String, NewType>);

/// The type of a new column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewType {
    /// For fields that were booleans only.
    Bool,
    /// For numbers.
    Numeric,
    /// For text.
    Text,
    /// For arrays and objects, and for fields of several types.
    Jsonb,
}

impl NewType {
    /// Returns the type as SQL writes it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Jsonb => "jsonb",
        }
    }

    fn of(value: &Value<'_>) -> Option<Self> {
        match value.kind {
            Kind::Missing | Kind::Null => None,
            Kind::True | Kind::False => Some(Self::Bool),
            Kind::Number | Kind::Float | Kind::Decimal => Some(Self::Numeric),
            Kind::String | Kind::Text | Kind::Bytes | Kind::Lexical => Some(Self::Text),
            // Leftover fields of a record are JSON, whatever its format; there these are strings.
            Kind::Instant | Kind::Day | Kind::Clock | Kind::Span | Kind::Uuid => Some(Self::Text),
            Kind::Array | Kind::Object => Some(Self::Jsonb),
        }
    }
}

impl GivenUp {
    /// Returns whether a field of this name becomes no column.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::Names(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// With these beside what it has; whether any of them is new.
    pub fn add(&mut self, more: impl Iterator<Item = String>) -> bool {
        let Self::Names(names) = self else { return false };
        let before = names.len();
        names.extend(more);
        names.len() > before
    }

    /// The first of these members (each with a comma behind it) that wants to become a column.
    pub fn first_new(&self, leftovers: &[u8]) -> Option<String> {
        let mut members = Members::of(leftovers).filter(|(_, value)| NewType::of(value).is_some());
        members.find(|(name, _)| !self.holds(name)).map(|(name, _)| name)
    }
}

impl NewFields {
    /// Notes what a record has that no column takes; in a trial all of it.
    pub fn note(&mut self, leftovers: &[u8], given_up: &GivenUp) {
        for (name, value) in Members::of(leftovers) {
            let passed_over = matches!(given_up, GivenUp::Names(names) if names.contains(&name));
            let Some(found) = NewType::of(&value).filter(|_| !passed_over) else { continue };
            let known = self.0.entry(name).or_insert(found);
            if *known != found {
                *known = NewType::Jsonb;
            }
        }
    }

    /// Returns the columns to add to this table: those with a name that it can take, up to the limit, in order of name.
    pub fn missing<'a>(&'a self, catalog: &Catalog) -> Vec<(&'a str, NewType)> {
        let room = COLUMNS_MAX.saturating_sub(catalog.columns.len());
        let known = |name: &str| catalog.columns.iter().any(|column| column.name == name);
        let missing = self.0.iter().filter(|(name, _)| can_name_a_column(name) && !known(name));
        missing.map(|(name, found)| (name.as_str(), *found)).take(room).collect()
    }
}
