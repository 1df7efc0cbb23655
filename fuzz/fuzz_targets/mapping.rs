//! A mapping of any columns and any policies, and two records with keys, headers and tombstones: it is planned or refused, and
//! what it writes is what Postgres takes of the columns' types.

#![no_main]

mod common;

use common::{accepts, encode_alike, plan, rows};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use tidegate_rows::mapping::Encoder;
use tidegate_protocol::record::{Headers, Record, push_header};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const TYPES: [&str; 20] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "numeric(10,2)",
    "text",
    "varchar(3)",
    "bytea",
    "date",
    "timestamptz",
    "uuid",
    "json",
    "jsonb",
    "text[]",
    "int4range",
    "mood",
    "interval",
];
const PATHS: [&str; 8] = ["a", "b", "c.d", "c", "c.d.e", "f", "\\\"x.y\\\"", "é"];
const CONSTANTS: [&str; 8] = ["1", "-1.5", "\"on\"", "true", "\"2026-01-01\"", "\"\"", "123456789012", "\"1\""];

/// A column: its type, and what fills it.
fn column(u: &mut Unstructured<'_>, aggregates: bool) -> Result<(String, String)> {
    let of = format!("{}{}", u.choose(&TYPES)?, if u.ratio(1, 4)? { "!" } else { "" });
    let mut from = match u.int_in_range(0..=9)? {
        0 => format!("meta = \"{}\"", u.choose(&["topic", "partition", "offset", "timestamp", "key", "headers"])?),
        1 => "header = \"h\"".to_owned(),
        _ => format!("field = \"{}\"", u.choose(&PATHS)?),
    };
    if u.ratio(1, 4)? {
        from += &format!(", default = {}", u.choose(&CONSTANTS)?);
    }
    if u.ratio(1, 2)? {
        from += &format!(", nul = \"{}\"", u.choose(&["strip", "replace", "dead_letter"])?);
    }
    if of.starts_with("timestamptz") && u.ratio(1, 2)? {
        from += &format!(", unit = \"{}\"", u.choose(&["s", "ms", "us", "ns"])?);
    }
    if aggregates {
        from += &format!(", aggregate = \"{}\"", u.choose(&["sum", "count", "min", "max"])?);
        if u.ratio(1, 4)? {
            from += &format!(", where = {}", condition(u)?);
        }
    }
    Ok((of, format!("{{ {from} }}")))
}

fn condition(u: &mut Unstructured<'_>) -> Result<String> {
    let test = match u.int_in_range(0..=4)? {
        0 => format!("equals = {}", u.choose(&CONSTANTS)?),
        1 => format!("not_equals = {}", u.choose(&CONSTANTS)?),
        2 => format!("exists = {}", bool::arbitrary(u)?),
        3 => "greater = 1.5".to_owned(),
        _ => "less = 100".to_owned(),
    };
    Ok(format!("{{ field = \"{}\", {test} }}", u.choose(&PATHS)?))
}

fn run(input: &[u8]) -> Result<Corpus> {
    let u = &mut Unstructured::new(input);
    let (mode, aggregates) = match u.int_in_range(0..=5)? {
        0 => ("table.mode = \"upsert\"\ntable.key = [\"a\"]\ntable.deletes = true\n", false),
        1 => ("table.mode = \"aggregate\"\ntable.key = [\"a\"]\n", true),
        2 => ("table.mode = \"insert_new\"\n", false),
        _ => ("", false),
    };
    let mut pipeline = mode.to_owned();
    let format = *u.choose(&["json", "json", "json", "csv", "raw", "connect"])?;
    pipeline += &match format {
        "connect" => "decode = { format = \"json\", envelope = \"connect\" }\n".to_owned(),
        other => format!("decode = {{ format = \"{other}\" }}\n"),
    };
    let mut columns = Vec::new();
    for (at, name) in NAMES.iter().take(u.int_in_range(1..=NAMES.len())?).enumerate() {
        let (of, from) = column(u, aggregates && at > 0)?;
        columns.push((*name, of, from));
    }
    match u.int_in_range(0..=3)? {
        0 => {
            columns.push(("extra", "jsonb".to_owned(), String::new()));
            pipeline += "unknown_fields = { column = \"extra\" }\n";
        }
        1 => pipeline += "unknown_fields = \"dead_letter\"\n",
        _ => {}
    }
    if u.ratio(1, 3)? {
        pipeline += &format!("where = {}\n", condition(u)?);
    }
    let specs: Vec<_> = columns.iter().map(|(name, of, from)| (*name, of.as_str(), from.clone())).collect();
    let Ok(plan) = plan(&pipeline, None, &specs) else { return Ok(Corpus::Reject) };
    // A count takes no value but a mark that there was one.
    let counts = |from: &str| from.contains("\"count\"");
    let mut types: Vec<_> = specs.iter().map(|(_, of, from)| if counts(from) { "bool" } else { *of }).collect();
    if mode.contains("deletes") {
        types.push("bool");
    }
    let mut encoder = Encoder::new(plan);
    let mut out = Vec::new();
    for last in [false, true] {
        let mut arena = Vec::new();
        for _header in 0..u.int_in_range(0..=2)? {
            let value = Option::<Vec<u8>>::arbitrary(u)?;
            push_header(&mut arena, if bool::arbitrary(u)? { b"h" } else { b"i" }, value.as_deref());
        }
        let key = Option::<Vec<u8>>::arbitrary(u)?;
        let timestamp_ms = Option::<i64>::arbitrary(u)?;
        let tombstone = u.ratio(1, 8)?;
        let len = if last { u.len() } else { u.arbitrary_len::<u8>()? };
        let value = u.bytes(len)?;
        let record = Record {
            topic: "t",
            partition: 3,
            offset: 88_123,
            timestamp_ms,
            key: key.as_deref(),
            value: (!tombstone).then_some(value),
            headers: Headers::from_arena(&arena),
        };
        let Some(count) = encode_alike(&mut encoder, &record, &mut out) else { continue };
        for row in rows(count, &out) {
            assert_eq!(row.len(), types.len(), "a field a column");
            // A row that deletes has its key alone.
            let deletes = mode.contains("deletes") && row.last() == Some(&Some(&[1][..]));
            for (field, of) in row.iter().zip(&types) {
                match field {
                    Some(field) => accepts::check(of, field),
                    None => assert!(deletes || aggregates || !of.ends_with('!'), "a NULL in a column that is NOT NULL"),
                }
            }
        }
    }
    Ok(Corpus::Keep)
}

fuzz_target!(|input: &[u8]| -> Corpus { run(input).unwrap_or(Corpus::Reject) });
