//! The contribution of a record to an aggregate: its value, a mark that it counts, or nothing.

use crate::copy::NULL;
use crate::decode::Fields;
use crate::mapping::row_filter::Check;
use crate::value::{Kind, Value};

/// A bool that is true.
const COUNTED: [u8; 5] = [0, 0, 0, 1, 1];

/// How a column of mode aggregate is fed.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// A count needs no value, only that there is one.
    pub(super) counts: bool,
    /// Records for which it doesn't hold give nothing.
    pub(super) condition: Option<Check>,
}

impl Fold {
    /// Writes the field where it isn't the value itself; whether it did.
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
