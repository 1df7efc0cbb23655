//! `raw`: the value unchanged, as the only field, `value`.

use crate::decode::Fields;
use crate::decode::Path;
use crate::decode::narrow;
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, Slot};

pub(crate) const FIELD: &str = "value";

#[derive(Debug)]
pub(crate) struct RawDecoder {
    /// For each slot, whether it takes the value. Other slots stay missing.
    takes: Vec<bool>,
}

impl RawDecoder {
    pub(crate) fn new(paths: &[Path]) -> Self {
        Self { takes: paths.iter().map(|path| path.as_slice() == [FIELD]).collect() }
    }

    pub(crate) fn decode(&self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        fields.reset(self.takes.len());
        if u32::try_from(payload.len()).is_err() {
            return Err(DecodeError::new(Reason::TooLarge, "the value is larger than 4 GiB"));
        }
        let whole = Slot { kind: Kind::Lexical, flags: Flags::BINARY, len: narrow(payload.len()), ..Slot::MISSING };
        for (slot, takes) in fields.slots.iter_mut().zip(&self.takes) {
            if *takes {
                *slot = whole;
            }
        }
        Ok(())
    }
}
