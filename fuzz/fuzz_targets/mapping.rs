//! Plans a mapping of arbitrary columns and policies, and encodes two records with keys, headers and tombstones. The planner must
//! accept or refuse the mapping without a panic, and Postgres must accept each field for its column's type.

#![no_main]

mod common;

use common::{Pipeline, accepts, encode_alike, extra, mapping, rows};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use tidegate_protocol::record::{Headers, Record, push_header};
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{
    Aggregate, AggregateFunction, Column, CsvOptions, Decode, EpochUnit, Function, HashKey, KeyFormat, NulPolicy,
    RowFilter, Shape, Source, Test, UnknownFields, WriteMode,
};

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
const PATHS: [&[&str]; 8] = [&["a"], &["b"], &["c", "d"], &["c"], &["c", "d", "e"], &["f"], &["\"x", "y\""], &["é"]];
const METADATA: [Source; 6] =
    [Source::Topic, Source::Partition, Source::Offset, Source::Timestamp, Source::Key, Source::Headers];
const CONSTANTS: [&str; 8] = ["1", "-1.5", "\"on\"", "true", "\"2026-01-01\"", "\"\"", "123456789012", "\"1\""];

/// Returns the type and the mapping of a column. With `aggregates`, the mapping has an aggregate function.
fn column(u: &mut Unstructured<'_>, name: &str, aggregates: bool) -> Result<(String, Column)> {
    let of = format!("{}{}", u.choose(&TYPES)?, if u.ratio(1, 4)? { "!" } else { "" });
    let source = match u.int_in_range(0..=9)? {
        0 => u.choose(&METADATA)?.clone(),
        1 => Source::Header("h".to_owned()),
        _ => Source::Field(path(u)?),
    };
    let is_record = matches!(source, Source::Field(_) | Source::Header(_));
    let mut column = mapping(name, source);
    if u.ratio(1, 4)? {
        column.default = Some((*u.choose(&CONSTANTS)?).to_owned()).filter(|_| is_record);
    }
    if u.ratio(1, 2)? {
        column.nul = *u.choose(&[NulPolicy::Strip, NulPolicy::Replace, NulPolicy::DeadLetter])?;
    }
    if of.starts_with("timestamptz") && u.ratio(1, 2)? {
        let unit = *u.choose(&[EpochUnit::Seconds, EpochUnit::Millis, EpochUnit::Micros, EpochUnit::Nanos])?;
        column.unit = Some(unit).filter(|_| is_record);
    }
    column.function = function(u)?;
    if aggregates {
        use AggregateFunction::{Count, Max, Min, Sum};
        let function = u.choose(&[Sum, Count, Min, Max])?.clone();
        if function == Count {
            (column.default, column.unit) = (None, None);
        }
        let condition = if u.ratio(1, 4)? { Some(filter(u)?) } else { None };
        column.aggregate = Some(Aggregate { function, condition });
    }
    Ok((of, column))
}

fn path(u: &mut Unstructured<'_>) -> Result<Vec<String>> {
    Ok(u.choose(&PATHS)?.iter().map(|&level| level.to_owned()).collect())
}

fn filter(u: &mut Unstructured<'_>) -> Result<RowFilter> {
    let test = match u.int_in_range(0..=4)? {
        0 => Test::Equals((*u.choose(&CONSTANTS)?).to_owned()),
        1 => Test::NotEquals((*u.choose(&CONSTANTS)?).to_owned()),
        2 => Test::Exists(bool::arbitrary(u)?),
        3 => Test::Greater("1.5".to_owned()),
        _ => Test::Less("100".to_owned()),
    };
    Ok(RowFilter { field: path(u)?, tests: vec![test] })
}

fn shape(u: &mut Unstructured<'_>, deletes: bool, change: bool) -> Result<Shape> {
    let keys = match u.int_in_range(0..=7)? {
        0 => KeyFormat::Json,
        1 => KeyFormat::Text,
        2 => KeyFormat::Bytes,
        3 => KeyFormat::Int(*u.choose(&[2, 4, 8])?),
        4 => KeyFormat::Float(*u.choose(&[4, 8])?),
        5 => KeyFormat::Uuid,
        _ => KeyFormat::Auto,
    };
    let delete_where = if deletes && u.ratio(1, 4)? { Some(filter(u)?) } else { None };
    let rows = if !change && u.ratio(1, 8)? { vec![path(u)?] } else { Vec::new() };
    Ok(Shape { keys, change, rows, delete_where })
}

fn function(u: &mut Unstructured<'_>) -> Result<Option<Function>> {
    Ok(match u.int_in_range(0..=15)? {
        0 => Some(Function::Linear { scale: "0.1".to_owned(), offset: "-40".to_owned() }),
        1 => Some(Function::ParseJson),
        2 => Some(Function::Hash(HashKey::new(b"0123456789abcdef"))),
        _ => None,
    })
}

fn run(input: &[u8]) -> Result<Corpus> {
    let u = &mut Unstructured::new(input);
    let key = || vec!["a".to_owned()];
    let mode = match u.int_in_range(0..=5)? {
        0 => WriteMode::Upsert { key: key(), newer_by: None, deletes: true },
        1 => WriteMode::Aggregate { key: key() },
        2 => WriteMode::InsertNew { key: Vec::new() },
        _ => WriteMode::Append,
    };
    let aggregates = matches!(mode, WriteMode::Aggregate { .. });
    let tombstones = matches!(mode, WriteMode::Upsert { .. });
    let decode = match *u.choose(&["json", "json", "json", "csv", "raw", "connect", "ndjson", "change"])? {
        "ndjson" => Decode::NdJson,
        "change" => Decode::ChangeJson,
        "csv" => Decode::Csv(CsvOptions { columns: None, delimiter: b',', quote: b'"', null: String::new() }),
        "raw" => Decode::Raw,
        "connect" => Decode::ConnectJson,
        _ => Decode::Json,
    };
    let shape = shape(u, tombstones, matches!(decode, Decode::ChangeJson))?;
    let mut pipeline = Pipeline { mode, shape, ..Pipeline::of(decode, UnknownFields::Ignore, &[]) };
    for (at, name) in NAMES.iter().take(u.int_in_range(1..=NAMES.len())?).enumerate() {
        let (of, mapped) = column(u, name, aggregates && at > 0)?;
        pipeline.types.push(((*name).to_owned(), of));
        pipeline.columns.push(mapped);
    }
    match u.int_in_range(0..=3)? {
        0 if aggregates => return Ok(Corpus::Reject),
        0 => {
            pipeline.types.push(("extra".to_owned(), "jsonb".to_owned()));
            pipeline.unknown_fields = extra();
        }
        1 => pipeline.unknown_fields = UnknownFields::DeadLetter,
        _ => {}
    }
    if u.ratio(1, 3)? {
        pipeline.keep = Some(filter(u)?);
    }
    let Ok(plan) = pipeline.plan() else { return Ok(Corpus::Reject) };
    // For a column with the function `count`, the encoder writes a bool: whether the record has a value to count.
    let counts = |name: &str| {
        let column = pipeline.columns.iter().find(|column| column.name == name);
        let aggregate = column.and_then(|column| column.aggregate.as_ref());
        aggregate.is_some_and(|aggregate| aggregate.function == AggregateFunction::Count)
    };
    let types = pipeline.types.iter().map(|(name, of)| if counts(name) { "bool" } else { of.as_str() });
    let mut types: Vec<&str> = types.collect();
    if tombstones {
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
            // An encoded row that requests a deletion has values only in the columns of the key.
            let deletes = tombstones && row.last() == Some(&Some(&[1][..]));
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
