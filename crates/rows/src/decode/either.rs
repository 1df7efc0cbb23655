//! Debezium's changes as JSON. The converter's setting `schemas.enable` decides whether they have Kafka Connect's
//! envelope.

use crate::decode::connect::ConnectDecoder;
use crate::decode::json::{JsonDecoder, byte_order_mark};
use crate::decode::{Fields, Leftovers, Path};
use crate::value::{DecodeError, Kind, Reason};

/// Finds the planned fields in Debezium's changes, which come in two forms: plain JSON, or wrapped in Kafka Connect's envelope.
/// Each record is first decoded in the form of the previous one. If that fails, or finds no field `op`, the record is decoded in
/// the other form.
#[derive(Debug)]
pub(crate) struct EitherDecoder {
    plain: JsonDecoder,
    wrapped: ConnectDecoder,
    is_wrapped: bool,
    /// The slot of the field `op`, which every change has. `None` if `op` isn't among the planned fields.
    op: Option<usize>,
}

impl EitherDecoder {
    pub(crate) fn new(paths: &[Path], leftovers: Leftovers, base: &[String]) -> Self {
        Self {
            plain: JsonDecoder::within(paths, leftovers, base),
            wrapped: ConnectDecoder::new(paths, leftovers, base),
            is_wrapped: true,
            op: paths.iter().position(|path| path.as_slice() == [OP]),
        }
    }

    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        let first = self.attempt(payload, fields);
        if matches!(&first, Err(fault) if fault.reason == Reason::Tombstone) || self.fits(&first, fields) {
            return first;
        }
        self.is_wrapped = !self.is_wrapped;
        let second = self.attempt(payload, fields);
        if self.fits(&second, fields) {
            return second;
        }
        // The value has neither form. The error of the plain form explains best what is wrong.
        if self.is_wrapped {
            self.is_wrapped = false;
            return self.attempt(payload, fields);
        }
        second
    }

    fn attempt(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        if self.is_wrapped {
            self.wrapped.decode(payload, fields)
        } else {
            self.plain.object(payload, byte_order_mark(payload), fields)
        }
    }

    fn fits(&self, result: &Result<(), DecodeError>, fields: &Fields) -> bool {
        let op = self.op.and_then(|op| fields.slots.get(op)).map(|slot| slot.kind);
        result.is_ok() && op.is_some_and(|kind| kind != Kind::Missing)
    }
}

/// The name of the field that contains the operation: `c` (create), `u` (update), `d` (delete), `r` (snapshot read), `t`
/// (truncate) or `m` (message).
pub(crate) const OP: &str = "op";
