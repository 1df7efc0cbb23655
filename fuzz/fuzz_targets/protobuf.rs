//! Decodes arbitrary bytes as a Protobuf message with most types. Compares eight fields with those of another reader, if that
//! reader accepts the bytes.

#![no_main]

mod common;

use std::cell::RefCell;
use std::sync::LazyLock;

use common::{Spec, accepts, encode_alike, encoder, extra, local, record, reference, rows};
use libfuzzer_sys::fuzz_target;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{Decode, UnknownFields};

const SCHEMA: &str = r#"syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message E {
  int64 id = 1; double lat = 2; float speed = 3; string state = 4; bool flag = 5; bytes raw = 6; uint64 huge = 7;
  sint32 delta = 8; fixed32 fixed = 9; K kind = 10; google.protobuf.Timestamp at = 11;
  google.protobuf.Duration took = 12; google.protobuf.StringValue maybe = 13; google.protobuf.Struct any = 14;
  E tree = 15; map<string, E> map = 16; repeated int32 list = 17; repeated E path = 18; oneof o { string l = 19; }
}
enum K { U = 0; T = 1; }"#;

const SPECS: &[Spec] = &[
    ("id", "int8", "id"),
    ("lat", "float8", "lat"),
    ("speed", "float4", "speed"),
    ("state", "text", "state"),
    ("flag", "bool", "flag"),
    ("raw", "bytea", "raw"),
    ("delta", "int4", "delta"),
    ("fixed", "int8", "fixed"),
    ("huge", "numeric", "huge"),
    ("kind", "text", "kind"),
    ("at", "timestamptz", "at"),
    ("took", "interval", "took"),
    ("maybe", "text", "maybe"),
    ("anything", "jsonb", "any"),
    ("tree", "jsonb", "tree"),
    ("map", "jsonb", "map"),
    ("list", "jsonb", "list"),
    ("extra", "jsonb", ""),
];
const CROSSED: &[Spec] = &[
    ("id", "int4", "id"),
    ("huge", "int8", "huge"),
    ("delta", "int2", "delta"),
    ("lat", "numeric(10,2)", "lat"),
    ("speed", "text", "speed"),
    ("kind", "mood", "kind"),
    ("attext", "text", "at"),
    ("at", "timestamp", "at"),
    ("tooktext", "text", "took"),
    ("deep", "json", "tree.tree.tree"),
    ("key", "jsonb", "map.k"),
    ("inner", "text", "map.k.state"),
    ("either", "varchar(3)", "l"),
    ("path", "jsonb", "path"),
    ("rawtext", "text", "raw"),
];

static READER: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let file = std::env::temp_dir().join(format!("tidegate-fuzz-{}.proto", std::process::id()));
    std::fs::write(&file, SCHEMA).expect("the schema is written");
    let folder = file.parent().expect("a folder");
    let set = protox::compile([file.file_name().expect("a name")], [folder]).expect("the schema");
    std::fs::remove_file(&file).expect("the schema goes");
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).expect("a pool");
    pool.get_message_by_name("E").expect("the message")
});

thread_local! {
    static PLAIN: RefCell<Encoder> = RefCell::new(encoder(Decode::Protobuf(local("PROTOBUF", SCHEMA, Some("E"))), extra(), SPECS));
    static OTHERS: RefCell<Encoder> = RefCell::new(encoder(Decode::Protobuf(local("PROTOBUF", SCHEMA, Some("E"))), UnknownFields::Ignore, CROSSED));
}

fn compare(message: &DynamicMessage, row: &common::Row<'_>) {
    for (at, (name, ..)) in SPECS[..8].iter().enumerate() {
        let value = message.descriptor().get_field_by_name(name).map(|field| message.get_field(&field).into_owned());
        let field = row[at].expect("a field without presence is never null");
        match value.expect("a field") {
            Value::I64(id) => assert_eq!(accepts::int(field), id),
            Value::F64(lat) => assert_eq!(reference::float8(field).to_bits(), lat.to_bits()),
            Value::F32(speed) => {
                let found = reference::float4(field);
                assert!(found.to_bits() == speed.to_bits() || found.is_nan() && speed.is_nan());
            }
            Value::String(state) => assert_eq!(accepts::text(field), state),
            Value::Bool(flag) => assert_eq!(field, [u8::from(flag)]),
            Value::Bytes(raw) => assert_eq!(field, raw),
            Value::I32(delta) => assert_eq!(accepts::int(field), i64::from(delta)),
            Value::U32(fixed) => assert_eq!(accepts::int(field), i64::from(fixed)),
            other => panic!("{name} is {other:?}"),
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
        // The other reader also checks nested data, and may reject it.
        if let Ok(message) = DynamicMessage::decode(READER.clone(), value) {
            compare(&message, row);
        }
    });
    OTHERS.with_borrow_mut(|encoder| {
        let Some(count) = encode_alike(encoder, &record(value), &mut out) else { return };
        for (field, (_, of, _)) in rows(count, &out)[0].iter().zip(CROSSED) {
            field.inspect(|field| accepts::check(of, field));
        }
    });
});
