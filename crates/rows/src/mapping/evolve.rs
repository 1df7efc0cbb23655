//! `evolve = "add"`: decides which unknown fields become columns, and the types of these columns. Other modules alter the table.
//!
//! A record with such a field is first rejected as `new_field`; its raw bytes are kept, like those of every rejected record.
//! Before the batch is written, the columns are added, the plan is rebuilt and the batch is encoded again. So the column also
//! contains the field's first value.
//!
//! The column's type is bool for `true` and `false`, numeric for numbers, text for text, and jsonb for everything else. The type
//! is also jsonb if the records of the batch have values of different types. A null has no type, so a field that is null doesn't
//! become a column yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, can_name_a_column};
use crate::json::members::Members;
use crate::value::{Kind, Value};

/// No column is added if the table would then have more columns than this. Postgres allows 1600, but a row must also fit on a
/// page.
pub const COLUMNS_MAX: usize = 400;

/// The unknown fields that don't become columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The fields with these names. Each has one of three reasons: the table has too many columns, no column can have the field's
    /// name, or the table's column of that name can't be filled.
    Names(BTreeSet<String>),
    /// All fields: no column is added. This is for commands that only try a mapping, such as `tidegate check`.
    All,
}

impl Default for GivenUp {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

/// Fields without a column, each with the type that its column will have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewFields(pub BTreeMap<String, NewType>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewType {
    Bool,
    Numeric,
    Text,
    /// For arrays and objects, and for fields whose values have several types.
    Jsonb,
}

impl NewType {
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
            // Leftovers are JSON in every format, and these values are strings in JSON.
            Kind::Instant | Kind::Day | Kind::Clock | Kind::Span | Kind::Uuid => Some(Self::Text),
            Kind::Array | Kind::Object => Some(Self::Jsonb),
        }
    }
}

impl GivenUp {
    /// Returns whether the field of this name doesn't become a column.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::Names(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// Adds fields by their names. Returns whether any of them is new. Does nothing for [`Self::All`].
    pub fn add(&mut self, more: impl Iterator<Item = String>) -> bool {
        let Self::Names(names) = self else { return false };
        let before = names.len();
        names.extend(more);
        names.len() > before
    }

    /// Returns the name of the first member of `leftovers` that should become a column. `leftovers` is JSON text such as
    /// `"a":1,"b":2,`.
    pub fn first_new(&self, leftovers: &[u8]) -> Option<String> {
        let mut members = Members::of(leftovers).filter(|(_, value)| NewType::of(value).is_some());
        members.find(|(name, _)| !self.holds(name)).map(|(name, _)| name)
    }
}

impl NewFields {
    /// Adds the fields of a record that have no column and aren't null. Leaves out the names in [`GivenUp::Names`]. With
    /// [`GivenUp::All`], leaves out nothing: `tidegate check` adds no columns, but shows those that the daemon would add.
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

    /// Returns the columns to add to this table, sorted by name. Leaves out fields whose names no column can have. Leaves out the
    /// last ones if the table would have more than [`COLUMNS_MAX`] columns.
    pub fn missing<'a>(&'a self, catalog: &Catalog) -> Vec<(&'a str, NewType)> {
        let room = COLUMNS_MAX.saturating_sub(catalog.columns.len());
        let known = |name: &str| catalog.columns.iter().any(|column| column.name == name);
        let missing = self.0.iter().filter(|(name, _)| can_name_a_column(name) && !known(name));
        missing.map(|(name, found)| (name.as_str(), *found)).take(room).collect()
    }
}
