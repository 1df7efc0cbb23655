//! Decodes arbitrary bytes as CSV, once with a header and once with configured columns. Compares the rows with those of a second
//! reader. Also decodes the bytes as raw values.

#![no_main]

mod common;

use std::cell::RefCell;

use common::{Pipeline, Spec, accepts, encode_alike, encoder, extra, record, reference, rows};
use libfuzzer_sys::fuzz_target;
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{CsvOptions, Decode, Source, UnknownFields};

const SPECS: &[Spec] = &[
    ("a", "text", "a"),
    ("b", "text!", "b"),
    ("c", "int8", "c"),
    ("d", "float8", "d"),
    ("e", "numeric", "e"),
    ("f", "bool", "f"),
    ("g", "timestamptz", "g"),
    ("h", "jsonb", "h"),
    ("extra", "jsonb", ""),
];
const RAW: &[Spec] = &[("value", "bytea", "value")];
const RAW_TEXT: &[Spec] = &[("value", "text", "value"), ("number", "numeric", "offset")];
const RAW_JSON: &[Spec] = &[("value", "jsonb", "value")];
const RAW_NUMBER: &[Spec] = &[("value", "numeric", "value")];

thread_local! {
    static CSV: RefCell<Encoder> =
        RefCell::new(encoder(Decode::Csv(options(None)), extra(), SPECS));
    static GIVEN: RefCell<Encoder> = RefCell::new(encoder(Decode::Csv(given()), UnknownFields::Ignore, &SPECS[..2]));
    static RAWS: RefCell<Vec<(Encoder, &'static [Spec])>> = RefCell::new(
        [RAW, RAW_TEXT, RAW_JSON, RAW_NUMBER]
            .map(|specs| (raw(specs), specs))
            .into(),
    );
}

fn options(columns: Option<Vec<String>>) -> CsvOptions {
    CsvOptions { columns, delimiter: b',', quote: b'"', null: String::new() }
}

fn given() -> CsvOptions {
    let columns = Some(vec!["a".to_owned(), "b".to_owned()]);
    CsvOptions { delimiter: b';', null: "NULL".to_owned(), ..options(columns) }
}

/// Returns an encoder of raw values. A column `number` gets the record's offset instead of a field.
fn raw(specs: &[Spec]) -> Encoder {
    let mut pipeline = Pipeline::of(Decode::Raw, UnknownFields::Ignore, specs);
    for column in pipeline.columns.iter_mut().filter(|column| column.name == "number") {
        column.source = Source::Offset;
    }
    pipeline.encoder()
}

/// Returns the lines of a CSV text that aren't empty, each as a list of fields. `true` means that the field was quoted. The text
/// must be well-formed: a quote occurs only around a field, or doubled inside a quoted field.
fn read(mut rest: &str, delimiter: char) -> Vec<Vec<(String, bool)>> {
    let ends = |rest: &str| rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n") || rest == "\r";
    let mut lines = Vec::new();
    loop {
        while ends(rest) {
            let Some(c) = rest.chars().next() else { return lines };
            rest = &rest[c.len_utf8()..];
        }
        let mut line = Vec::new();
        loop {
            let quoted = rest.starts_with('"');
            rest = rest.strip_prefix('"').unwrap_or(rest);
            let mut field = String::new();
            while let Some(c) = rest.chars().next() {
                if !quoted && (c == delimiter || ends(rest)) {
                    break;
                }
                rest = &rest[c.len_utf8()..];
                if quoted && c == '"' {
                    let Some(tail) = rest.strip_prefix('"') else { break };
                    rest = tail;
                }
                field.push(c);
            }
            line.push((field, quoted));
            match rest.strip_prefix(delimiter) {
                Some(tail) => rest = tail,
                None => break,
            }
        }
        lines.push(line);
    }
}

fn csv(encoder: &mut Encoder, value: &[u8], header: bool, delimiter: char, null: &str) {
    let mut out = Vec::new();
    let Some(count) = encode_alike(encoder, &record(value), &mut out) else { return };
    let found = rows(count, &out);
    let mut lines = read(std::str::from_utf8(value).expect("what was taken is UTF-8"), delimiter).into_iter();
    let names = match header {
        true => lines.next().unwrap_or_default().into_iter().map(|(name, _)| name).collect(),
        false => vec!["a".to_owned(), "b".to_owned()],
    };
    assert_eq!(lines.len(), found.len(), "a row a line");
    for (row, line) in found.iter().zip(lines) {
        assert_eq!(line.len(), names.len(), "a field a column");
        for (at, field) in row.iter().enumerate() {
            field.inspect(|field| accepts::check(SPECS[at].1, field));
            let place = names.iter().position(|name| name == SPECS[at].0);
            let wanted = place.map(|place| &line[place]).filter(|(text, quoted)| *quoted || text != null);
            if at < 2 {
                assert_eq!(field.map(accepts::text), wanted.map(|(text, _)| text.as_str()), "{}", SPECS[at].0);
            }
        }
    }
}

fuzz_target!(|value: &[u8]| {
    CSV.with_borrow_mut(|encoder| csv(encoder, value, true, ',', ""));
    GIVEN.with_borrow_mut(|encoder| csv(encoder, value, false, ';', "NULL"));
    RAWS.with_borrow_mut(|raws| {
        let mut out = Vec::new();
        for (encoder, specs) in raws {
            let Some(count) = encode_alike(encoder, &record(value), &mut out) else { continue };
            let rows = rows(count, &out);
            let [field, ..] = rows[0][..] else { panic!("a field") };
            match (field, specs[0].1) {
                (None, _) => {}
                (Some(field), "bytea" | "text") => assert_eq!(field, value),
                (Some(field), of) => accepts::check(of, field),
            }
            if let [_, Some(offset)] = rows[0][..] {
                assert_eq!(reference::numeric(offset), "7");
            }
        }
    });
});
