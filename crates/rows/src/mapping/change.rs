//! Debezium's changes: the rows of an insert, an update, a delete and other operations.

use tidegate_protocol::record::Record;

use crate::mapping::{Encoder, Refusal};
use crate::value::{self, DecodeError, Kind, Reason};

impl Encoder {
    /// Writes the row of a change whose fields are decoded.
    ///
    /// - `c`, `r`, `u`: the row after the change.
    /// - `d`: in mode upsert with `deletes`, a delete of the row. Otherwise, the row before the change if a column takes `op`,
    ///   and no row if no column takes it.
    /// - `m`, a message in the database's log: no row.
    /// - `t`, a truncated table: rejected, because a pipeline doesn't empty a table.
    pub(super) fn change(&mut self, record: &Record<'_>, payload: &[u8], rows: &mut Vec<u8>) -> Result<u32, Refusal> {
        let Some((op, shown)) = self.plan.change.as_ref().map(|change| (change.op, change.shown)) else { return Ok(0) };
        let op = self.fields.value(op, payload);
        let refused = |reason, detail: String| Err(Refusal::Record(DecodeError { reason, detail }));
        match op.as_text() {
            Some(b"c" | b"r" | b"u") => self.row(record, payload, rows),
            Some(b"d") if self.plan.deletes => {
                self.look_before();
                self.delete(record, payload, rows).map(|()| 1).map_err(Refusal::Record)
            }
            Some(b"d") if shown => {
                self.look_before();
                self.row(record, payload, rows)
            }
            Some(b"d" | b"m") => Ok(0),
            Some(b"t") => refused(
                Reason::UnappliedChange,
                "the source table was truncated, and Tidegate does not truncate the target table; truncate it yourself if it must be empty too"
                    .to_owned(),
            ),
            Some(other) => {
                refused(Reason::UnappliedChange, format!("its `op` is \"{}\", which is unknown", value::shown(other)))
            }
            None if op.kind == Kind::Missing => refused(
                Reason::InvalidFormat,
                "the value has no `op`, so it is not Debezium's envelope; leave `decode.envelope` out if a transform has \
                 unwrapped it"
                    .to_owned(),
            ),
            None => refused(Reason::InvalidFormat, format!("its `op` {} is not text", value::shown(op.raw))),
        }
    }

    fn look_before(&mut self) {
        if let Some(change) = &self.plan.change {
            self.fields.copy(&change.before);
        }
    }
}
