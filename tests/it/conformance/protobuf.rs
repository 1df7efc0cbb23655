//! Protobuf: each type in its most direct form, and the messages to which Google and Confluent give a meaning.
//!
//! The values are encoded by hand from the description of the wire format.

use serde_json::Value as Json;

use super::avro::unhex;
use super::formats::{Column, Format, lexical, of_types, survives};
use super::types::Type;

/// The field number of the first column. Lower numbers belong to the fields before the columns, such as `id` and `turn`.
const FIRST: usize = 10;

pub(super) fn format() -> Format {
    // A null field is left out of the record.
    let mut columns = of_types(|of| sent_as(of).to_owned(), say, b"");
    let mut fields: Vec<_> = columns.iter().map(|column| column.sent_as.clone()).collect();
    for (of_field, column) in known() {
        fields.push(of_field.clone());
        columns.push(Column { sent_as: of_field, ..column });
    }
    for (n, column) in columns.iter_mut().enumerate() {
        for (bytes, _) in column.values.iter_mut().filter(|(bytes, _)| !bytes.is_empty()) {
            *bytes = numbered(FIRST + n, bytes);
        }
    }
    let fields: Vec<_> = fields.iter().enumerate().map(|(n, of)| format!("  {of} c{n} = {};\n", FIRST + n)).collect();
    let schema = format!(
        "syntax = \"proto3\";\npackage trials;\nimport \"google/protobuf/timestamp.proto\";\n\
         import \"google/protobuf/duration.proto\";\nimport \"google/protobuf/wrappers.proto\";\n\
         import \"google/protobuf/struct.proto\";\nimport \"confluent/type/decimal.proto\";\n\
         import \"google/type/date.proto\";\nimport \"google/type/timeofday.proto\";\nimport \"google/type/latlng.proto\";\n\
         import \"google/type/decimal.proto\";\nmessage VariableScaleDecimal {{ int32 scale = 1; bytes value = 2; }}\n\
         enum State {{ sad = 0; ok = 1; }}\nmessage Place {{ double lat = 1; double lon = 2; }}\n\
         message Bounds {{ sint32 lower = 1; optional sint32 upper = 2; }}\n\
         message Rich {{ google.protobuf.Timestamp at = 1; confluent.type.Decimal price = 2; bytes raw = 3; uint64 big = 4;\n\
         google.protobuf.StringValue note = 5; State state = 6; double odd = 7; optional string none = 8; }}\n\
         message Trial {{\n  int64 id = 1;\n  int32 turn = 2;\n{}}}\n",
        fields.concat()
    );
    let record = |_: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        let bytes = value.map_or(&b""[..], |(_, bytes)| bytes);
        [field(1, &number(id as u64)), field(2, &number(turn.into())), bytes.to_vec()].concat()
    };
    let decode = "{ format = \"protobuf\", schema_file = FILE, message = \"trials.Trial\" }".to_owned();
    Format { name: "Protobuf", decode, schema: Some(("trial.proto", schema)), columns, record }
}

fn sent_as(of: &Type) -> &'static str {
    match (of.sql, of.unit) {
        (_, "s") => "optional double",
        (_, "ms" | "us" | "ns") => "optional int64",
        ("bool", _) => "optional bool",
        ("int2", _) => "optional int32",
        ("int4" | "percent", _) => "optional sint32",
        ("int8", _) => "optional int64",
        ("oid", _) => "optional uint32",
        ("float4", _) => "optional float",
        ("float8", _) => "optional double",
        ("bytea", _) => "optional bytes",
        ("json" | "jsonb" | "point" | "row_of_three", _) => "google.protobuf.Value",
        (sql, _) if sql.ends_with("[]") || sql.ends_with("range") => "google.protobuf.Value",
        _ => "optional string",
    }
}

/// Encodes a value, preceded by one byte for its wire type. Returns `None` if the value can't be sent as this type.
fn say(of: &Type, json: &str, text: &str) -> Option<Vec<u8>> {
    // If the text isn't an integer in decimal digits, the value can't be sent as an integer.
    let parse = || text.parse::<i64>().ok();
    Some(match sent_as(of) {
        "google.protobuf.Value" => {
            let value: Json = serde_json::from_str(json).expect("JSON");
            return survives(of, json).then(|| delimited(&said(&value)));
        }
        "optional bool" if json.starts_with('"') => return None,
        "optional bool" => number(u64::from(text == "true")),
        "optional int64" if !of.unit.is_empty() => number(json.parse::<i64>().ok()?.cast_unsigned()),
        "optional int32" | "optional int64" | "optional uint32" => number(parse()?.cast_unsigned()),
        "optional sint32" => zigzag(parse()?),
        "optional float" => float(text.parse().ok()?),
        "optional double" if !of.unit.is_empty() => double(json.parse().ok()?),
        "optional double" => double(text.parse().ok()?),
        "optional bytes" => delimited(&unhex(text)),
        _ => delimited(lexical(of, json, text).as_bytes()),
    })
}

fn said(value: &Json) -> Vec<u8> {
    match value {
        Json::Null => field(1, &number(0)),
        Json::Number(number) => field(2, &double(number.as_f64().expect("a double"))),
        Json::String(text) => field(3, &delimited(text.as_bytes())),
        Json::Bool(flag) => field(4, &number(u64::from(*flag))),
        Json::Object(members) => {
            let pair = |(key, value): (&String, &Json)| member(&delimited(key.as_bytes()), &delimited(&said(value)));
            field(5, &delimited(&members.iter().flat_map(pair).collect::<Vec<_>>()))
        }
        Json::Array(items) => {
            field(6, &delimited(&items.iter().flat_map(|i| field(1, &delimited(&said(i)))).collect::<Vec<_>>()))
        }
    }
}

fn member(key: &[u8], value: &[u8]) -> Vec<u8> {
    field(1, &delimited(&[field(1, key), field(2, value)].concat()))
}

pub(super) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

// The functions below encode values, each preceded by its wire type.

fn number(number: u64) -> Vec<u8> {
    [vec![0], varint(number)].concat()
}

fn zigzag(number: i64) -> Vec<u8> {
    self::number((number << 1 ^ number >> 63).cast_unsigned())
}

fn double(number: f64) -> Vec<u8> {
    [&[1][..], &number.to_le_bytes()].concat()
}

fn fixed64(number: u64) -> Vec<u8> {
    [&[1][..], &number.to_le_bytes()].concat()
}

fn delimited(bytes: &[u8]) -> Vec<u8> {
    [&[2][..], &varint(bytes.len() as u64), bytes].concat()
}

fn float(number: f32) -> Vec<u8> {
    [&[5][..], &number.to_le_bytes()].concat()
}

fn fixed32(number: u32) -> Vec<u8> {
    [&[5][..], &number.to_le_bytes()].concat()
}

/// Encodes a field. The first byte of `value` is the wire type.
fn field(number: usize, value: &[u8]) -> Vec<u8> {
    [&varint((number as u64) << 3 | u64::from(value[0])), &value[1..]].concat()
}

/// Encodes a field with one value, or with several values from [`many`].
fn numbered(number: usize, values: &[u8]) -> Vec<u8> {
    if values[0] == MANY {
        let mut rest = &values[1..];
        let mut fields = Vec::new();
        while let Some((length, tail)) = rest.split_first() {
            let (value, behind) = tail.split_at(usize::from(*length));
            fields.extend(field(number, value));
            rest = behind;
        }
        return fields;
    }
    field(number, values)
}

/// This byte in place of a wire type says that several values of one field follow.
const MANY: u8 = 0xff;

fn many(values: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |value: &Vec<u8>| [&[u8::try_from(value.len()).expect("short")], &value[..]].concat();
    [vec![MANY], values.iter().flat_map(with_length).collect()].concat()
}

/// Returns the columns for the messages to which Google and Confluent give a meaning, and for fields without presence. Each
/// column comes with its field's type.
fn known() -> Vec<(String, Column)> {
    type Values = Vec<(Vec<u8>, &'static str)>;
    let mut all = Vec::new();
    let mut add = |sent_as: &str, sql: &'static str, below: &'static str, values: Values| {
        let example = values[0].1.to_owned();
        let mut said: Vec<_> = values.into_iter().map(|(bytes, text)| (bytes, Some(text))).collect();
        // If a field without presence is absent, it has its default, so it can't be null.
        let implicit = ["repeated", "map", "int64", "string", "bool", "State"];
        let unsaid = if implicit.iter().any(|word| sent_as.starts_with(word)) { vec!["null"] } else { Vec::new() };
        if unsaid.is_empty() {
            said.push((Vec::new(), None));
        }
        all.push((
            sent_as.to_owned(),
            Column { sql, mapping: String::new(), sent_as: String::new(), below, values: said, example, unsaid },
        ));
    };
    let pair = |one: u64, other: u64| delimited(&[field(1, &number(one)), field(2, &number(other))].concat());
    let one = |value: &[u8]| delimited(&field(1, value));
    let nothing = || delimited(b"");
    let decimal = |unscaled: &[u8], scale: u64| {
        delimited(&[field(1, &delimited(unscaled)), field(2, &number(38)), field(3, &number(scale))].concat())
    };
    let minus = |n: i64| n.cast_unsigned();

    add(
        "google.protobuf.Timestamp",
        "timestamptz",
        "",
        vec![
            (pair(1_769_860_800, 123_456_000), "2026-01-31T12:00:00.123456Z"),
            (pair(1_769_860_800, 123_456_789), "2026-01-31T12:00:00.123456789Z"),
            (pair(minus(-1), 999_999_000), "1969-12-31T23:59:59.999999Z"),
            (pair(minus(-62_135_596_800), 0), "0001-01-01T00:00:00Z"),
            (nothing(), "1970-01-01T00:00:00Z"),
        ],
    );
    add("google.protobuf.Timestamp", "timestamp", "", vec![(pair(1_769_860_800, 0), "2026-01-31T12:00:00")]);
    add(
        "google.protobuf.Duration",
        "interval",
        "",
        vec![
            (pair(3, 500_000_000), "3.5 seconds"),
            (pair(minus(-1), minus(-500_000_000)), "-1.5 seconds"),
            (nothing(), "0"),
        ],
    );
    add("google.protobuf.BoolValue", "bool", "", vec![(one(&number(1)), "true"), (nothing(), "false")]);
    add("google.protobuf.Int32Value", "int4", "", vec![(one(&number(minus(-5))), "-5"), (nothing(), "0")]);
    add("google.protobuf.Int64Value", "int8", "", vec![(one(&number(minus(i64::MIN))), "-9223372036854775808")]);
    add("google.protobuf.UInt32Value", "oid", "", vec![(one(&number(4_294_967_295)), "4294967295")]);
    add("google.protobuf.UInt64Value", "numeric", "", vec![(one(&number(u64::MAX)), "18446744073709551615")]);
    add("google.protobuf.FloatValue", "float4", "", vec![(one(&float(0.1)), "0.1"), (one(&float(f32::NAN)), "NaN")]);
    add("google.protobuf.DoubleValue", "float8", "", vec![(one(&double(0.1)), "0.1"), (nothing(), "0")]);
    add("google.protobuf.StringValue", "text", "", vec![(one(&delimited("é\\N".as_bytes())), "é\\N"), (nothing(), "")]);
    add("google.protobuf.BytesValue", "bytea", "", vec![(one(&delimited(&[0, 255])), r"\x00ff"), (nothing(), "")]);
    add(
        "confluent.type.Decimal",
        "numeric",
        "",
        vec![
            (decimal(&[0x30, 0x39], 2), "123.45"),
            (decimal(&[0xff], 3), "-0.001"),
            (
                decimal(&123_456_789_012_345_678_901_234_567_890_123_456_789_i128.to_be_bytes(), 9),
                "123456789012345678901234567890.123456789",
            ),
        ],
    );
    add("confluent.type.Decimal", "numeric(10,2)", "", vec![(decimal(&1_005_i16.to_be_bytes(), 3), "1.005")]);
    add(
        "google.protobuf.Struct",
        "jsonb",
        "",
        vec![
            (delimited(&member(&delimited(b"a"), &delimited(&field(2, &double(1.5))))), r#"{"a":1.5}"#),
            (nothing(), "{}"),
        ],
    );
    add(
        "google.protobuf.ListValue",
        "jsonb",
        "",
        vec![(
            delimited(
                &[field(1, &delimited(&field(2, &double(1.0)))), field(1, &delimited(&field(1, &number(0))))].concat(),
            ),
            "[1,null]",
        )],
    );
    let three = |numbers: [i64; 3]| {
        let fields = (1..).zip(numbers).filter(|(_, of)| *of != 0).map(|(n, of)| field(n, &number(minus(of))));
        delimited(&fields.collect::<Vec<_>>().concat())
    };
    add(
        "google.type.Date",
        "date",
        "",
        vec![
            (three([2026, 1, 31]), "2026-01-31"),
            (three([1, 1, 1]), "0001-01-01"),
            (three([9999, 12, 31]), "9999-12-31"),
        ],
    );
    add("google.type.Date", "text", "", vec![(three([0, 5, 1]), "0000-05-01"), (nothing(), "0000-00-00")]);
    let clock = |numbers: [u64; 4]| {
        let fields = (1..).zip(numbers).filter(|(_, of)| *of != 0).map(|(n, of)| field(n, &number(of)));
        delimited(&fields.collect::<Vec<_>>().concat())
    };
    add(
        "google.type.TimeOfDay",
        "time",
        "",
        vec![
            (clock([23, 59, 59, 999_999_000]), "23:59:59.999999"),
            (clock([1, 2, 3, 4_500]), "01:02:03.000004"),
            (clock([24, 0, 0, 0]), "24:00:00"),
            (clock([23, 59, 60, 0]), "23:59:60"),
            (nothing(), "00:00:00"),
        ],
    );
    add("google.type.TimeOfDay", "text", "", vec![(clock([25, 0, 0, 1]), "25:00:00.000000001")]);
    add(
        "google.type.Decimal",
        "numeric",
        "",
        vec![(one(&delimited(b"-12.50")), "-12.50"), (one(&delimited(b"1e3")), "1000")],
    );
    let at = |lat: f64, lon: f64| {
        let fields = (1..).zip([lat, lon]).filter(|(_, of)| *of != 0.0).map(|(n, of)| field(n, &double(of)));
        delimited(&fields.collect::<Vec<_>>().concat())
    };
    add(
        "google.type.LatLng",
        "point",
        "",
        vec![(at(52.5, 13.25), "(13.25,52.5)"), (at(0.0, 13.25), "(13.25,0)"), (nothing(), "(0,0)")],
    );
    add("google.type.LatLng", "jsonb", "", vec![(at(0.0, 13.25), r#"{"latitude":0,"longitude":13.25}"#)]);
    let variable = |scale: i64, unscaled: &[u8]| {
        delimited(&[field(1, &number(minus(scale))), field(2, &delimited(unscaled))].concat())
    };
    add(
        "VariableScaleDecimal",
        "numeric",
        "",
        vec![(variable(2, &[0x30, 0x39]), "123.45"), (variable(-2, &[0xff]), "-100")],
    );
    let place = delimited(&[field(1, &double(52.5)), field(2, &double(13.25))].concat());
    add("Place", "jsonb", "", vec![(place.clone(), r#"{"lat":52.5,"lon":13.25}"#)]);
    add("Place", "point", "", vec![(place.clone(), "(13.25,52.5)")]);
    add("Place", "float8", "lat", vec![(place.clone(), "52.5")]);
    add(
        "Bounds",
        "int4range",
        "",
        vec![
            (delimited(&[field(1, &zigzag(1)), field(2, &zigzag(5))].concat()), "[1,5)"),
            (delimited(&field(1, &zigzag(-1))), "[-1,)"),
        ],
    );
    let rich = [
        field(1, &pair(1_769_860_800, 123_456_000)),
        field(2, &decimal(&[0x30, 0x39], 2)),
        field(3, &delimited(b"hello")),
        field(4, &number(u64::MAX)),
        field(5, &one(&delimited(b"x"))),
        field(6, &number(1)),
        field(7, &double(f64::NAN)),
    ];
    add(
        "Rich",
        "jsonb",
        "",
        vec![(
            delimited(&rich.concat()),
            r#"{"at":"2026-01-31T12:00:00.123456Z","price":123.45,"raw":"aGVsbG8=","big":18446744073709551615,"note":"x","state":"ok","odd":"NaN"}"#,
        )],
    );
    add("optional State", "mood", "", vec![(number(1), "ok"), (number(0), "sad")]);
    add("optional State", "text", "", vec![(number(1), "ok"), (number(7), "7")]);
    add("optional uint64", "numeric", "", vec![(number(u64::MAX), "18446744073709551615")]);
    add("optional sint64", "int8", "", vec![(zigzag(i64::MIN), "-9223372036854775808")]);
    add("optional fixed64", "numeric", "", vec![(fixed64(u64::MAX), "18446744073709551615")]);
    add("optional sfixed64", "int8", "", vec![(fixed64(minus(-2)), "-2")]);
    add("optional fixed32", "int8", "", vec![(fixed32(u32::MAX), "4294967295")]);
    add("optional sfixed32", "int4", "", vec![(fixed32((-2_i32).cast_unsigned()), "-2")]);
    add("int64", "int8", "", vec![(number(minus(-7)), "-7"), (Vec::new(), "0")]);
    add("string", "text", "", vec![(delimited(b"x"), "x"), (Vec::new(), "")]);
    add("bool", "bool", "", vec![(number(1), "true"), (Vec::new(), "false")]);
    add("State", "mood", "", vec![(number(1), "ok"), (Vec::new(), "sad")]);
    let packed = [zigzag(1), zigzag(-2)].map(|value| value[1..].to_vec()).concat();
    add(
        "repeated sint32",
        "int4[]",
        "",
        vec![(delimited(&packed), "{1,-2}"), (many(&[zigzag(3), zigzag(4)]), "{3,4}"), (Vec::new(), "{}")],
    );
    add(
        "repeated double",
        "float8[]",
        "",
        vec![(delimited(&[0.1_f64.to_le_bytes(), f64::NAN.to_le_bytes()].concat()), "{0.1,NaN}")],
    );
    add("repeated string", "text[]", "", vec![(many(&[delimited(b"a,\"b"), delimited(b"")]), r#"{"a,\"b",""}"#)]);
    add("repeated bytes", "bytea[]", "", vec![(many(&[delimited(&[0, 255])]), r#"{"\\x00ff"}"#)]);
    add("repeated State", "mood[]", "", vec![(delimited(&[1, 0]), "{ok,sad}")]);
    add(
        "repeated google.protobuf.Timestamp",
        "timestamptz[]",
        "",
        vec![(many(&[pair(1_769_860_800, 0), nothing()]), "{2026-01-31T12:00:00Z,1970-01-01T00:00:00Z}")],
    );
    add(
        "repeated confluent.type.Decimal",
        "numeric(6,2)[]",
        "",
        vec![(many(&[decimal(&[0x30, 0x39], 2)]), "{123.45}")],
    );
    add(
        "repeated Place",
        "jsonb",
        "",
        vec![(many(&[place.clone(), place.clone()]), r#"[{"lat":52.5,"lon":13.25},{"lat":52.5,"lon":13.25}]"#)],
    );
    add("repeated Place", "point[]", "", vec![(many(&[place]), r#"{"(13.25,52.5)"}"#)]);
    let entry = |key: &[u8], value: &[u8]| delimited(&[field(1, key), field(2, value)].concat());
    add(
        "map<string, int64>",
        "jsonb",
        "",
        vec![
            (many(&[entry(&delimited(b"a"), &number(1)), entry(&delimited(b"b\""), &number(2))]), r#"{"a":1,"b\"":2}"#),
            (Vec::new(), "{}"),
        ],
    );
    add("map<int32, string>", "jsonb", "", vec![(many(&[entry(&number(7), &delimited(b"x"))]), r#"{"7":"x"}"#)]);
    all
}
