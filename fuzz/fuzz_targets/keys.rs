//! Reads arbitrary bytes as a key of each format: in a tombstone, which deletes the row of its key, and in a record with a value.

#![no_main]

mod common;

use std::cell::RefCell;

use common::{Pipeline, Spec, accepts, encode_alike, local, mapping, reference, rows};
use libfuzzer_sys::fuzz_target;
use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{Decode, KeyFormat, Shape, Source, UnknownFields, WriteMode};

const AVRO: &str = r#"{"type":"record","name":"K","fields":[{"name":"id","type":["null","long"]},
    {"name":"region","type":"string"},{"name":"more","type":{"type":"map","values":"double"}}]}"#;
const PROTO: &str =
    r#"syntax = "proto3"; message K { optional int64 id = 1; string region = 2; map<string, double> more = 3; }"#;
const TYPES: &[&str] = &["int8!", "text!", "bytea!", "uuid!", "jsonb!", "float8!", "int4!", "numeric!"];

thread_local! {
    static ENCODERS: RefCell<Vec<(KeyFormat, &'static str, Encoder)>> = RefCell::new(encoders());
}

fn formats() -> Vec<KeyFormat> {
    vec![
        KeyFormat::Auto,
        KeyFormat::Json,
        KeyFormat::Text,
        KeyFormat::Bytes,
        KeyFormat::Int(2),
        KeyFormat::Int(4),
        KeyFormat::Int(8),
        KeyFormat::Float(4),
        KeyFormat::Float(8),
        KeyFormat::Uuid,
        KeyFormat::Avro(local("AVRO", AVRO, None)),
        KeyFormat::Protobuf(local("PROTOBUF", PROTO, Some("K"))),
    ]
}

/// Returns an encoder for each combination of key format, column type and value format, except for combinations that the planner
/// refuses.
fn encoders() -> Vec<(KeyFormat, &'static str, Encoder)> {
    let mut encoders = Vec::new();
    for keys in formats() {
        for of in TYPES {
            for decode in [Decode::Json, Decode::ConnectJson, Decode::ChangeJson] {
                let specs: &[Spec] = &[("id", of, "id")];
                let change = decode == Decode::ChangeJson;
                let mut pipeline = Pipeline::of(decode, UnknownFields::Ignore, specs);
                pipeline.mode = WriteMode::Upsert { key: vec!["id".to_owned()], newer_by: None, deletes: true };
                pipeline.columns.push(mapping("key", Source::Key));
                pipeline.types.push(("key".to_owned(), of.trim_end_matches('!').to_owned()));
                pipeline.shape = Shape { keys: keys.clone(), change, ..Shape::PLAIN };
                if let Ok(plan) = pipeline.plan() {
                    encoders.push((keys.clone(), *of, Encoder::new(plan)));
                }
            }
        }
    }
    assert!(encoders.len() > 100, "{} encoders", encoders.len());
    encoders
}

/// Returns the number that an integer column gets for a key of an integer format. Returns `None` if the format isn't an integer
/// format, or if the key has the wrong length.
fn number(format: &KeyFormat, key: &[u8]) -> Option<i64> {
    match (format, key) {
        (KeyFormat::Int(2), [a, b]) => Some(i16::from_be_bytes([*a, *b]).into()),
        (KeyFormat::Int(4), [a, b, c, d]) => Some(i32::from_be_bytes([*a, *b, *c, *d]).into()),
        (KeyFormat::Int(8), key) => key.try_into().ok().map(i64::from_be_bytes),
        _ => None,
    }
}

fuzz_target!(|key: &[u8]| {
    ENCODERS.with_borrow_mut(|encoders| {
        let mut out = Vec::new();
        for (format, of, encoder) in encoders {
            for value in [None, Some(&br#"{"id":null}"#[..]), Some(br#"{"schema":null,"payload":null}"#)] {
                let record = Record {
                    topic: "t",
                    partition: 0,
                    offset: 7,
                    timestamp_ms: None,
                    key: Some(key),
                    value,
                    headers: Headers::default(),
                };
                let Some(count) = encode_alike(encoder, &record, &mut out) else { continue };
                for row in rows(count, &out) {
                    let [id, whole, deletes] = row[..] else { panic!("two columns and the mark: {row:?}") };
                    assert!(matches!(deletes, Some([0 | 1])));
                    for field in [id, whole].into_iter().flatten() {
                        accepts::check(of, field);
                    }
                    let Some(field) = id.filter(|_| deletes == Some(&[1])) else { continue };
                    match (&*format, *of) {
                        (KeyFormat::Text, "text!") | (KeyFormat::Bytes, "bytea!") => assert_eq!(field, key),
                        (KeyFormat::Int(_), "int8!" | "int4!") => {
                            assert_eq!(number(format, key), Some(accepts::int(field)));
                        }
                        (KeyFormat::Float(8), "float8!") => {
                            let real = f64::from_be_bytes(key.try_into().expect("eight bytes"));
                            let found = reference::float8(field);
                            assert!(found.to_bits() == real.to_bits() || found.is_nan() && real.is_nan());
                        }
                        (KeyFormat::Uuid, "uuid!") if key.len() == 16 => assert_eq!(field, key),
                        _ => {}
                    }
                }
            }
        }
    });
});
