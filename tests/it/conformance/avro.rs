//! Avro: each type in its most direct form, and the logical types.
//!
//! The values are encoded by hand from the specification, so that no library decides what is correct.

use serde_json::Value as Json;

use super::formats::{Column, Format, lexical, of_types, survives};
use super::types::Type;

pub(super) fn format() -> Format {
    let mut columns = of_types(|of| sent_as(of).to_owned(), say, &long(0));
    let mut fields: Vec<_> = columns.iter().map(|column| schema_of(&column.sent_as)).collect();
    for (name, of_field, column) in logical() {
        fields.push(format!("[\"null\",{of_field}]"));
        columns.push(Column { sent_as: name, ..column });
    }
    let fields: Vec<_> =
        fields.iter().enumerate().map(|(n, of)| format!("{{\"name\":\"c{n}\",\"type\":{of}}}")).collect();
    let schema = format!(
        r#"{{"type":"record","name":"Trial","fields":[{{"name":"id","type":"int"}},{{"name":"turn","type":"int"}},{}]}}"#,
        fields.join(",")
    );
    let record = |columns: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        let mut record = [long(i64::try_from(id).expect("few")), long(turn.into())].concat();
        for n in 0..columns {
            match value {
                Some((column, bytes)) if column == n => record.extend_from_slice(bytes),
                _ => record.push(0),
            }
        }
        record
    };
    let decode = "{ format = \"avro\", schema_file = FILE }".to_owned();
    Format { name: "Avro", decode, schema: Some(("trial.avsc", schema)), columns, record }
}

fn sent_as(of: &Type) -> &'static str {
    match of.sql {
        _ if !of.unit.is_empty() => "long or double",
        "bool" => "boolean",
        "int2" | "int4" | "percent" => "int",
        "int8" | "oid" => "long",
        "float4" => "float",
        "float8" => "double",
        "bytea" => "bytes",
        "json" | "jsonb" | "point" | "row_of_three" => "maps, arrays, text, numbers",
        sql if sql.ends_with("[]") || sql.ends_with("range") => "maps, arrays, text, numbers",
        _ => "string",
    }
}

fn schema_of(sent_as: &str) -> String {
    match sent_as {
        "long or double" => any(0),
        "maps, arrays, text, numbers" => any(3),
        plain => format!("[\"null\",\"{plain}\"]"),
    }
}

/// Returns a schema for any JSON value, nested up to `depth` levels.
fn any(depth: usize) -> String {
    let below = match depth.checked_sub(1).map(any) {
        Some(below) => format!(r#",{{"type":"array","items":{below}}},{{"type":"map","values":{below}}}"#),
        None => String::new(),
    };
    format!(r#"["null","boolean","long","double","string"{below}]"#)
}

fn say(of: &Type, json: &str, text: &str) -> Option<Vec<u8>> {
    let value: Json = serde_json::from_str(json).expect("JSON");
    let value = match sent_as(of) {
        "long or double" | "maps, arrays, text, numbers" => return survives(of, json).then(|| said(&value)),
        // If the value is a string in JSON, it isn't sent as Avro's `boolean`.
        "boolean" if value.is_string() => return None,
        "boolean" => vec![u8::from(text == "true")],
        "int" | "long" => long(text.parse().ok()?),
        "float" => text.parse::<f32>().ok()?.to_le_bytes().into(),
        "double" => text.parse::<f64>().ok()?.to_le_bytes().into(),
        "bytes" => bytes(&unhex(text)),
        _ => bytes(lexical(of, json, text).as_bytes()),
    };
    Some(some(&value))
}

/// Encodes a value in the schema that [`any`] returns.
fn said(value: &Json) -> Vec<u8> {
    let block = |count: usize| if count == 0 { Vec::new() } else { long(i64::try_from(count).expect("few")) };
    match value {
        Json::Null => long(0),
        Json::Bool(flag) => [long(1), vec![u8::from(*flag)]].concat(),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => [long(2), long(whole)].concat(),
            None => [long(3), number.as_f64().expect("a double").to_le_bytes().into()].concat(),
        },
        Json::String(text) => [long(4), bytes(text.as_bytes())].concat(),
        Json::Array(items) => [long(5), block(items.len()), items.iter().flat_map(said).collect(), vec![0]].concat(),
        Json::Object(members) => {
            let pairs = members.iter().flat_map(|(key, value)| [bytes(key.as_bytes()), said(value)].concat());
            [long(6), block(members.len()), pairs.collect(), vec![0]].concat()
        }
    }
}

fn long(number: i64) -> Vec<u8> {
    super::protobuf::varint((number << 1 ^ number >> 63).cast_unsigned())
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&long(i64::try_from(bytes.len()).expect("short")), bytes].concat()
}

fn some(value: &[u8]) -> Vec<u8> {
    [&[2], value].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [long(i64::try_from(items.len()).expect("few")), items.concat(), vec![0]].concat()
}

fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    array(&members.iter().map(|(key, value)| [bytes(key.as_bytes()), value.clone()].concat()).collect::<Vec<_>>())
}

/// Decodes hexadecimal digits, with or without `\x` in front.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_start_matches("\\x").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(byte).collect()
}

/// Returns the logical types: the name for `docs/conformance.md`, the schema, and the column with its values.
fn logical() -> Vec<(String, String, Column)> {
    type Values = Vec<(Vec<u8>, &'static str)>;
    let mut all = Vec::new();
    let mut add = |sent_as: &str, schema: &str, sql: &'static str, below: &'static str, values: Values| {
        let mut said: Vec<_> = values.iter().map(|(bytes, text)| (some(bytes), Some(*text))).collect();
        said.push((long(0), None));
        let example = values[0].1.to_owned();
        let column = Column {
            sql,
            mapping: String::new(),
            sent_as: String::new(),
            below,
            values: said,
            example,
            unsaid: Vec::new(),
        };
        // A schema may define each name only once.
        let schema = schema.replace("NAMED", &format!("Of{}", all.len()));
        all.push((sent_as.to_owned(), schema, column));
    };
    let logical = |of: &str, name: &str| format!(r#"{{"type":"{of}","logicalType":"{name}"}}"#);
    let named = |of: &str, more: &str| format!(r#"{{"type":"{of}","name":"NAMED",{more}}}"#);
    let decimal = |precision: u8, scale: u8| {
        format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":{scale}}}"#)
    };
    let array_of = |items: &str| format!(r#"{{"type":"array","items":{items}}}"#);
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let sixteen = unhex(&uuid.replace('-', ""));

    add(
        "date",
        &logical("int", "date"),
        "date",
        "",
        vec![(long(20_484), "2026-01-31"), (long(-1), "1969-12-31"), (long(-719_162), "0001-01-01")],
    );
    add(
        "time-millis",
        &logical("int", "time-millis"),
        "time",
        "",
        vec![(long(86_399_999), "23:59:59.999"), (long(0), "00:00:00")],
    );
    add("time-micros", &logical("long", "time-micros"), "time", "", vec![(long(86_399_999_999), "23:59:59.999999")]);
    add(
        "timestamp-millis",
        &logical("long", "timestamp-millis"),
        "timestamptz",
        "",
        vec![(long(1_769_860_800_123), "2026-01-31T12:00:00.123Z"), (long(-1), "1969-12-31T23:59:59.999Z")],
    );
    add(
        "timestamp-micros",
        &logical("long", "timestamp-micros"),
        "timestamptz",
        "",
        vec![
            (long(1_769_860_800_123_456), "2026-01-31T12:00:00.123456Z"),
            (long(-62_135_596_800_000_000), "0001-01-01T00:00:00Z"),
        ],
    );
    add(
        "timestamp-nanos",
        &logical("long", "timestamp-nanos"),
        "timestamptz",
        "",
        vec![
            (long(1_769_860_800_123_456_789), "2026-01-31T12:00:00.123456789Z"),
            (long(-1), "1969-12-31T23:59:59.999999999Z"),
        ],
    );
    add(
        "local-timestamp-millis",
        &logical("long", "local-timestamp-millis"),
        "timestamp",
        "",
        vec![(long(1_769_860_800_123), "2026-01-31T12:00:00.123")],
    );
    add(
        "local-timestamp-micros",
        &logical("long", "local-timestamp-micros"),
        "timestamp",
        "",
        vec![(long(-1), "1969-12-31T23:59:59.999999")],
    );
    add(
        "local-timestamp-nanos",
        &logical("long", "local-timestamp-nanos"),
        "timestamp",
        "",
        vec![(long(1_500), "1970-01-01T00:00:00.0000015")],
    );
    add(
        "decimal(10, 2) of bytes",
        &decimal(10, 2),
        "numeric",
        "",
        vec![
            (bytes(&[0x30, 0x39]), "123.45"),
            (bytes(&[0xff]), "-0.01"),
            (bytes(&[0]), "0.00"),
            (bytes(&9_999_999_999_i64.to_be_bytes()), "99999999.99"),
        ],
    );
    add(
        "decimal(10, 3) of bytes",
        &decimal(10, 3),
        "numeric(10,2)",
        "",
        vec![(bytes(&1_005_i16.to_be_bytes()), "1.005"), (bytes(&(-1_005_i16).to_be_bytes()), "-1.005")],
    );
    add(
        "decimal(39, 9) of bytes",
        &decimal(39, 9),
        "numeric",
        "",
        vec![(
            bytes(&123_456_789_012_345_678_901_234_567_890_123_456_789_i128.to_be_bytes()),
            "123456789012345678901234567890.123456789",
        )],
    );
    let fixed = named("fixed", r#""size":8,"logicalType":"decimal","precision":18,"scale":4"#);
    add(
        "decimal(18, 4) of a fixed",
        &fixed,
        "numeric",
        "",
        vec![((-12_345_i64).to_be_bytes().into(), "-1.2345"), (i64::MAX.to_be_bytes().into(), "922337203685477.5807")],
    );
    add("decimal(10, 2) of bytes", &decimal(10, 2), "text", "", vec![(bytes(&[0x30, 0x39]), "123.45")]);
    add("uuid of a string", &logical("string", "uuid"), "uuid", "", vec![(bytes(uuid.as_bytes()), uuid)]);
    add(
        "uuid of a fixed",
        &named("fixed", r#""size":16,"logicalType":"uuid""#),
        "uuid",
        "",
        vec![(sixteen.clone(), uuid)],
    );
    add("uuid of a fixed", &named("fixed", r#""size":16,"logicalType":"uuid""#), "text", "", vec![(sixteen, uuid)]);
    let span = |months: u32, days: u32, millis: u32| [months, days, millis].map(u32::to_le_bytes).concat();
    add(
        "duration",
        &named("fixed", r#""size":12,"logicalType":"duration""#),
        "interval",
        "",
        vec![(span(14, 2, 3_500), "14 months 2 days 3.5 seconds"), (span(0, 0, 0), "0")],
    );
    let states = r#""symbols":["sad","ok"]"#;
    add("enum", &named("enum", states), "mood", "", vec![(long(1), "ok"), (long(0), "sad")]);
    add("enum", &named("enum", states), "text", "", vec![(long(1), "ok")]);
    add("fixed", &named("fixed", r#""size":4"#), "bytea", "", vec![(vec![0, 255, 92, 1], r"\x00ff5c01")]);
    add("bytes", "\"bytes\"", "text", "", vec![(bytes("Zürich".as_bytes()), "Zürich")]);
    add("long", "\"long\"", "numeric", "", vec![(long(i64::MIN), "-9223372036854775808")]);
    add("long", "\"long\"", "text", "", vec![(long(i64::MIN), "-9223372036854775808")]);
    add(
        "double",
        "\"double\"",
        "numeric",
        "",
        vec![
            (0.1_f64.to_le_bytes().into(), "0.1"),
            (f64::NAN.to_le_bytes().into(), "NaN"),
            (f64::INFINITY.to_le_bytes().into(), "Infinity"),
        ],
    );
    add(
        "array of int",
        &array_of("\"int\""),
        "int4[]",
        "",
        vec![(array(&[long(1), long(-2)]), "{1,-2}"), (vec![0], "{}")],
    );
    add(
        "array of array of int",
        &array_of(&array_of("\"int\"")),
        "int4[]",
        "",
        vec![(array(&[array(&[long(1), long(2)]), array(&[long(3), long(4)])]), "{{1,2},{3,4}}")],
    );
    add(
        "array of null or string",
        &array_of(r#"["null","string"]"#),
        "text[]",
        "",
        vec![(array(&[some(&bytes(b"a,\"b")), long(0), some(&bytes(b""))]), r#"{"a,\"b",NULL,""}"#)],
    );
    add(
        "array of timestamp-millis",
        &array_of(&logical("long", "timestamp-millis")),
        "timestamptz[]",
        "",
        vec![(array(&[long(1_769_860_800_123), long(-1)]), "{2026-01-31T12:00:00.123Z,1969-12-31T23:59:59.999Z}")],
    );
    add(
        "array of date",
        &array_of(&logical("int", "date")),
        "date[]",
        "",
        vec![(array(&[long(20_484)]), "{2026-01-31}")],
    );
    add(
        "array of decimal(10, 2)",
        &array_of(&decimal(10, 2)),
        "numeric(6,2)[]",
        "",
        vec![(array(&[bytes(&[0x30, 0x39]), bytes(&[0xff])]), "{123.45,-0.01}")],
    );
    add(
        "array of uuid",
        &array_of(&logical("string", "uuid")),
        "uuid[]",
        "",
        vec![(array(&[bytes(uuid.as_bytes())]), "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}")],
    );
    add(
        "map of long",
        r#"{"type":"map","values":"long"}"#,
        "jsonb",
        "",
        vec![
            (map(&[("a", long(1)), ("b\"", long(i64::MAX))]), r#"{"a":1,"b\"":9223372036854775807}"#),
            (vec![0], "{}"),
        ],
    );
    let place = named("record", r#""fields":[{"name":"lat","type":"double"},{"name":"lon","type":"double"}]"#);
    let berlin = [52.5_f64.to_le_bytes(), 13.25_f64.to_le_bytes()].concat();
    add("record", &place, "jsonb", "", vec![(berlin.clone(), r#"{"lat":52.5,"lon":13.25}"#)]);
    add("record", &place, "point", "", vec![(berlin.clone(), "(13.25,52.5)")]);
    add("record, its lat", &place, "float8", "lat", vec![(berlin.clone(), "52.5")]);
    add(
        "array of record",
        &array_of(&place),
        "jsonb",
        "",
        vec![(array(&[berlin.clone(), berlin.clone()]), r#"[{"lat":52.5,"lon":13.25},{"lat":52.5,"lon":13.25}]"#)],
    );
    add("array of record", &array_of(&place), "point[]", "", vec![(array(&[berlin]), r#"{"(13.25,52.5)"}"#)]);
    let bounds = named("record", r#""fields":[{"name":"lower","type":"int"},{"name":"upper","type":["null","int"]}]"#);
    add(
        "record of bounds",
        &bounds,
        "int4range",
        "",
        vec![([long(1), some(&long(5))].concat(), "[1,5)"), ([long(1), long(0)].concat(), "[1,)")],
    );
    let rich = named(
        "record",
        &format!(
            r#""fields":[{{"name":"day","type":{}}},{{"name":"at","type":{}}},{{"name":"price","type":{}}},{{"name":"id","type":{}}},{{"name":"raw","type":"bytes"}},{{"name":"none","type":"null"}},{{"name":"odd","type":"double"}}]"#,
            logical("int", "date"),
            logical("long", "timestamp-micros"),
            decimal(10, 2),
            logical("string", "uuid"),
        ),
    );
    let all_of_it = [
        long(20_484),
        long(1_769_860_800_123_456),
        bytes(&[0x30, 0x39]),
        bytes(uuid.as_bytes()),
        bytes(b"hello"),
        Vec::new(),
        f64::NAN.to_le_bytes().into(),
    ];
    add(
        "record of logical types",
        &rich,
        "jsonb",
        "",
        vec![(
            all_of_it.concat(),
            r#"{"day":"2026-01-31","at":"2026-01-31T12:00:00.123456Z","price":123.45,"id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","raw":"aGVsbG8=","none":null,"odd":"NaN"}"#,
        )],
    );
    all
}
