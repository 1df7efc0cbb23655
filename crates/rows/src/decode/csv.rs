//! CSV: each line of a value is a row. The columns are configured, or the first line of the value names them.
//!
//! Fields are quoted as in RFC 4180: a quote inside a quoted field is doubled. Lines end with LF or CRLF. Empty lines are
//! skipped. A field is null if it equals the configured NULL text and isn't quoted. Fields point into the payload, except that
//! fields with doubled quotes are copied. A header isn't parsed again if it equals the header of the previous value.

use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::json::byte_order_mark;
use crate::decode::narrow;
use crate::json::scan::Scanner;
use crate::json::string;
use crate::spec::CsvOptions;
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, Slot, shown};

/// Where the fields of a CSV column go: into a slot, to the leftovers, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColumnTarget {
    Slot(u16),
    Leftover,
    Nothing,
}

/// Finds the planned fields in lines of CSV. `targets` and `quoted` have one element per column of the CSV. `quoted` has the
/// columns' names as JSON strings, for leftovers, and whether each name contains a NUL. If the first line of a value names the
/// columns, `header` is this line.
#[derive(Debug)]
pub(crate) struct CsvDecoder {
    options: CsvOptions,
    /// The paths as names, with dots between the levels. Slot `i` is for `names[i]`.
    names: Vec<String>,
    leftovers: Leftovers,
    targets: Vec<ColumnTarget>,
    quoted: Vec<(Box<[u8]>, bool)>,
    header: Vec<u8>,
    /// Whether neither the delimiter nor the quote can occur in a number. If so, a number is parsed while its field is read.
    numbers_are_plain: bool,
    /// The index of the next byte. Between two rows, this is where the next line begins.
    at: usize,
    /// The number of the current line, counted from 1, for error messages. Empty lines and line feeds inside quotes aren't
    /// counted.
    line: u32,
}

/// A field of a line. `last` says whether the line ends after the field.
struct CsvField {
    slot: Slot,
    quoted: bool,
    last: bool,
}

impl CsvDecoder {
    pub(crate) fn new(options: &CsvOptions, paths: &[Path], leftovers: Leftovers) -> Self {
        let names = paths.iter().map(|path| path.join(".")).collect();
        let mut this = Self {
            options: options.clone(),
            names,
            leftovers,
            targets: Vec::new(),
            quoted: Vec::new(),
            header: Vec::new(),
            numbers_are_plain: ![options.delimiter, options.quote]
                .iter()
                .any(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')),
            at: 0,
            line: 0,
        };
        for name in options.columns.iter().flatten() {
            this.add_column(name.as_bytes());
        }
        this
    }

    fn add_column(&mut self, name: &[u8]) {
        let slot = self.names.iter().position(|wanted| wanted.as_bytes() == name);
        let target = match (slot.and_then(|slot| u16::try_from(slot).ok()), self.leftovers) {
            (Some(slot), _) => ColumnTarget::Slot(slot),
            (None, Leftovers::Ignore) => ColumnTarget::Nothing,
            (None, Leftovers::Refuse | Leftovers::Collect) => ColumnTarget::Leftover,
        };
        let mut quoted = Vec::new();
        string::quote(name, &mut quoted);
        self.targets.push(target);
        self.quoted.push((quoted.into(), memchr::memchr(0, name).is_some()));
    }

    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        (self.at, self.line) = (byte_order_mark(payload), 0);
        if u32::try_from(payload.len()).is_err() {
            return Err(DecodeError::new(Reason::TooLarge, "the value is larger than 4 GiB"));
        }
        if simdutf8::basic::from_utf8(payload).is_err() {
            let at = std::str::from_utf8(payload).err().map_or(0, |error| error.valid_up_to());
            return Err(DecodeError::new(Reason::InvalidUtf8, format!("the value is not UTF-8 at byte {at}")));
        }
        if self.options.columns.is_none() {
            self.read_header(payload, fields)?;
        }
        self.next(payload, fields)
    }

    /// Decodes the next line that isn't empty. Returns whether there is one.
    pub(crate) fn next(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        fields.reset(self.names.len());
        if !self.skip_empty_lines(payload) {
            return Ok(false);
        }
        self.line += 1;
        let mut column = 0;
        loop {
            let field = self.field(payload, fields)?;
            self.place(column, &field, payload, fields)?;
            column += 1;
            if field.last {
                break;
            }
        }
        if column != self.targets.len() {
            let (line, wanted) = (self.line, self.targets.len());
            let what = if self.options.columns.is_some() { "`decode.columns` names" } else { "its header has" };
            return Err(invalid(&format!("line {line} has {column} fields, and {what} {wanted}")));
        }
        fields.more = self.skip_empty_lines(payload);
        Ok(true)
    }

    /// Skips empty lines. Returns whether there is another line.
    fn skip_empty_lines(&mut self, payload: &[u8]) -> bool {
        while ends_line(payload, self.at) {
            self.at += 1;
        }
        self.at < payload.len()
    }

    fn place(&self, column: usize, field: &CsvField, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        let Some(target) = self.targets.get(column) else { return Ok(()) }; // the caller rejects lines with too many fields
        if *target == ColumnTarget::Nothing {
            return Ok(());
        }
        let null = self.options.null.as_bytes();
        let null = !field.quoted && field.slot.len as usize == null.len() && field.slot.of(payload).raw == null;
        match target {
            ColumnTarget::Nothing => {}
            ColumnTarget::Slot(slot) => {
                if let Some(place) = fields.slots.get_mut(usize::from(*slot)) {
                    *place = if null { Slot::NULL } else { field.slot };
                }
            }
            ColumnTarget::Leftover if self.leftovers == Leftovers::Refuse => {
                let name = shown(&self.quoted[column].0);
                return Err(DecodeError::new(Reason::UnknownField, format!("the field {name} has no column")));
            }
            ColumnTarget::Leftover => {
                let source = if field.slot.flags.has(Flags::MADE) { &fields.made } else { payload };
                let raw = field.slot.of(source).raw;
                let (name, nul) = &self.quoted[column];
                let hold_nul = *nul || field.slot.flags.has(Flags::NUL);
                fields.leftovers.extend_from_slice(name);
                fields.leftovers.push(b':');
                if null {
                    fields.leftovers.extend_from_slice(b"null");
                } else {
                    string::quote(raw, &mut fields.leftovers);
                }
                fields.leftovers.push(b',');
                if hold_nul {
                    fields.leftovers_flags = Flags::NUL;
                }
            }
        }
        Ok(())
    }

    /// Reads the header, which is the first line that isn't empty. If it equals the previous value's header, `targets` are
    /// reused.
    fn read_header(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        fields.reset(0);
        if !self.skip_empty_lines(payload) {
            return Ok(());
        }
        let rest = &payload[self.at..];
        let known = !self.header.is_empty() && rest.starts_with(&self.header);
        let end = self.at + self.header.len();
        if known && (end == payload.len() || ends_line(payload, end)) {
            self.at = end;
            self.line = 1;
            return Ok(());
        }
        let start = self.at;
        self.line = 1;
        self.header.clear();
        self.targets.clear();
        self.quoted.clear();
        loop {
            let field = self.field(payload, fields)?;
            let source = if field.slot.flags.has(Flags::MADE) { &fields.made } else { payload };
            let name = field.slot.of(source).raw.to_vec();
            if self.quoted.len() >= usize::from(u16::MAX) {
                return Err(invalid("its header has too many columns"));
            }
            let before = self.quoted.len();
            self.add_column(&name);
            if self.quoted[..before].contains(&self.quoted[before]) {
                let name = shown(&name);
                self.targets.clear();
                return Err(invalid(&format!("its header names the column \"{name}\" twice")));
            }
            if field.last {
                break;
            }
        }
        // The line ends where `field` stopped.
        let line = &payload[start..self.at];
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Don't remember a header whose last name ends with `\r`, such as `a,b\r\r\n` with the name `b\r`. The header `a,b\r\n`
        // of a later value begins with the same bytes, but its last name is `b`.
        if !line.ends_with(b"\r") {
            self.header.extend_from_slice(line);
        }
        Ok(())
    }

    /// Reads the field that begins at `self.at`, and the delimiter or the line end after it.
    #[inline]
    fn field(&mut self, payload: &[u8], fields: &mut Fields) -> Result<CsvField, DecodeError> {
        let (slot, quoted) = match payload.get(self.at) {
            Some(byte) if *byte == self.options.quote => (self.quoted_field(payload, fields)?, true),
            _ => (self.plain_field(payload)?, false),
        };
        let last = match payload.get(self.at) {
            None => true,
            Some(byte) if *byte == self.options.delimiter => {
                self.at += 1;
                // If the delimiter is the last byte of the payload, one more field follows, which is empty. The next call
                // returns it.
                false
            }
            Some(b'\r') if payload.get(self.at + 1).is_none_or(|byte| *byte == b'\n') => {
                self.at = (self.at + 2).min(payload.len());
                true
            }
            Some(b'\n') => {
                self.at += 1;
                true
            }
            Some(_) => {
                let near = shown(&payload[self.at..(self.at + 16).min(payload.len())]);
                let line = self.line;
                return Err(invalid(&format!("line {line}, byte {}, at {near}: text after a closing quote", self.at)));
            }
        };
        Ok(CsvField { slot, quoted, last })
    }

    /// Reads a field without quotes. If the whole field is a JSON number, the scanner finds the field's end while it
    /// parses the number.
    #[inline]
    fn plain_field(&mut self, payload: &[u8]) -> Result<Slot, DecodeError> {
        let start = self.at;
        let mut scan = Scanner::new(payload);
        scan.at = start;
        let mut slot = Slot { kind: Kind::Lexical, start: narrow(start), ..Slot::MISSING };
        if self.numbers_are_plain
            && matches!(scan.peek(), b'-' | b'0'..=b'9')
            && let Ok(flags) = scan.number::<true>(&mut slot)
            && self.ends(payload, scan.at)
        {
            slot.flags = flags.with(Flags::NUMERIC);
            slot.len = narrow(scan.at - start);
            self.at = scan.at;
            return Ok(slot);
        }
        (slot.mantissa, slot.exponent) = (0, 0);
        scan.at = start;
        loop {
            scan.find([self.options.delimiter, b'\n', self.options.quote]);
            match payload.get(scan.at) {
                Some(0) if self.options.delimiter != 0 => {
                    slot.flags = Flags::NUL;
                    scan.at += 1;
                }
                Some(byte) if *byte == self.options.quote => return Err(self.stray_quote(payload)),
                _ => break,
            }
        }
        let mut end = scan.at;
        if end > start && payload[end - 1] == b'\r' && payload.get(end).is_none_or(|byte| *byte == b'\n') {
            end -= 1;
        }
        slot.len = narrow(end - start);
        self.at = end;
        Ok(slot)
    }

    #[inline]
    fn ends(&self, payload: &[u8], at: usize) -> bool {
        payload.get(at).is_none_or(|byte| *byte == self.options.delimiter) || ends_line(payload, at)
    }

    #[cold]
    fn stray_quote(&self, payload: &[u8]) -> DecodeError {
        let (line, start, rest) = (self.line, self.at, &payload[self.at..]);
        let end = memchr::memchr2(self.options.delimiter, b'\n', rest).unwrap_or(rest.len());
        let shown = shown(&rest[..end]);
        invalid(&format!("line {line}, byte {start}, at {shown}: a quote inside a field that is not quoted"))
    }

    #[inline(never)]
    fn quoted_field(&mut self, payload: &[u8], fields: &mut Fields) -> Result<Slot, DecodeError> {
        let start = self.at + 1;
        let made = fields.made.len();
        let mut piece = start;
        loop {
            let Some(end) = payload.get(piece..).and_then(|rest| memchr::memchr(self.options.quote, rest)) else {
                let line = self.line;
                return Err(invalid(&format!("line {line}, byte {}: a quote is not closed", self.at)));
            };
            let end = piece + end;
            if payload.get(end + 1) == Some(&self.options.quote) {
                // After a doubled quote, the field can't point into the payload: copy it into `made`.
                fields.made.extend_from_slice(&payload[piece..=end]);
                piece = end + 2;
                continue;
            }
            self.at = end + 1;
            if fields.made.len() == made {
                let text = &payload[start..end];
                let (start, len) = (narrow(start), narrow(text.len()));
                return Ok(Slot { kind: Kind::Lexical, flags: nul_flag(text), start, len, ..Slot::MISSING });
            }
            fields.made.extend_from_slice(&payload[piece..end]);
            let flags = nul_flag(&fields.made[made..]);
            return Ok(fields.made_slot(Kind::Lexical, flags, made));
        }
    }
}

/// Returns whether a line ends at `at`: by LF, by CRLF, or by a CR at the end of the payload. Other CRs are text.
#[inline]
fn ends_line(payload: &[u8], at: usize) -> bool {
    match payload.get(at) {
        Some(b'\n') => true,
        Some(b'\r') => payload.get(at + 1).is_none_or(|byte| *byte == b'\n'),
        _ => false,
    }
}

fn nul_flag(text: &[u8]) -> Flags {
    if memchr::memchr(0, text).is_some() { Flags::NUL } else { Flags::NONE }
}

#[cold]
fn invalid(detail: &str) -> DecodeError {
    DecodeError { reason: Reason::InvalidFormat, detail: format!("the value is not CSV as configured: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(columns: Option<&[&str]>) -> CsvOptions {
        let columns = columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        CsvOptions { columns, delimiter: b',', quote: b'"', null: String::new() }
    }

    fn rows(decoder: &mut CsvDecoder, text: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        let mut fields = Fields::default();
        let mut rows = Vec::new();
        let mut there = decoder.decode(text.as_bytes(), &mut fields).map_err(|fault| fault.detail)?;
        while there {
            let row = (0..2).map(|slot| {
                let value = fields.value(slot, text.as_bytes());
                (value.kind == Kind::Lexical).then(|| String::from_utf8(value.raw.to_vec()).expect("text"))
            });
            rows.push(row.collect());
            there = fields.more && decoder.next(text.as_bytes(), &mut fields).map_err(|fault| fault.detail)?;
        }
        Ok(rows)
    }

    fn decoder(columns: Option<&[&str]>, leftovers: Leftovers) -> CsvDecoder {
        CsvDecoder::new(&options(columns), &[vec!["a".to_owned()], vec!["b".to_owned()]], leftovers)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lines_are_rows_and_quotes_are_resolved() {
        let mut decoder = decoder(Some(&["a", "x", "b"]), Leftovers::Ignore);
        let text = "1,x,2\r\n\"a,\"\"b\"\"\",x,\"line\nfeed\"\n\n,x,\"\"";
        assert_eq!(
            rows(&mut decoder, text),
            Ok(vec![vec![some("1"), some("2")], vec![some("a,\"b\""), some("line\nfeed")], vec![None, some("")]])
        );
        assert_eq!(rows(&mut decoder, "1,,"), Ok(vec![vec![some("1"), None]]));
        assert_eq!(rows(&mut decoder, "\n\r\n"), Ok(vec![]));
    }

    #[test]
    fn a_header_names_the_columns_of_each_value() {
        let mut decoder = decoder(None, Leftovers::Ignore);
        assert_eq!(
            rows(&mut decoder, "a,b\n1,2\n3,4\n"),
            Ok(vec![vec![some("1"), some("2")], vec![some("3"), some("4")]])
        );
        assert_eq!(rows(&mut decoder, "b,c,a\n1,2,3"), Ok(vec![vec![some("3"), some("1")]]));
        assert_eq!(rows(&mut decoder, "b,c,a\r\n4,5,6\r\n"), Ok(vec![vec![some("6"), some("4")]]));
        assert_eq!(rows(&mut decoder, "b,c,a\n7,8,9"), Ok(vec![vec![some("9"), some("7")]]));
        assert_eq!(rows(&mut decoder, "b,c,a"), Ok(vec![]));
        assert_eq!(rows(&mut decoder, "b,c,a1\n1,2,3"), Ok(vec![vec![None, some("1")]]));
    }

    #[test]
    fn a_header_seen_before_passes_for_no_other() {
        for header in ["a,b", "a,b\r\r\n1,2", "a,b \n1,2", "a,,\r\r"] {
            for text in ["a,b\rX,c\n1,2", "a,b\n1,2", "a,b \n1,2", "a,b\r\r\n1,2", "a,,\r"] {
                let mut knowing = decoder(None, Leftovers::Ignore);
                let _first = rows(&mut knowing, header);
                let fresh = rows(&mut decoder(None, Leftovers::Ignore), text);
                assert_eq!(rows(&mut knowing, text), fresh, "{text:?} after {header:?}");
            }
        }
    }

    #[test]
    fn a_carriage_return_within_a_line_is_text() {
        let mut decoder = decoder(Some(&["a", "b"]), Leftovers::Ignore);
        assert_eq!(
            rows(&mut decoder, "\rx,y\rz\r\n\r\n1,2\r"),
            Ok(vec![vec![some("\rx"), some("y\rz")], vec![some("1"), some("2")]])
        );
    }

    #[test]
    fn what_is_broken_is_said_with_its_line() {
        let mut decoder = decoder(Some(&["a", "b"]), Leftovers::Ignore);
        let mut refused = |text: &str| rows(&mut decoder, text).expect_err("a refusal");
        assert!(refused("1,2\n3").ends_with("line 2 has 1 fields, and `decode.columns` names 2"));
        assert!(refused("1,\"2").ends_with("line 1, byte 2: a quote is not closed"));
        assert!(refused("1,\"2\"x").contains("text after a closing quote"));
        assert!(refused("1,a\"b").contains("a quote inside a field"));
    }

    #[test]
    fn fields_without_a_column_are_refused_or_kept() {
        let mut refusing = decoder(None, Leftovers::Refuse);
        assert_eq!(rows(&mut refusing, "a,z\n1,2").expect_err("a refusal"), "the field \"z\" has no column");
        let mut collecting = decoder(None, Leftovers::Collect);
        let mut fields = Fields::default();
        assert_eq!(collecting.decode(b"a,z,y\n1,\"q\"\"\",", &mut fields), Ok(true));
        assert_eq!(fields.leftovers, b"\"z\":\"q\\\"\",\"y\":null,");
    }

    #[test]
    fn a_nul_in_a_leftovers_name_or_text_is_known() {
        let mut collecting = decoder(None, Leftovers::Collect);
        let mut fields = Fields::default();
        for (text, nul) in [("a,z\n1,2", false), ("a,z\0\n1,2", true), ("a,z\n1,\0", true), ("a\0,b\n1,2", true)] {
            assert_eq!(collecting.decode(text.as_bytes(), &mut fields), Ok(true));
            assert_eq!(fields.leftovers_flags.has(Flags::NUL), nul, "{text:?}");
        }
    }
}
