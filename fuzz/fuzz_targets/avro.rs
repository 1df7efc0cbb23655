//! Decodes arbitrary bytes by a schema that has most of Avro's types. Compares nine fields with those of another reader, if that
//! reader accepts the bytes.

#![no_main]

mod common;

use std::cell::RefCell;
use std::sync::LazyLock;

use apache_avro::types::Value;
use common::{Spec, accepts, encode_alike, encoder, extra, local, record, reference, rows};
use libfuzzer_sys::fuzz_target;
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{Decode, UnknownFields};

const SCHEMA: &str = r#"{"type":"record","name":"E","fields":[
    {"name":"flag","type":"boolean"},{"name":"small","type":"int"},{"name":"large","type":"long"},
    {"name":"real4","type":"float"},{"name":"real8","type":"double"},{"name":"words","type":"string"},
    {"name":"bytes","type":"bytes"},{"name":"state","type":{"type":"enum","name":"S","symbols":["a","b"]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"clock","type":{"type":"long","logicalType":"time-micros"}},
    {"name":"nanos","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"span","type":{"type":"fixed","name":"D","size":12,"logicalType":"duration"}},
    {"name":"tree","type":["null",{"type":"record","name":"T","fields":[
        {"name":"left","type":["null","T"]},{"name":"tags","type":{"type":"map","values":["null","string","double"]}},
        {"name":"list","type":{"type":"array","items":"T"}}]}]}]}"#;

const SPECS: &[Spec] = &[
    ("flag", "bool", "flag"),
    ("large", "int8", "large"),
    ("real8", "float8", "real8"),
    ("words", "text", "words"),
    ("bytes", "bytea", "bytes"),
    ("state", "text", "state"),
    ("day", "date", "day"),
    ("small", "int4", "small"),
    ("real4", "float4", "real4"),
    ("price", "numeric", "price"),
    ("clock", "time", "clock"),
    ("nanos", "timestamptz", "nanos"),
    ("span", "interval", "span"),
    ("spantext", "jsonb", "span"),
    ("tree", "jsonb", "tree"),
    ("extra", "jsonb", ""),
];
/// Columns whose types differ from those of their fields, so that values are converted. Also columns of nested fields.
const CROSSED: &[Spec] = &[
    ("small", "int2", "small"),
    ("large", "text", "large"),
    ("real4", "numeric", "real4"),
    ("real8", "float4", "real8"),
    ("words", "varchar(3)", "words"),
    ("btext", "text", "bytes"),
    ("mood", "mood", "state"),
    ("price", "numeric(3,1)", "price"),
    ("daytext", "text", "day"),
    ("clocktext", "text", "clock"),
    ("nanos", "timestamp", "nanos"),
    ("spantext", "text", "span"),
    ("deep", "json", "tree.left.left"),
    ("tag", "text", "tree.tags.k"),
    ("list", "jsonb", "tree.list"),
];

static READER: LazyLock<apache_avro::Schema> =
    LazyLock::new(|| apache_avro::Schema::parse_str(SCHEMA).expect("the schema"));

thread_local! {
    static PLAIN: RefCell<Encoder> = RefCell::new(encoder(Decode::Avro(local("AVRO", SCHEMA, None)), extra(), SPECS));
    static OTHERS: RefCell<Encoder> =
        RefCell::new(encoder(Decode::Avro(local("AVRO", SCHEMA, None)), UnknownFields::Ignore, CROSSED));
}

fn compare(members: &[(String, Value)], row: &common::Row<'_>) {
    let value = |name: &str| members.iter().find(|(member, _)| member == name).map(|(_, value)| value);
    let field = |at: usize| row[at].expect("a field that can't be null");
    for (at, (name, ..)) in SPECS[..9].iter().enumerate() {
        match (*name, value(name)) {
            ("flag", Some(Value::Boolean(flag))) => assert_eq!(field(at), [u8::from(*flag)]),
            ("large", Some(Value::Long(large))) => assert_eq!(accepts::int(field(at)), *large),
            ("real8", Some(Value::Double(real))) => assert_eq!(reference::float8(field(at)).to_bits(), real.to_bits()),
            ("words", Some(Value::String(words))) => assert_eq!(accepts::text(field(at)), words),
            ("bytes", Some(Value::Bytes(bytes))) => assert_eq!(field(at), bytes),
            ("state", Some(Value::Enum(_, state))) => assert_eq!(accepts::text(field(at)), state),
            ("day", Some(Value::Date(day))) => assert_eq!(accepts::day(field(at)), *day - 10_957),
            ("small", Some(Value::Int(small))) => assert_eq!(accepts::int(field(at)), i64::from(*small)),
            ("real4", Some(Value::Float(real))) => {
                let found = reference::float4(field(at));
                assert!(found.to_bits() == real.to_bits() || found.is_nan() && real.is_nan());
            }
            (name, other) => panic!("{name} is {other:?}"),
        }
    }
}

fuzz_target!(|value: &[u8]| {
    let mut out = Vec::new();
    PLAIN.with_borrow_mut(|encoder| {
        let Some(count) = encode_alike(encoder, &record(value), &mut out) else { return };
        let rows = rows(count, &out);
        let row = &rows[0];
        for (field, (_, of, _)) in row.iter().zip(SPECS) {
            field.inspect(|field| accepts::check(of, field));
        }
        // The other reader may reject values that are valid here.
        match apache_avro::from_avro_datum(&READER, &mut &value[..], None) {
            Ok(Value::Record(members)) => compare(&members, row),
            Ok(other) => panic!("not a record: {other:?}"),
            Err(_) => {}
        }
    });
    OTHERS.with_borrow_mut(|encoder| {
        let Some(count) = encode_alike(encoder, &record(value), &mut out) else { return };
        for (field, (_, of, _)) in rows(count, &out)[0].iter().zip(CROSSED) {
            field.inspect(|field| accepts::check(of, field));
        }
    });
});
