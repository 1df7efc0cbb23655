//! The contents of JSON strings: resolves escapes, handles NULs, quotes text. The scanner has checked all JSON that these
//! functions take.

/// Appends the text of a string's contents, with escapes resolved. NULs are kept.
pub(crate) fn unescape(inside: &[u8], out: &mut Vec<u8>) {
    let mut rest = inside;
    while let Some(plain) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..plain]);
        let letter = rest.get(plain + 1).copied().unwrap_or_default();
        rest = rest.get(plain + 2..).unwrap_or_default();
        let byte = match letter {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (c, used) = scalar(rest);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = rest.get(used..).unwrap_or_default();
                continue;
            }
            other => other,
        };
        out.push(byte);
    }
    out.extend_from_slice(rest);
}

/// Returns the character of a `\u` escape (for a surrogate pair, of both escapes), and how many bytes of `rest` the escape takes.
/// `rest` begins with the hex digits.
fn scalar(rest: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = rest.get(at..at + 4).unwrap_or_default();
        digits.iter().fold(0, |unit, digit| unit * 16 + (*digit as char).to_digit(16).unwrap_or(0))
    };
    match unit(0) {
        high @ 0xd800..=0xdbff => {
            let c = 0x1_0000 + ((high - 0xd800) << 10) + unit(6).wrapping_sub(0xdc00);
            (char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER), 10)
        }
        unit => (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 4),
    }
}

/// Appends JSON text, and removes each escape of a NUL. With `replace`, the escape becomes that of U+FFFD instead. `\\u0000` is
/// kept: it is an escaped backslash, followed by `u0000`.
pub(crate) fn without_nul_escapes(text: &[u8], replace: bool, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(plain) = memchr::memchr(b'\\', rest) {
        let escape = &rest[plain..];
        if escape.starts_with(b"\\u0000") {
            out.extend_from_slice(&rest[..plain]);
            if replace {
                out.extend_from_slice(b"\\ufffd");
            }
            rest = &escape[6..];
        } else {
            let end = (plain + 2).min(rest.len());
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.extend_from_slice(rest);
}

/// Appends text as a JSON string. Quotes, backslashes and control characters are escaped.
pub(crate) fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..0x20 => {
                let digit = |n: u8| char::from_digit(n.into(), 16).map_or(b'0', |c| c as u8);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// Appends JSON text that has been scanned, with each bare `NaN`, `Infinity` and `-Infinity` in quotes.
pub(crate) fn quote_specials(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
        let special = [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|text| rest.starts_with(text));
        let len = match (rest[0], special) {
            (b'"', _) => {
                let mut scan = super::scan::Scanner::new(rest);
                // The scanner has read this string once, so it can't fail here.
                if scan.string().is_ok() { scan.at } else { rest.len() }
            }
            (_, Some(text)) => {
                out.push(b'"');
                out.extend_from_slice(text);
                out.push(b'"');
                at += text.len();
                continue;
            }
            _ => 1,
        };
        out.extend_from_slice(&rest[..len]);
        at += len;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn specials_are_quoted_outside_of_strings_only() {
        for (raw, quoted) in [
            (
                r#"{"a":NaN,"NaN":[-Infinity, Infinity,"NaN\\"]}"#,
                r#"{"a":"NaN","NaN":["-Infinity", "Infinity","NaN\\"]}"#,
            ),
            (r#"{"b":"\"NaN","c":NaN}"#, r#"{"b":"\"NaN","c":"NaN"}"#),
            ("[1,null,-2e5]", "[1,null,-2e5]"),
            ("NaN", r#""NaN""#),
        ] {
            let mut out = Vec::new();
            super::quote_specials(raw.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), quoted);
        }
    }
}
