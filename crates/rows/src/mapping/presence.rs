//! Counts, for each column, how many rows lack its field. A row counts once the encoder begins to write its columns, even if a
//! column then rejects the row. Rows that delete or that the row filter drops don't count. Rows with a new or unknown field, or
//! without a valid table, don't count if they are rejected for that.

use crate::decode::{Fields, Path};
use crate::mapping::plan::{Feed, Plan, PlannedColumn, WhenMissing};
use crate::mapping::{Encoder, Refusal};
use crate::value::Kind;

/// The number of rows since the last call of [`Encoder::take_missing`], and how many of these rows lacked each field. The index
/// in `missing` is the field's slot.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) rows: u64,
    missing: Vec<u64>,
}

/// A column that takes a field, and the number of rows that lacked the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingField<'a> {
    pub column: &'a str,
    /// As a mapping writes it.
    pub path: &'a [String],
    /// Whether a missing field means something other than NULL: a default of the mapping or the table, the kept value of an
    /// existing row, or a dead letter.
    pub has_default: bool,
    pub rows: u64,
}

impl Presence {
    pub(super) fn of(plan: &Plan) -> Self {
        Self { rows: 0, missing: vec![0; plan.paths.len()] }
    }

    /// Counts the column's field if it is missing in the current row. A field that several columns take is counted once. A field
    /// with the text of `keep` isn't counted.
    #[inline]
    pub(super) fn note(&mut self, column: &PlannedColumn, fields: &Fields) {
        if let Feed::Field(slot) = column.feed
            && column.is_first_of_field
            && fields.slots.get(usize::from(slot)).is_none_or(|slot| slot.kind == Kind::Missing)
            && let Some(missing) = self.missing.get_mut(usize::from(slot))
        {
            *missing += 1;
        }
    }
}

impl Plan {
    /// Returns a path as a mapping writes it. In Debezium's envelope, the row is in `after`, which a mapping leaves out.
    pub(super) fn within_row<'p>(&self, path: &'p Path) -> &'p [String] {
        path.strip_prefix(self.base.as_slice()).unwrap_or(path)
    }
}

impl Encoder {
    /// Calls `each` for each column that takes a field, with the number of rows that lacked the field. Returns the number of all
    /// rows. Counts only rows since the last call. A record that is encoded twice counts twice. If records name their table, the
    /// columns are those of the first table.
    pub fn take_missing(&mut self, mut each: impl FnMut(MissingField<'_>)) -> u64 {
        for column in &self.plan.columns {
            let Feed::Field(slot) = column.feed else { continue };
            let (Some(path), Some(rows)) =
                (self.plan.paths.get(usize::from(slot)), self.presence.missing.get(usize::from(slot)))
            else {
                continue;
            };
            let (path, has_default) = (self.plan.within_row(path), !matches!(column.missing, WhenMissing::Null));
            each(MissingField { column: &column.name, path, has_default, rows: *rows });
        }
        self.presence.missing.fill(0);
        std::mem::take(&mut self.presence.rows)
    }

    /// Counts the missing fields of the columns after the one that rejected a row. The row itself has been counted, but the
    /// encoder didn't reach these columns.
    #[cold]
    pub(super) fn count_rest(&mut self, refusal: &Refusal) {
        let (Refusal::Column(at, _) | Refusal::Meta(at, _)) = refusal else { return };
        let columns = match &self.plan.router {
            None => &self.plan.columns,
            Some(router) => match router.target(&self.named) {
                Ok(target) => &target.columns,
                Err(_) => return,
            },
        };
        for column in columns.iter().skip(usize::from(*at) + 1) {
            self.presence.note(column, &self.fields);
        }
    }
}
