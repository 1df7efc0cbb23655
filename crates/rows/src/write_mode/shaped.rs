//! The statements that write the rows of one transaction (a window of the batch) into a table, if rows may leave columns out. A
//! shape is the set of columns that a row leaves out. The rows of one shape are a group. There is one COPY into the staging table
//! per group, and one merge for all groups.
//!
//! - If every row of the window, apart from tombstones, leaves a column out, the merge doesn't name the column. So a new row gets
//!   the column's default from Postgres, as with any INSERT. In a row that exists, the column keeps its value or is reset to its
//!   default, as `missing` says.
//! - A column that only some rows leave out gets its default in the staging table. So does a column of the key, `newer_by` or
//!   `sort_by`, even if all rows leave it out, because the merge compares it. If such a column is generated, the same applies to
//!   its inputs.
//! - If there are several groups, each row carries its number in the order of delivery. The sequence of the staging table can't
//!   number the rows, because the groups are copied one after the other.

use super::newest::Newest;
use super::{Deletes, LEFT_OUT, MergeTarget, ORDER, Staged};
use crate::catalog::quote_identifier;
use crate::copy::NULL;
use crate::mapping::mark;
use crate::spec::WriteMode;

/// The rows of a window that leave out the same columns. `mask` has a set bit for each of these columns; see
/// [`Shapes`](crate::mapping::shapes::Shapes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    pub mask: &'a [u8],
    /// Whether all rows are tombstones. If so, the merge uses only their keys.
    pub tombstones: bool,
}

/// How the rows of a window are staged and merged: each group is copied, then [`Self::deletes`] run, then [`Self::merge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaped {
    /// In the order of the groups.
    pub copies: Vec<ShapeCopy>,
    pub merge: String,
    /// Set if records can delete rows.
    pub deletes: Option<Deletes>,
    /// Picks the rows that must be copied. `None` if all rows must be copied, for example if there are several groups.
    pub newest: Option<Newest>,
    /// Whether staged rows take defaults of the staging table. If so, these must be the target's current defaults.
    pub defaults: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeCopy {
    pub copy: String,
    pub behind: AddedFields,
}

/// Fields that are added to the end of each row of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedFields {
    /// The added fields that are the same for all rows, encoded as fields of COPY.
    pub fields: Vec<u8>,
    /// How many fields are added. Includes the row's number in the order of delivery.
    pub count: u16,
    /// Whether the row's number in the order of delivery is added after `fields`, as an int8.
    pub turn: bool,
}

impl AddedFields {
    /// Returns how many bytes [`Self::append`] adds to a row.
    pub fn bytes(&self) -> usize {
        self.fields.len() + if self.turn { 12 } else { 0 }
    }

    /// Appends the row to `out`, with the added fields at its end. `turn` is the row's number in the order of delivery.
    #[inline]
    pub fn append(&self, turn: u32, row: &[u8], out: &mut Vec<u8>) {
        match row.split_first_chunk::<2>() {
            Some((count, fields)) if self.count > 0 => {
                out.extend_from_slice(&(u16::from_be_bytes(*count) + self.count).to_be_bytes());
                out.extend_from_slice(fields);
                out.extend_from_slice(&self.fields);
                if self.turn {
                    out.extend_from_slice(&8_u32.to_be_bytes());
                    out.extend_from_slice(&u64::from(turn).to_be_bytes());
                }
            }
            _ => out.extend_from_slice(row),
        }
    }
}

/// Returns whether a row is a tombstone. Only for rows of mode upsert with `deletes`, whose last field says so.
pub fn is_tombstone(row: &[u8]) -> bool {
    row.last() == Some(&1)
}

impl MergeTarget<'_> {
    /// Returns the COPY of rows with this mask directly into the table. `table` is the table's name as SQL. Returns `None` if
    /// these rows leave out every column, because COPY requires at least one.
    pub fn copy_of(&self, table: &str, mask: &[u8]) -> Option<String> {
        let present = self.shapes.present(self.columns, mask);
        (!present.is_empty()).then(|| format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", super::names(&present)))
    }

    /// Returns how these groups of a window are staged and merged. `None` if the mode copies directly into the table.
    pub fn shaped(&self, groups: &[Group<'_>]) -> Option<Shaped> {
        let rows: Vec<_> = groups.iter().filter(|group| !group.tombstones).collect();
        let all_leave_out = |bit| !rows.is_empty() && rows.iter().all(|group| mark::has(group.mask, bit));
        let some_leave_out = |bit| rows.iter().any(|group| mark::has(group.mask, bit));
        let unmerged = |bit, name: &str| all_leave_out(bit) && !self.is_compared(name);
        let bit_of = |name: &str| self.shapes.columns().find(|(_, column)| column.name == name);
        let merged = self.columns.iter().filter(|name| bit_of(name).is_none_or(|(bit, _)| !unmerged(bit, name)));
        let mut staged = Staged { columns: merged.copied().collect(), ..Staged::default() };
        for (bit, column) in self.shapes.columns() {
            if unmerged(bit, &column.name) {
                staged.reset.extend((!column.keeps).then_some(column.name.as_str()));
                // A column of a domain type isn't set to NULL, because the domain may forbid NULL.
                let of = self.catalog.columns.iter().find(|of| of.name == column.name);
                let is_nulled = of.is_some_and(|of| of.default_oid.is_some() && of.type_oid == of.base_type_oid);
                staged.nulled.extend(is_nulled.then_some(column.name.as_str()));
            } else if column.keeps && some_leave_out(bit) && !self.is_compared(&column.name) {
                staged.kept.push((bit, column.name.as_str()));
            }
        }
        let (merge, deletes) = self.merge_of(&staged)?;
        let newest = match groups {
            [only] => {
                let present = self.shapes.present(self.columns, only.mask);
                Newest::of(&self.spec.table.mode, &present, self.catalog)
            }
            _ => None,
        };
        let staged_default =
            |(bit, name): (u16, &str)| some_leave_out(bit) && !unmerged(bit, name) && self.has_own(name);
        let defaults = self.shapes.columns().any(|(bit, column)| staged_default((bit, &column.name)));
        let turn = groups.len() > 1;
        let copies = groups.iter().map(|group| self.copy_of_group(group, &staged, turn)).collect();
        Some(Shaped { copies, merge, deletes, newest, defaults })
    }

    /// Returns whether the merge compares a column, or a generated column that is computed from it.
    fn is_compared(&self, name: &str) -> bool {
        let table = &self.spec.table;
        let newer_by = match &table.mode {
            WriteMode::Upsert { newer_by, .. } => newer_by.as_deref(),
            _ => None,
        };
        newer_by == Some(name)
            || table.mode.key().iter().chain(&table.sort_by).any(|column| column == name)
            || super::computed::inputs(table, self.catalog).any(|column| column == name)
    }

    fn copy_of_group(&self, group: &Group<'_>, staged: &Staged<'_>, turn: bool) -> ShapeCopy {
        let mut behind = AddedFields::default();
        let mut names = Vec::new();
        for (bit, column) in self.shapes.columns() {
            if mark::has(group.mask, bit) && staged.nulled.contains(&column.name.as_str()) {
                names.push(quote_identifier(&column.name));
                behind.fields.extend_from_slice(&NULL);
            }
        }
        if !staged.kept.is_empty() {
            names.push(LEFT_OUT.to_owned());
            let bits = u32::try_from(self.shapes.bits()).unwrap_or(0);
            let len = u32::try_from(4 + group.mask.len()).unwrap_or(0);
            behind.fields.extend_from_slice(&len.to_be_bytes());
            behind.fields.extend_from_slice(&bits.to_be_bytes());
            behind.fields.extend_from_slice(group.mask);
        }
        if turn {
            names.push(ORDER.to_owned());
            behind.turn = true;
        }
        behind.count = u16::try_from(names.len()).unwrap_or(0);
        ShapeCopy { copy: self.copy(&self.shapes.present(self.columns, group.mask), &names), behind }
    }
}
