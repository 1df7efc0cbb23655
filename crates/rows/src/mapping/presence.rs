//! Counts how many rows have the field of each column, for the records that `check` tries.

use tidegate_protocol::record::Record;

use crate::decode::Path;
use crate::mapping::plan::{Feed, Plan};
use crate::mapping::{Encoder, tombstone};
use crate::value::Kind;

/// Counts, over records of one plan, the rows that have each field.
#[derive(Debug, Default)]
pub struct Presence {
    rows: u64,
    present: Vec<u64>,
}

impl Presence {
    /// Returns how many rows were counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns how many of the counted rows have the field at `path`, null or not; `None` if no column is filled from
    /// `path`. `path` is written as in the mapping.
    pub fn of(&self, plan: &Plan, path: &[String]) -> Option<u64> {
        let slot = plan.paths.iter().position(|known| plan.within_row(known) == Some(path))?;
        Some(self.present.get(slot).copied().unwrap_or(0))
    }
}

impl Plan {
    /// Returns the columns that are filled from a field, each with the field's path as a mapping writes it. There are none if
    /// records name their table.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.columns.iter().filter_map(|column| match column.feed {
            Feed::Field(slot) => Some((&*column.name, self.within_row(self.paths.get(usize::from(slot))?)?)),
            _ => None,
        })
    }

    /// Returns a path as a mapping writes it. In a change of Debezium, the row is in `after`, which a mapping doesn't write.
    fn within_row<'p>(&self, path: &'p Path) -> Option<&'p [String]> {
        match &self.change {
            Some(_) => path.split_first().filter(|(first, _)| *first == "after").map(|(_, rest)| rest),
            None => Some(path),
        }
    }
}

impl Encoder {
    /// Counts the fields of a record's rows. Records that can't be decoded, and records that only delete, count as no rows.
    pub fn count_fields(&mut self, record: &Record<'_>, presence: &mut Presence) {
        let Some(payload) = record.value.filter(|payload| !tombstone::is_spelled_out(payload)) else { return };
        self.each_row(record, payload, |this| {
            if this.changes_row(payload) {
                presence.rows += 1;
                presence.present.resize(this.fields.slots.len(), 0);
                for (count, slot) in presence.present.iter_mut().zip(&this.fields.slots) {
                    *count += u64::from(slot.kind != Kind::Missing);
                }
            }
        });
    }

    /// Returns whether the decoded change has a row after it. A delete, for example, has none.
    fn changes_row(&self, payload: &[u8]) -> bool {
        let op = self.plan.change.as_ref().map(|change| self.fields.value(change.op, payload));
        op.is_none_or(|op| matches!(op.as_text(), Some(b"c" | b"r" | b"u")))
    }
}
