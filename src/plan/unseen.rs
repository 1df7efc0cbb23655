//! Counts the fields that records lack, over all consumers of a pipeline. From the counts, the log and the page name the fields
//! that no record has had.

use std::collections::BTreeMap;

use tidegate_rows::mapping::MissingField;

/// After this many rows, the fields that no row has had are named.
const NEVER_SEEN_AFTER: u64 = 1000;

/// The rows since the current plan was made, and how many of them lacked each column's field.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    version: u64,
    rows: u64,
    /// For each column: the path of its field, and the number of rows that lacked the field. Columns with a default are left out,
    /// and so are columns for which the mapping says what a missing field means.
    missing: BTreeMap<String, (String, u64)>,
    /// Whether the log has already named the fields that no record has.
    named: bool,
}

/// A column whose field no record has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeverSeen {
    pub column: String,
    /// The field's path, as a mapping writes it.
    pub path: String,
}

impl Unseen {
    /// Prepares for the counts of an encoder whose plan has this version. A newer version than before starts the counts again at
    /// 0. Returns false if the version is older than before. The caller must then not add the encoder's counts.
    pub(super) fn turn_to(&mut self, version: u64) -> bool {
        if version > self.version {
            *self = Self { version, ..Self::default() };
        }
        version == self.version
    }

    /// Adds the number of rows that lacked a column's field. The caller leaves out columns whose mapping says what a missing
    /// field means.
    pub(super) fn add(&mut self, field: &MissingField<'_>) {
        match self.missing.get_mut(field.column) {
            Some((_, rows)) => *rows += field.rows,
            None if field.has_default => {}
            None => drop(self.missing.insert(field.column.to_owned(), (field.path.join("."), field.rows))),
        }
    }

    pub(super) fn add_rows(&mut self, rows: u64) {
        self.rows += rows;
    }

    /// Returns the columns whose field no record has had; none until there are enough rows.
    pub(super) fn never_seen(&self) -> Vec<NeverSeen> {
        if self.rows < NEVER_SEEN_AFTER {
            return Vec::new();
        }
        let never = self.missing.iter().filter(|(_, (_, rows))| *rows >= self.rows);
        never.map(|(column, (path, _))| NeverSeen { column: column.clone(), path: path.clone() }).collect()
    }

    /// Returns what the log must say now: the number of rows, and the columns whose field no record has had. `None` if there is
    /// nothing to say, or if the log has named such columns since the plan was made.
    pub(super) fn news(&mut self) -> Option<(u64, Vec<NeverSeen>)> {
        if self.named || self.rows < NEVER_SEEN_AFTER {
            return None;
        }
        let never = self.never_seen();
        self.named = !never.is_empty();
        self.named.then_some((self.rows, never))
    }
}
