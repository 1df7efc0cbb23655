//! Values written by another implementation of Protobuf, and invalid values.

use std::path::PathBuf;
use std::sync::Arc;

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value as Proto};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::*;
use crate::render;
use crate::schema::of_text;
use crate::schema::protobuf::ProtoFile;
use crate::value::{Kind, Value};

const FILE: &str = r#"
syntax = "proto3";
package test;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Telemetry {
  int64 vehicle_id = 1;
  double lat = 2;
  float speed = 3;
  string state = 4;
  bool flag = 5;
  bytes raw = 6;
  uint64 huge = 7;
  sint32 delta = 8;
  fixed32 fixed = 9;
  Kind kind = 10;
  google.protobuf.Timestamp at = 11;
  google.protobuf.Duration took = 12;
  google.protobuf.Int32Value maybe = 13;
  google.protobuf.Struct any = 14;
  Position position = 15;
  map<string, int32> counts = 16;
  repeated int32 list = 17;
  repeated Position path = 18;
  optional int32 chosen = 19;
  oneof one { string left = 20; int32 right = 21; }
  map<string, google.protobuf.Timestamp> times = 22;
  map<string, Position> places = 23;
  map<string, Kind> kinds = 24;
  message Position { double lat = 1; double lon = 2; }
  enum Kind { UNKNOWN = 0; TRUCK = 1; }
}
message Other { int32 n = 1; }
"#;

struct One;

impl FileResolver for One {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "t.proto" { File::from_source(name, FILE) } else { Err(protox::Error::file_not_found(name)) }
    }
}

fn pool() -> DescriptorPool {
    let mut chain = ChainFileResolver::new();
    chain.add(One);
    chain.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(chain);
    compiler.include_imports(true).open_file("t.proto").expect("it compiles");
    compiler.descriptor_pool()
}

fn decoder(paths: &[&str], leftovers: Leftovers, framed: bool) -> ProtobufDecoder {
    let file = ProtoFile::new(&pool(), "t.proto").expect("a file");
    let schema = Arc::new(Schema(Parsed::Protobuf(file)));
    let source = SchemaSource::Local { file: PathBuf::new(), schema, framed, message: None };
    let paths: Vec<Path> = paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
    ProtobufDecoder::new(&source, &paths, leftovers, &[], None)
}

fn shown(value: &Value<'_>) -> String {
    let mut out = Vec::new();
    match value.kind {
        Kind::Missing => out.extend_from_slice(b"missing"),
        Kind::True => out.extend_from_slice(b"true"),
        Kind::False => out.extend_from_slice(b"false"),
        _ => drop(render::text(value, &mut out)),
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn decode(decoder: &mut ProtobufDecoder, payload: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut fields = Fields::default();
    decoder.decode(payload, None, &mut fields)?;
    let slots = u16::try_from(fields.slots.len()).expect("few");
    Ok((0..slots).map(|slot| shown(&fields.value(slot, payload))).collect())
}

fn message(name: &str, fields: &[(&str, Proto)]) -> DynamicMessage {
    let mut message = DynamicMessage::new(pool().get_message_by_name(name).expect("a message"));
    for (name, value) in fields {
        message.set_field_by_name(name, value.clone());
    }
    message
}

fn telemetry() -> Vec<u8> {
    let position = |lat: f64| {
        Proto::Message(message("test.Telemetry.Position", &[("lat", Proto::F64(lat)), ("lon", Proto::F64(13.4))]))
    };
    let time = |name: &str, seconds: i64, nanos: i32| {
        Proto::Message(message(name, &[("seconds", Proto::I64(seconds)), ("nanos", Proto::I32(nanos))]))
    };
    let number = message("google.protobuf.Value", &[("number_value", Proto::F64(1.5))]);
    let any = [(MapKey::String("a".to_owned()), Proto::Message(number))].into();
    let fields = [
        ("vehicle_id", Proto::I64(-5)),
        ("lat", Proto::F64(52.5)),
        ("speed", Proto::F32(0.1)),
        ("state", Proto::String("dr\"iving".to_owned())),
        ("flag", Proto::Bool(true)),
        ("raw", Proto::Bytes(b"hi".as_slice().into())),
        ("huge", Proto::U64(u64::MAX)),
        ("delta", Proto::I32(-7)),
        ("fixed", Proto::U32(u32::MAX)),
        ("kind", Proto::EnumNumber(1)),
        ("at", time("google.protobuf.Timestamp", 1_769_860_800, 123_456_000)),
        ("took", time("google.protobuf.Duration", -1, -500_000_000)),
        ("maybe", Proto::Message(message("google.protobuf.Int32Value", &[]))),
        ("any", Proto::Message(message("google.protobuf.Struct", &[("fields", Proto::Map(any))]))),
        ("position", position(52.5)),
        ("counts", Proto::Map([(MapKey::String("x".to_owned()), Proto::I32(3))].into())),
        ("list", Proto::List(vec![Proto::I32(1), Proto::I32(-2)])),
        ("path", Proto::List(vec![position(1.0), position(2.0)])),
        ("chosen", Proto::I32(0)),
        ("right", Proto::I32(9)),
    ];
    message("test.Telemetry", &fields).encode_to_vec()
}

const PATHS: [(&str, &str, &str); 25] = [
    // The path, its value in the message above, and its value in an empty message.
    ("vehicle_id", "-5", "0"),
    ("lat", "52.5", "0"),
    ("speed", "0.1", "0"),
    ("state", "dr\"iving", ""),
    ("flag", "true", "false"),
    ("raw", "hi", ""),
    ("huge", "18446744073709551615", "0"),
    ("delta", "-7", "0"),
    ("fixed", "4294967295", "0"),
    ("kind", "TRUCK", "UNKNOWN"),
    ("at", "2026-01-31T12:00:00.123456Z", "missing"),
    ("took", "P0M0DT-1.500000S", "missing"),
    ("maybe", "0", "missing"),
    ("any", r#"{"a":1.5}"#, "missing"),
    ("position", r#"{"lat":52.5,"lon":13.4}"#, "missing"),
    ("position.lat", "52.5", "missing"),
    ("counts", r#"{"x":3}"#, "{}"),
    ("counts.x", "3", "missing"),
    ("counts.y", "missing", "missing"),
    ("list", "[1,-2]", "[]"),
    ("path", r#"[{"lat":1,"lon":13.4},{"lat":2,"lon":13.4}]"#, "[]"),
    ("chosen", "0", "missing"),
    ("left", "missing", "missing"),
    ("right", "9", "missing"),
    ("vehicleId", "-5", "0"),
];

#[test]
fn every_type_comes_as_another_implementation_wrote_it_and_defaults_as_proto3_has_them() {
    let paths = PATHS.map(|(path, ..)| path);
    let mut decoder = decoder(&paths, Leftovers::Ignore, false);
    let values = decode(&mut decoder, &telemetry()).expect("the value is good");
    let defaults = decode(&mut decoder, b"").expect("an empty value is one of defaults");
    for (((path, expected, default), value), empty) in PATHS.iter().zip(&values).zip(&defaults) {
        assert_eq!((value.as_str(), empty.as_str()), (*expected, *default), "{path}");
    }
}

#[test]
fn an_entry_of_a_map_without_its_value_has_the_default_of_the_values_type() {
    let paths = ["counts", "counts.x", "times", "times.x", "places", "places.x", "places.x.lat", "kinds", "kinds.x"];
    let mut decoder = decoder(&paths, Leftovers::Ignore, false);
    // Each map has one entry, whose only field is the key `x`.
    let entries = [16_u8, 22, 23, 24].map(|field| [field << 3 | 2, 1, 3, 0x0a, 1, b'x']);
    let payload: Vec<u8> = entries.iter().flatten().copied().collect();
    let expected = [
        r#"{"x":0}"#,
        "0",
        r#"{"x":"1970-01-01T00:00:00Z"}"#,
        "1970-01-01T00:00:00Z",
        r#"{"x":{}}"#,
        "{}",
        "0",
        r#"{"x":"UNKNOWN"}"#,
        "UNKNOWN",
    ];
    assert_eq!(decode(&mut decoder, &payload).expect("a value"), expected);
}

#[test]
fn frames_say_which_message_it_is() {
    let mut decoder = decoder(&["n"], Leftovers::Ignore, true);
    // The prefix has schema 7 and one message index, which is 1 (2 in zigzag). Field 1 is 5.
    assert_eq!(decode(&mut decoder, &[0, 0, 0, 0, 7, 2, 2, 8, 5]).expect("a value"), ["5"]);
    // The single byte 0 in place of the indexes means the first message, which has no field `n`.
    assert_eq!(decode(&mut decoder, &[0, 0, 0, 0, 7, 0, 8, 5]).expect("a value"), ["missing"]);
    for broken in [&[0, 0, 0, 0, 7][..], &[0, 0, 0, 0, 7, 2, 8], &[0, 0, 0, 0, 7, 0x7f], &[8, 5], &[]] {
        assert_eq!(decode(&mut decoder, broken).expect_err("a refusal").reason, Reason::InvalidFormat);
    }
}

#[test]
fn a_header_or_a_type_reference_or_a_single_outermost_message_says_which_message_it_is() {
    let several = ProtoFile::new(&pool(), "t.proto").expect("a file");
    let (first, other) = (several.outermost("Telemetry").expect("it"), several.outermost("Other").expect("it"));
    let number = Some(SchemaId::Number(7));
    let (bare, referring) = ([8, 5], *b"\x07\x0a\x05Other\x08\x05");
    assert_eq!(headed(&several, &bare, number, Some(b"Other")), Some((0, other)));
    assert_eq!(headed(&several, &referring, number, Some(b"Other")), Some((8, other)));
    assert_eq!(headed(&several, &referring, number, None), Some((8, other)));
    // If the header and the type reference name different messages, the header is right: the bytes are fields of its message.
    assert_eq!(headed(&several, &referring, number, Some(b"Telemetry")), Some((0, first)));
    for unknown in [None, Some(&b"Nobody"[..]), Some(b"\xff"), Some(b"Position")] {
        assert_eq!(headed(&several, &bare, number, unknown), None, "{unknown:?}");
    }
    assert_eq!(headed(&several, &bare, Some(SchemaId::Guid(7)), None), Some((0, first)));
    let text = "syntax = \"proto3\"; message Ride { message Position { double lat = 1; } int64 id = 1; }";
    let Parsed::Protobuf(single) = of_text(Some("PROTOBUF"), text, &[]).expect("a schema").0 else { panic!("no file") };
    assert_eq!(headed(&single, &bare, number, None), Some((0, single.outermost("Ride").expect("it"))));
}

#[test]
fn nothing_that_is_cut_short_or_changed_gets_through_as_a_panic() {
    let paths = PATHS.map(|(path, ..)| path);
    let mut decoder = decoder(&paths, Leftovers::Ignore, false);
    let whole = telemetry();
    for end in 0..whole.len() {
        let _either = decode(&mut decoder, &whole[..end]);
    }
    let mut changed = whole.clone();
    let mut refused = 0;
    for at in 0..whole.len() {
        for byte in [0x00, 0x01, 0x0b, 0x0c, 0x7f, 0x80, 0xff] {
            changed[at] = byte;
            refused += usize::from(decode(&mut decoder, &changed).is_err());
        }
        changed[at] = whole[at];
    }
    assert!(refused > whole.len(), "{refused}");
}

#[test]
fn elements_that_lie_apart_are_gathered_and_the_last_scalar_counts() {
    let mut decoder = decoder(&["vehicle_id", "list", "state"], Leftovers::Ignore, false);
    // list 1 (not packed), vehicle_id 1, list [2, 3] (packed), vehicle_id 2.
    let payload = [0x88, 0x01, 1, 8, 1, 0x8a, 0x01, 2, 2, 3, 8, 2];
    assert_eq!(decode(&mut decoder, &payload).expect("a value"), ["2", "[1,2,3]", ""]);
    let fault = decode(&mut decoder, &[0x0a, 1, 0]).expect_err("a text in a number's field");
    assert!(fault.detail.contains("whose type isn't its schema's"), "{}", fault.detail);
    let fault = decode(&mut decoder, &[0x22, 1, 0xff]).expect_err("no UTF-8");
    assert!(fault.detail.contains("not UTF-8"), "{}", fault.detail);
}

#[test]
fn fields_without_a_column_are_refused_or_kept() {
    let payload = [8, 5, 0x22, 1, b'x', 0x8a, 0x01, 1, 3];
    let mut refusing = decoder(&["vehicle_id"], Leftovers::Refuse, false);
    let fault = decode(&mut refusing, &payload).expect_err("a refusal");
    assert_eq!((fault.reason, fault.detail.as_str()), (Reason::UnknownField, "the field \"state\" has no column"));
    let mut collecting = decoder(&["vehicle_id"], Leftovers::Collect, false);
    let mut fields = Fields::default();
    collecting.decode(&payload, None, &mut fields).expect("a value");
    assert_eq!(fields.leftovers, b"\"state\":\"x\",\"list\":[3],");
}
