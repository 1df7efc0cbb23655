//! The input that a row gives to an aggregate: the column's value, a mark that the row counts, or nothing.

use crate::copy::NULL;
use crate::decode::Fields;
use crate::mapping::row_filter::Check;
use crate::value::{Kind, Value};

const COUNTED: [u8; 5] = [0, 0, 0, 1, 1];

/// How a column of mode aggregate gets its input from a row.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// Whether the aggregate is a count, for which only the presence of a value matters.
    pub(super) counts: bool,
    /// The column's own `where`. A row that doesn't match it doesn't change the aggregate.
    pub(super) condition: Option<Check>,
}

impl Fold {
    /// Writes the input that a row gives to the aggregate, and returns true. If this input is simply `value`, writes nothing and
    /// returns false. The caller then encodes `value`.
    pub(super) fn put(
        &self,
        value: &Value<'_>,
        fields: &Fields,
        payload: &[u8],
        scratch: &mut Vec<u8>,
        rows: &mut Vec<u8>,
    ) -> bool {
        let joins = self.condition.as_ref().is_none_or(|check| check.holds(fields, payload, scratch));
        let there = !matches!(value.kind, Kind::Missing | Kind::Null);
        match (joins, self.counts) {
            (true, false) => return false,
            (true, true) if there => rows.extend_from_slice(&COUNTED),
            _ => rows.extend_from_slice(&NULL),
        }
        true
    }
}
