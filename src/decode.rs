//! A record's value becomes slots: one for each field that the plan asks for.
//!
//! Formats differ in how they find a field, and in nothing else: each fills the same slots, and the encoders don't know
//! where these come from. A format is an arm of `Decoder`.

pub(crate) mod json;

use crate::config;
use crate::decode::json::JsonDecoder;
use crate::value::{Reason, Slot};

/// A field's path from the top, one element a level.
pub(crate) type Path = Vec<String>;

/// What the decoder does with top-level fields that no path begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    Ignore,
    Refuse,
    Collect,
}

/// Why a value can't be decoded: at which byte, and a sentence's second half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeFault {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

/// What decoding leaves: slots that point into the payload, in the order of the paths.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) slots: Vec<Slot>,
    /// Top-level members that no path begins with, as `"key":value` each with a comma behind it.
    pub(crate) leftovers: Vec<u8>,
    /// One of them stands for a NUL.
    pub(crate) leftovers_hold_nul: bool,
}

/// A decoder with what it has learned of the records so far.
#[derive(Debug)]
pub(crate) enum Decoder {
    Json(JsonDecoder),
}

impl Decoder {
    /// Plans the search for `paths`, which are distinct.
    pub(crate) fn new(format: &config::Decode, paths: &[Path], leftovers: Leftovers) -> Self {
        match format {
            config::Decode::Json => Self::Json(JsonDecoder::new(paths, leftovers)),
        }
    }

    /// Fills `fields` from a payload.
    #[inline]
    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeFault> {
        match self {
            Self::Json(json) => json.decode(payload, fields),
        }
    }
}
