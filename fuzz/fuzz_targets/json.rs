//! Decodes arbitrary bytes as JSON in all forms that a pipeline accepts: objects, arrays of objects, values with a registry's
//! frame, Kafka Connect's envelope, NDJSON, nested arrays, and Debezium's changes. For the first three forms, compares five
//! columns with the result of another parser.

#![no_main]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;

use common::{Pipeline, Spec, accepts, encode_alike, extra, record, reference, rows};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{Decode, EpochUnit, NulPolicy, Shape, UnknownFields};

const SPECS: &[Spec] = &[
    ("a", "int8", "a"),
    ("b", "float8", "b"),
    ("c", "text", "c"),
    ("d", "jsonb", "d"),
    ("e", "text", "e.f"),
    ("g", "json", "e"),
    ("h", "numeric", "h"),
    ("i", "uuid", "i"),
    ("j", "bytea", "j"),
    ("k", "interval", "k"),
    ("l", "int4[]", "e.l"),
    ("m", "timestamptz", "m"),
    ("extra", "jsonb", ""),
];

thread_local! {
    static ENCODERS: RefCell<Vec<Encoder>> = RefCell::new(vec![
        made(Decode::Json, extra(), SPECS),
        made(Decode::Json, UnknownFields::DeadLetter, &SPECS[..12]),
        made(Decode::Json, UnknownFields::Ignore, &SPECS[..12]),
        made(Decode::ConnectJson, extra(), SPECS),
        made(Decode::NdJson, extra(), SPECS),
        shaped(Decode::Json, &["a"]),
        shaped(Decode::Json, &["d", "d.e"]),
        shaped(Decode::ConnectJson, &["d"]),
        changes(),
    ]);
}

fn made(decode: Decode, unknown_fields: UnknownFields, specs: &[Spec]) -> Encoder {
    Pipeline::of(decode, unknown_fields, specs)
        .with("j", |column| column.nul = NulPolicy::Strip)
        .with("m", |column| column.unit = Some(EpochUnit::Millis))
        .encoder()
}

/// Returns an encoder that makes a row of each element of nested arrays. `levels` are the paths of the arrays.
fn shaped(decode: Decode, levels: &[&str]) -> Encoder {
    let rows = levels.iter().map(|path| common::split(path)).collect();
    let pipeline = Pipeline::of(decode, extra(), SPECS);
    Pipeline { shape: Shape { rows, ..Shape::PLAIN }, ..pipeline }.encoder()
}

fn changes() -> Encoder {
    let pipeline = Pipeline::of(Decode::ChangeJson, extra(), SPECS);
    Pipeline { shape: Shape { change: true, ..Shape::PLAIN }, ..pipeline }.encoder()
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Returns the objects that another parser finds, each as a map from names to the raw text of the members. If a name occurs
/// twice, the last member wins. Returns `None` if the value is neither an object nor an array of objects.
fn objects(value: &[u8]) -> Option<Vec<Members<'_>>> {
    let value = if value.first() == Some(&0) && value.len() > 5 { &value[5..] } else { value };
    match serde_json::from_slice(value) {
        Ok(object) => Some(vec![object]),
        Err(_) => serde_json::from_slice(value).ok(),
    }
}

fn compare(members: &Members<'_>, column: usize, field: Option<&[u8]>) {
    let raw = members.get(SPECS[column].2).map(|raw| raw.get()).filter(|raw| *raw != "null");
    let (raw, field) = match (raw, field) {
        (None, None) => return,
        (Some(raw), Some(field)) => (raw, field),
        (raw, field) => panic!("{raw:?} became {field:?}"),
    };
    // Text that contains a number counts as that number. Postgres ignores spaces around it.
    let text = serde_json::from_str::<String>(raw).ok();
    let number_text = text.as_deref().map_or(raw, |text| text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']));
    match SPECS[column].0 {
        "a" => {
            let number = accepts::int(field);
            assert!(
                number_text.parse::<i64>() == Ok(number) || number_text.contains(['.', 'e', 'E']) || raw == "-0",
                "{raw} became {number}"
            );
            assert_eq!(number_text.parse::<f64>(), Ok(number as f64), "{raw} became {number}");
        }
        "b" => {
            let (number, wanted) = (reference::float8(field), number_text.parse::<f64>());
            let same = wanted
                .as_ref()
                .is_ok_and(|wanted| wanted.to_bits() == number.to_bits() || (wanted.is_nan() && number.is_nan()));
            assert!(same, "{raw} became {number}");
        }
        "c" => match serde_json::from_str::<String>(raw) {
            Ok(text) => assert_eq!(accepts::text(field), text),
            Err(_) => assert_eq!(accepts::text(field), raw),
        },
        "d" => assert_eq!(field.strip_prefix(&[1]), Some(raw.as_bytes())),
        "g" => assert_eq!(field, raw.as_bytes()),
        _ => {}
    }
}

fuzz_target!(|value: &[u8]| {
    ENCODERS.with_borrow_mut(|encoders| {
        let mut out = Vec::new();
        for (at, encoder) in encoders.iter_mut().enumerate() {
            let Some(count) = encode_alike(encoder, &record(value), &mut out) else { continue };
            let rows = rows(count, &out);
            for row in &rows {
                for (field, (_, of, _)) in row.iter().zip(SPECS) {
                    field.inspect(|field| accepts::check(of, field));
                }
            }
            if at >= 3 {
                continue;
            }
            let objects = objects(value).expect("what was taken is JSON");
            assert_eq!(objects.len(), rows.len(), "a row an object");
            for (row, members) in rows.iter().zip(&objects) {
                for column in [0, 1, 2, 3, 5] {
                    compare(members, column, row[column]);
                }
            }
        }
    });
});
