//! Chooses the table of each row, if records name their table. No I/O.
//!
//! In the batch, each row of such a pipeline has a mark in front with the index of its table; see [`super::mark`]. The store
//! separates the rows by their marks when it copies them.

use std::collections::HashMap;

use tidegate_protocol::record::Record;

use crate::catalog::TableName;
use crate::decode::Fields;
use crate::json::string;
use crate::mapping::mark::Mark;
use crate::mapping::meta::{self, Lexeme, Reading};
use crate::mapping::plan::{Feed, PlannedColumn};
use crate::mapping::planner::Planner;
use crate::spec::{Part, Route, Source};
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, shown};

/// The longest identifier, in bytes, that Postgres doesn't truncate.
const NAME_MAX: usize = 63;

/// How records name their tables. `tables` receive rows. `refused` has the reason for each table that can't receive rows. A key
/// of these maps is a schema, a NUL and a table's name. `is_full` is set if `max_tables` tables receive rows.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    schema: Vec<Piece>,
    name: Vec<Piece>,
    tables: HashMap<Vec<u8>, RoutedTable>,
    refused: HashMap<Vec<u8>, String>,
    is_full: bool,
}

/// A table that receives rows. `number` is its index among these tables, and `mask_bytes` is the length of the mask in a row's
/// mark.
#[derive(Clone, Debug)]
pub(super) struct RoutedTable {
    pub(super) number: u16,
    pub(super) columns: Vec<PlannedColumn>,
    pub(super) column_count: [u8; 2],
    pub(super) mask_bytes: usize,
}

impl RoutedTable {
    #[inline]
    pub(super) fn open(&self, rows: &mut Vec<u8>) -> Mark {
        let mark = Mark::open(self.number, self.mask_bytes, rows);
        rows.extend_from_slice(&self.column_count);
        mark
    }
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Feed),
}

impl Router {
    /// Reserves slots for the placeholders in the table's name. The router has no tables yet.
    pub(super) fn new(route: &Route, planner: &mut Planner<'_>) -> Self {
        let mut pieces = |parts: &[Part]| -> Vec<Piece> {
            let piece = |part: &Part| match part {
                Part::Text(text) => Some(Piece::Text(text.clone())),
                Part::Value(source) => Some(Piece::Value(match source {
                    Source::Field(path) => Feed::Field(planner.slot(path)?),
                    Source::Topic => Feed::Topic,
                    Source::Partition => Feed::Partition(Lexeme::Wanted),
                    Source::Header(name) => Feed::Header(name.as_bytes().into(), Reading::Text),
                    _ => Feed::Key(Reading::Text),
                })),
            };
            parts.iter().filter_map(piece).collect()
        };
        let (schema, name) = (pieces(&route.schema), pieces(&route.name));
        Self { schema, name, tables: HashMap::new(), refused: HashMap::new(), is_full: false }
    }

    /// Takes over the slots of `other`, the router of the first table's plan. The plans of all tables use the same slots.
    pub(super) fn take_slots(&mut self, other: Option<Self>) {
        if let Some(Self { schema, name, .. }) = other {
            (self.schema, self.name) = (schema, name);
        }
    }

    pub(super) fn add(&mut self, table: &TableName, target: RoutedTable) {
        self.tables.insert(key(table), target);
    }

    pub(super) fn refuse(&mut self, table: &TableName, why: String) {
        self.refused.insert(key(table), why);
    }

    /// Notes that `max_tables` tables receive rows. From now on, [`Self::unknown`] returns no table.
    pub(super) fn close(&mut self) {
        self.is_full = true;
    }

    /// Writes the name of the record's table into `named`: the schema, a NUL, and the table's name.
    pub(super) fn name(
        &self,
        record: &Record<'_>,
        fields: &Fields,
        made: &mut Vec<u8>,
        named: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        named.clear();
        for (n, pieces) in [&self.schema, &self.name].into_iter().enumerate() {
            if n > 0 {
                named.push(0);
            }
            let start = named.len();
            for piece in pieces {
                match piece {
                    Piece::Text(text) => named.extend_from_slice(text.as_bytes()),
                    Piece::Value(feed) => append(feed, record, fields, made, named)?,
                }
            }
            let part = &named[start..];
            if part.is_empty() || part.len() > NAME_MAX || part.iter().any(u8::is_ascii_control) {
                let shown = shown(part);
                return Err(no_table(format!(
                    "the record names the table \"{shown}\", which is not a name that Postgres accepts"
                )));
            }
        }
        if [&b"tidegate\0"[..], b"information_schema\0", b"pg_"].iter().any(|taken| named.starts_with(taken)) {
            return Err(no_table(format!(
                "the record names {}, but Tidegate writes no records into this schema",
                of_key(named)
            )));
        }
        Ok(())
    }

    /// Returns the table whose name is in `named`, as [`Self::name`] writes it.
    pub(super) fn target(&self, named: &[u8]) -> Result<&RoutedTable, DecodeError> {
        self.tables.get(named).ok_or_else(|| {
            let table = of_key(named);
            no_table(match self.refused.get(named) {
                Some(why) => format!("the record is for {table}: {why}"),
                None if self.is_full => {
                    format!("the record is for {table}, and the pipeline writes `max_tables` tables already")
                }
                None => format!("the record is for {table}, which does not exist"),
            })
        })
    }

    /// Returns the table name in `named`, if this table receives no rows yet and the pipeline may still add tables.
    pub(super) fn unknown(&self, named: &[u8]) -> Option<TableName> {
        (!self.is_full && !self.tables.contains_key(named)).then(|| of_key(named))
    }
}

fn key(table: &TableName) -> Vec<u8> {
    [table.schema.as_bytes(), &[0], table.name.as_bytes()].concat()
}

fn of_key(named: &[u8]) -> TableName {
    let at = named.iter().position(|byte| *byte == 0).unwrap_or(named.len());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    TableName { schema: text(&named[..at]), name: text(named.get(at + 1..).unwrap_or_default()) }
}

/// Appends the value of a placeholder to `name`. Text is appended unchanged, a number or a bool as text.
fn append(
    feed: &Feed,
    record: &Record<'_>,
    fields: &Fields,
    made: &mut Vec<u8>,
    name: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let payload = record.value.unwrap_or_default();
    let value = match feed {
        Feed::Field(slot) => fields.value(*slot, payload),
        feed => meta::value(feed, record, fields, made)?,
    };
    match (value.kind, value.as_text()) {
        (Kind::String, Some(text)) if value.flags.has(Flags::ESCAPED) => string::unescape(text, name),
        (_, Some(text)) => name.extend_from_slice(text),
        // A whole number of a binary format has no text, so write its digits.
        (Kind::Number, _) if value.raw.is_empty() && value.exponent == 0 => {
            let sign = if value.flags.has(Flags::NEGATIVE) { "-" } else { "" };
            name.extend_from_slice(format!("{sign}{}", value.mantissa).as_bytes());
        }
        (Kind::True, _) => name.extend_from_slice(b"true"),
        (Kind::False, _) => name.extend_from_slice(b"false"),
        (Kind::Number, _) if !value.raw.is_empty() => name.extend_from_slice(value.raw),
        (Kind::Lexical, _) if simdutf8::basic::from_utf8(value.raw).is_ok() => name.extend_from_slice(value.raw),
        (Kind::Missing | Kind::Null, _) => {
            return Err(no_table(
                "the field, key or header that names the record's table is missing or null".to_owned(),
            ));
        }
        _ => return Err(no_table(format!("{} can't name a table", shown(value.raw)))),
    }
    Ok(())
}

fn no_table(detail: String) -> DecodeError {
    DecodeError { reason: Reason::NoTable, detail }
}
