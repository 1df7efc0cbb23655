//! Iterates over the members of a JSON object and the elements of an array, for callers that don't know them beforehand.

use crate::json::scan::Scanner;
use crate::json::string;
use crate::value::{Flags, Slot, Value};

/// Iterates over the members of an object, in their order. Each name is as in the text, without its quotes; the flags say whether
/// the name contains escapes.
pub(crate) struct RawMembers<'a> {
    scan: Scanner<'a>,
}

impl<'a> RawMembers<'a> {
    /// Reads `raw`: a valid JSON object, or members without braces, each followed by a comma: `"a":1,"b":2,`.
    pub(crate) fn of(raw: &'a [u8]) -> Self {
        let mut scan = Scanner::new(raw);
        scan.space();
        if scan.peek() == b'{' {
            scan.at += 1;
        }
        Self { scan }
    }
}

impl<'a> Iterator for RawMembers<'a> {
    type Item = (&'a [u8], Flags, Value<'a>);

    fn next(&mut self) -> Option<(&'a [u8], Flags, Value<'a>)> {
        let scan = &mut self.scan;
        scan.space();
        if scan.peek() == b',' {
            scan.at += 1;
            scan.space();
        }
        if scan.peek() != b'"' {
            return None;
        }
        let start = scan.at;
        let flags = scan.string().ok()?;
        let name = scan.bytes.get(start + 1..scan.at - 1)?;
        scan.space();
        // Skip the colon.
        scan.at += 1;
        scan.space();
        let mut slot = Slot::MISSING;
        scan.value(0, &mut slot).ok()?;
        Some((name, flags, slot.of(scan.bytes)))
    }
}

/// Iterates over the members of an object, in their order. The names are unescaped.
pub struct Members<'a>(RawMembers<'a>);

impl<'a> Members<'a> {
    /// Reads `raw`: a valid JSON object, or members without braces, each followed by a comma: `"a":1,"b":2,`.
    pub fn of(raw: &'a [u8]) -> Self {
        Self(RawMembers::of(raw))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (String, Value<'a>);

    fn next(&mut self) -> Option<(String, Value<'a>)> {
        let (quoted, flags, value) = self.0.next()?;
        let name = if flags.has(Flags::ESCAPED) {
            let mut name = Vec::new();
            string::unescape(quoted, &mut name);
            name
        } else {
            quoted.to_vec()
        };
        Some((String::from_utf8(name).ok()?, value))
    }
}

pub struct Elements<'a> {
    scan: Scanner<'a>,
}

impl<'a> Elements<'a> {
    /// Iterates over `raw`: a valid JSON array that begins with its bracket, without spaces in front.
    pub fn of(raw: &'a [u8]) -> Self {
        let mut scan = Scanner::new(raw);
        scan.at = 1;
        Self { scan }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.scan.space();
        if self.scan.peek() == b',' {
            self.scan.at += 1;
            self.scan.space();
        }
        if self.scan.peek() == b']' {
            return None;
        }
        let mut slot = Slot::MISSING;
        self.scan.value(0, &mut slot).ok()?;
        Some(slot.of(self.scan.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_their_order_with_their_names_unescaped() {
        for raw in [r#" { "b" : 1.5 , "a\u00e9":[1,{"x":2}],"":null } "#, r#""b":1.5,"a\u00e9":[1,{"x":2}],"":null,"#] {
            let members: Vec<_> = Members::of(raw.as_bytes()).map(|(name, value)| (name, value.raw)).collect();
            let expected: [(&str, &[u8]); 3] = [("b", b"1.5"), ("a\u{e9}", br#"[1,{"x":2}]"#), ("", b"null")];
            assert_eq!(members, expected.map(|(name, raw)| (name.to_owned(), raw)));
        }
        assert_eq!(Members::of(b"{}").count() + Members::of(b"").count(), 0);
    }
}
