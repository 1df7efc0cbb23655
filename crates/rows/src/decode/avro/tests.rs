//! Values written by another implementation of Avro, and invalid values.

use std::path::PathBuf;
use std::sync::Arc;

use apache_avro::types::{Record, Value as Avro};
use apache_avro::{Days, Decimal, Duration, Millis, Months, Schema as Reference, to_avro_datum};

use super::*;
use crate::render;
use crate::schema::avro::AvroSchema;
use crate::value::{Kind, Value};

fn decoder(schema: &str, paths: &[&str], leftovers: Leftovers) -> AvroDecoder {
    let schema = AvroSchema::parse(schema, &[]).expect("a schema");
    let schema = Arc::new(Schema(Parsed::Avro(schema)));
    let source = SchemaSource::Local { file: PathBuf::new(), schema, framed: false, message: None };
    let paths: Vec<Path> = paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
    AvroDecoder::new(&source, &paths, leftovers, &[], None)
}

fn shown(value: &Value<'_>) -> String {
    let mut out = Vec::new();
    match value.kind {
        Kind::Missing => out.extend_from_slice(b"missing"),
        Kind::Null => out.extend_from_slice(b"null"),
        Kind::True => out.extend_from_slice(b"true"),
        Kind::False => out.extend_from_slice(b"false"),
        _ => drop(render::text(value, &mut out)),
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn decode(decoder: &mut AvroDecoder, payload: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut fields = Fields::default();
    decoder.decode(payload, None, &mut fields)?;
    let slots = u16::try_from(fields.slots.len()).expect("few");
    Ok((0..slots).map(|slot| shown(&fields.value(slot, payload))).collect())
}

const EVERYTHING: &str = r#"{"type":"record","name":"Everything","namespace":"test","fields":[
    {"name":"flag","type":"boolean"},
    {"name":"small","type":"int"},
    {"name":"large","type":"long"},
    {"name":"real4","type":"float"},
    {"name":"real8","type":"double"},
    {"name":"words","type":"string"},
    {"name":"bytes","type":"bytes"},
    {"name":"fixed","type":{"type":"fixed","name":"Four","size":4}},
    {"name":"state","type":{"type":"enum","name":"State","symbols":["driving","paused"]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"clock","type":{"type":"long","logicalType":"time-micros"}},
    {"name":"millis","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"nanos","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"local","type":{"type":"long","logicalType":"local-timestamp-micros"}},
    {"name":"id","type":{"type":"string","logicalType":"uuid"}},
    {"name":"span","type":{"type":"fixed","name":"Span","size":12,"logicalType":"duration"}},
    {"name":"maybe","type":["null","long"]},
    {"name":"position","type":["null",{"type":"record","name":"Position","fields":[
        {"name":"lat","type":"double"},{"name":"lon","type":"double"}]}]},
    {"name":"tags","type":{"type":"map","values":"string"}},
    {"name":"readings","type":{"type":"array","items":["null","State"]}}
]}"#;

fn everything() -> Vec<u8> {
    let schema = Reference::parse_str(EVERYTHING).expect("a schema");
    let mut record = Record::new(&schema).expect("a record");
    record.put("flag", true);
    record.put("small", -7);
    record.put("large", i64::MIN);
    record.put("real4", 0.1_f32);
    record.put("real8", -1e300);
    record.put("words", "Zürich \u{1F680}");
    record.put("bytes", Avro::Bytes(b"\x00hi".to_vec()));
    record.put("fixed", Avro::Fixed(4, b"abcd".to_vec()));
    record.put("state", Avro::Enum(1, "paused".to_owned()));
    record.put("price", Avro::Decimal(Decimal::from((-12_345_i32).to_be_bytes())));
    record.put("day", Avro::Date(20_484));
    record.put("clock", Avro::TimeMicros(1_500_000));
    record.put("millis", Avro::TimestampMillis(1_769_860_800_123));
    record.put("nanos", Avro::TimestampNanos(1_769_860_800_123_456_500));
    record.put("local", Avro::LocalTimestampMicros(1_500_000));
    record.put("id", Avro::Uuid("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".parse().expect("a UUID")));
    record.put("span", Avro::Duration(Duration::new(Months::new(14), Days::new(3), Millis::new(1_500))));
    record.put("maybe", Avro::Union(0, Box::new(Avro::Null)));
    let position = vec![("lat".to_owned(), Avro::Double(52.5)), ("lon".to_owned(), Avro::Double(13.4))];
    record.put("position", Avro::Union(1, Box::new(Avro::Record(position))));
    record.put("tags", Avro::Map([("colour".to_owned(), Avro::String("red\"".to_owned()))].into()));
    let state = |name: &str, at| Avro::Union(1, Box::new(Avro::Enum(at, name.to_owned())));
    record.put("readings", Avro::Array(vec![state("driving", 0), Avro::Union(0, Box::new(Avro::Null))]));
    to_avro_datum(&schema, record).expect("bytes")
}

#[test]
fn every_type_comes_as_another_implementation_wrote_it() {
    let expected = [
        ("flag", "true"),
        ("small", "-7"),
        ("large", "-9223372036854775808"),
        ("real4", "0.1"),
        ("real8", "-1e300"),
        ("words", "Zürich \u{1F680}"),
        ("bytes", "\0hi"),
        ("fixed", "abcd"),
        ("state", "paused"),
        ("price", "-123.45"),
        ("day", "2026-01-31"),
        ("clock", "00:00:01.5"),
        ("millis", "2026-01-31T12:00:00.123Z"),
        ("nanos", "2026-01-31T12:00:00.123456Z"),
        ("local", "1970-01-01T00:00:01.5"),
        ("id", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("span", "P14M3DT1.500000S"),
        ("maybe", "null"),
        ("position", r#"{"lat":52.5,"lon":13.4}"#),
        ("position.lon", "13.4"),
        ("tags", r#"{"colour":"red\""}"#),
        ("tags.colour", "red\""),
        ("tags.size", "missing"),
        ("readings", r#"["driving",null]"#),
        ("nothing", "missing"),
        ("words.deeper", "missing"),
    ];
    let mut decoder = decoder(EVERYTHING, &expected.map(|(path, _)| path), Leftovers::Ignore);
    let values = decode(&mut decoder, &everything()).expect("the value is good");
    for ((path, expected), value) in expected.iter().zip(&values) {
        assert_eq!(value, expected, "{path}");
    }
}

#[test]
fn nothing_that_is_cut_short_or_changed_gets_through_as_a_panic() {
    let paths = ["position.lat", "tags", "readings", "words", "price", "span"];
    let mut decoder = decoder(EVERYTHING, &paths, Leftovers::Collect);
    let whole = everything();
    for end in 0..whole.len() {
        let fault = decode(&mut decoder, &whole[..end]).expect_err("it is cut short");
        assert_eq!(fault.reason, Reason::InvalidFormat, "{end}");
    }
    let mut changed = whole.clone();
    for at in 0..whole.len() {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff] {
            changed[at] = byte;
            let _either = decode(&mut decoder, &changed);
        }
        changed[at] = whole[at];
    }
    let trailing = [whole.as_slice(), b"\0"].concat();
    assert!(decode(&mut decoder, &trailing).expect_err("more than a value").detail.contains("bytes follow"));
}

#[test]
fn what_costs_no_bytes_is_bounded_all_the_same() {
    let nulls = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#;
    let mut decoder_of_nulls = decoder(nulls, &["a"], Leftovers::Ignore);
    // 2^41 nulls in one block.
    let fault = decode(&mut decoder_of_nulls, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0]).expect_err("too many");
    assert!(fault.detail.contains("more elements"), "{}", fault.detail);

    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let mut decoder_of_lists = decoder(list, &["next"], Leftovers::Ignore);
    let fault = decode(&mut decoder_of_lists, &[2; 1000]).expect_err("too deep");
    assert!(fault.detail.contains("nested too deep"), "{}", fault.detail);
    assert_eq!(decode(&mut decoder_of_lists, &[2, 2, 0]).expect("a list"), [r#"{"next":{"next":null}}"#]);
}

#[test]
fn fields_are_found_by_name_or_alias_and_others_are_refused_or_kept() {
    let schema = r#"{"type":"record","name":"R","fields":[
        {"name":"speed","type":"int","aliases":["velocity"]},{"name":"extra","type":"string"}]}"#;
    let payload = [6, 2, b'x'];
    let mut by_both = decoder(schema, &["velocity", "speed"], Leftovers::Ignore);
    assert_eq!(decode(&mut by_both, &payload).expect("a value"), ["3", "3"]);
    let mut by_alias = decoder(schema, &["velocity"], Leftovers::Ignore);
    assert_eq!(decode(&mut by_alias, &payload).expect("a value"), ["3"]);
    let mut refusing = decoder(schema, &["speed"], Leftovers::Refuse);
    let fault = decode(&mut refusing, &payload).expect_err("a refusal");
    assert_eq!((fault.reason, fault.detail.as_str()), (Reason::UnknownField, "the field \"extra\" has no column"));
    let mut collecting = decoder(schema, &["speed"], Leftovers::Collect);
    let mut fields = Fields::default();
    collecting.decode(&payload, None, &mut fields).expect("a value");
    assert_eq!(fields.leftovers, b"\"extra\":\"x\",");
}

#[test]
fn broken_schemas_are_named() {
    let parse = |text: &str| AvroSchema::parse(text, &[]).expect_err("a fault");
    assert!(parse("{").starts_with("it is not JSON"));
    assert!(parse(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"Other"}]}"#).contains("`Other`"));
    assert!(parse(r#"{"type":"record","name":"R"}"#).contains("no `fields`"));
    let uses = r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":"n.Other"}]}"#;
    let other = r#"{"type":"enum","name":"Other","namespace":"n","symbols":["x"]}"#;
    assert!(AvroSchema::parse(uses, &[other]).is_ok());
}
