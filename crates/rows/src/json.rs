//! JSON text: a scanner that checks it, iterators over members and elements, and strings with escapes.
//!
//! No tree is built: values point into the text. Functions that change text append the result to a buffer of the caller.

pub mod members;
pub(crate) mod scan;
pub(crate) mod string;

use crate::value::{DecodeError, Reason, Slot, shown};
use scan::{Broken, Fault, Scanner};

/// Reads UTF-8 that is exactly one JSON number or boolean, or `-Infinity`. Returns `None` for other text. In most cases its first
/// byte is enough to know, so the check costs almost nothing.
#[inline]
pub(crate) fn literal(text: &[u8]) -> Option<Slot> {
    if !matches!(text.first(), Some(b'-' | b'0'..=b'9' | b't' | b'f')) {
        return None;
    }
    let mut scan = Scanner::new(text);
    let mut slot = Slot::MISSING;
    let whole = scan.value(0, &mut slot).is_ok() && scan.at == text.len();
    whole.then_some(slot)
}

/// Reads text that is one JSON value, with or without spaces around it: a key, a header, a constant of the configuration.
pub fn document(text: &[u8]) -> Result<Slot, DecodeError> {
    if simdutf8::basic::from_utf8(text).is_err() {
        return Err(not_utf8(text, 0));
    }
    let mut scan = Scanner::new(text);
    let mut slot = Slot::MISSING;
    let whole = |scan: &mut Scanner<'_>, slot: &mut Slot| {
        scan.space();
        scan.value(0, slot)?;
        scan.space();
        if scan.at < text.len() { scan.fault("something follows the value") } else { Ok(()) }
    };
    match whole(&mut scan, &mut slot) {
        Ok(()) => Ok(slot),
        Err(Broken) => Err(not_json(text, scan.fault)),
    }
}

#[cold]
pub(crate) fn not_utf8(payload: &[u8], start: usize) -> DecodeError {
    let at = start + std::str::from_utf8(&payload[start..]).err().map_or(0, |error| error.valid_up_to());
    DecodeError { reason: Reason::InvalidUtf8, detail: format!("the value is not UTF-8 at byte {at}") }
}

#[cold]
pub(crate) fn not_json(payload: &[u8], fault: Fault) -> DecodeError {
    let rest = payload.get(fault.at..).filter(|rest| !rest.is_empty());
    let near = rest.map_or(String::new(), |rest| format!(" at {}", shown(&rest[..rest.len().min(16)])));
    let detail = format!("the value is not JSON: byte {}{near}: {}", fault.at, fault.what);
    DecodeError { reason: Reason::InvalidJson, detail }
}
