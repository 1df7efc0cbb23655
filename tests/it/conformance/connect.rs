//! The logical types of Kafka Connect and Debezium. Each type is sent in the JSON envelope, and in Avro with `connect.name`.

use super::formats::{Column, Format};

/// A value as one of Kafka Connect's converters writes it.
enum Said {
    Number(i64),
    Text(&'static str),
    Bytes(&'static [u8]),
    /// A scale and an unscaled number. Together they become a struct.
    Scaled(i64, &'static [u8]),
}

use Said::{Bytes, Number, Scaled, Text};

/// The name and the type of a schema, the column's type, and each value with its text in INSERT.
type Logical = (&'static str, &'static str, &'static str, &'static [(Said, &'static str)]);

const DAYS: &[(Said, &str)] = &[
    (Number(20_484), "2026-01-31"),
    (Number(-1), "1969-12-31"),
    (Number(-719_163), "0001-12-31 BC"),
    (Number(2_147_483_647), "infinity"),
    (Number(-2_147_483_648), "-infinity"),
];
const MILLIS: &[(Said, &str)] = &[
    (Number(1_769_860_800_123), "2026-01-31T12:00:00.123Z"),
    (Number(-1), "1969-12-31T23:59:59.999Z"),
    (Number(-62_135_596_800_001), "0001-12-31T23:59:59.999Z BC"),
    (Number(9_223_372_036_825_200_000), "infinity"),
    (Number(-9_223_372_036_832_400_000), "-infinity"),
];
const CLOCK: &[(Said, &str)] =
    &[(Number(0), "00:00"), (Number(86_399_999), "23:59:59.999"), (Number(86_400_000), "24:00")];

const ALL: &[Logical] = &[
    ("org.apache.kafka.connect.data.Date", "int32", "date", DAYS),
    ("io.debezium.time.Date", "int32", "date", DAYS),
    ("org.apache.kafka.connect.data.Time", "int32", "time", CLOCK),
    ("io.debezium.time.Time", "int32", "time", CLOCK),
    ("io.debezium.time.MicroTime", "int64", "time", &[(Number(86_399_999_999), "23:59:59.999999")]),
    (
        "io.debezium.time.NanoTime",
        "int64",
        "time",
        &[
            (Number(1_500), "00:00:00.000002"),
            (Number(2_500), "00:00:00.000002"),
            (Number(86_399_999_999_000), "23:59:59.999999"),
        ],
    ),
    ("org.apache.kafka.connect.data.Timestamp", "int64", "timestamptz", MILLIS),
    ("io.debezium.time.Timestamp", "int64", "timestamptz", MILLIS),
    (
        "io.debezium.time.MicroTimestamp",
        "int64",
        "timestamp",
        &[
            (Number(1_769_860_800_123_456), "2026-01-31T12:00:00.123456"),
            (Number(-62_135_596_800_000_001), "0001-12-31T23:59:59.999999 BC"),
            (Number(9_223_372_036_825_200_000), "infinity"),
            (Number(-9_223_372_036_832_400_000), "-infinity"),
        ],
    ),
    (
        "io.debezium.time.NanoTimestamp",
        "int64",
        "timestamp",
        &[
            (Number(1_769_860_800_123_456_500), "2026-01-31T12:00:00.123456"),
            (Number(9_223_372_036_854_775_807), "2262-04-11T23:47:16.854776"),
            (Number(-9_223_372_036_854_775_808), "1677-09-21T00:12:43.145224"),
        ],
    ),
    (
        "io.debezium.time.ZonedTimestamp",
        "string",
        "timestamptz",
        &[
            (Text("2026-01-31T12:00:00.5+01:00"), "2026-01-31T12:00:00.5+01:00"),
            (Text("-0043-03-15T00:00:00Z"), "0044-03-15T00:00:00Z BC"),
            (Text("+10000-01-01T00:00:00Z"), "10000-01-01T00:00:00Z"),
        ],
    ),
    ("io.debezium.time.ZonedTime", "string", "timetz", &[(Text("12:00:00.5+02:00"), "12:00:00.5+02:00")]),
    (
        "io.debezium.time.MicroDuration",
        "int64",
        "interval",
        &[
            (Number(5_000_000), "5 seconds"),
            (Number(-1), "-0.000001 seconds"),
            (Number(i64::MAX), "2562047788:00:54.775807"),
        ],
    ),
    ("io.debezium.time.NanoDuration", "int64", "interval", &[(Number(-1_500), "-0.000002 seconds")]),
    ("io.debezium.time.Interval", "string", "interval", &[(Text("P1Y2M3DT4H5M6.789S"), "P1Y2M3DT4H5M6.789S")]),
    ("io.debezium.time.Year", "int32", "int4", &[(Number(2026), "2026")]),
    (
        "org.apache.kafka.connect.data.Decimal",
        "bytes",
        "numeric",
        &[
            (Bytes(&[0xcf, 0xc7]), "-123.45"),
            (Bytes(&[0]), "0.00"),
            (Bytes(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "23611832414348226068.47"),
        ],
    ),
    (
        "io.debezium.data.VariableScaleDecimal",
        "struct",
        "numeric",
        &[(Scaled(4, &[0xed, 0x29, 0xbc]), "-123.4500"), (Scaled(-2, &[1]), "100"), (Scaled(0, &[0]), "0")],
    ),
    (
        "io.debezium.data.Json",
        "string",
        "jsonb",
        &[(Text(r#"{"a":[1.50,null]}"#), r#"{"a":[1.50,null]}"#), (Text("null"), "null")],
    ),
    (
        "io.debezium.data.Uuid",
        "string",
        "uuid",
        &[(Text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")],
    ),
    ("io.debezium.data.Enum", "string", "mood", &[(Text("ok"), "ok")]),
    ("io.debezium.data.EnumSet", "string", "text", &[(Text("a,b"), "a,b")]),
    ("io.debezium.data.Bits", "bytes", "bytea", &[(Bytes(&[0, 0xff]), r"\x00ff")]),
    ("io.debezium.data.Xml", "string", "text", &[(Text("<a b=\"1\"/>"), "<a b=\"1\"/>")]),
    ("io.debezium.data.Ltree", "string", "text", &[(Text("a.b"), "a.b")]),
];

fn columns(say: impl Fn(&Said) -> Vec<u8>) -> Vec<Column> {
    let column = |(name, _, sql, values): &Logical| {
        let mut said: Vec<_> = values.iter().map(|(value, text)| (say(value), Some(*text))).collect();
        said.push((Vec::new(), None));
        let sent_as = format!("`{name}`");
        Column {
            sql,
            mapping: String::new(),
            sent_as,
            below: "",
            values: said,
            example: values[0].1.to_owned(),
            unsaid: Vec::new(),
        }
    };
    ALL.iter().map(column).collect()
}

pub(super) fn json() -> Format {
    let say = |value: &Said| match value {
        Number(number) => number.to_string().into_bytes(),
        Text(text) => serde_json::to_vec(text).expect("text"),
        Bytes(bytes) => format!("\"{}\"", base64(bytes)).into_bytes(),
        Scaled(scale, bytes) => format!(r#"{{"scale":{scale},"value":"{}"}}"#, base64(bytes)).into_bytes(),
    };
    let record = |_: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        // A field without a value is left out of the payload, which means null.
        let value = value.filter(|(_, json)| !json.is_empty());
        let value = value.map(|(column, json)| format!(",\"c{column}\":{}", String::from_utf8_lossy(json)));
        let payload = format!("{{\"id\":{id},\"turn\":{turn}{}}}", value.unwrap_or_default());
        format!(r#"{{"schema":{},"payload":{payload}}}"#, json_schema()).into_bytes()
    };
    let decode = "{ format = \"json\", envelope = \"connect\" }".to_owned();
    Format { name: "Kafka Connect and Debezium in JSON", decode, schema: None, columns: columns(say), record }
}

fn json_schema() -> String {
    let field = |(n, (name, kind, ..)): (usize, &Logical)| {
        let inner = match *kind {
            "struct" => r#","fields":[{"type":"int32","field":"scale"},{"type":"bytes","field":"value"}]"#,
            "bytes" => r#","parameters":{"scale":"2"}"#,
            _ => "",
        };
        format!(r#"{{"type":"{kind}","optional":true,"field":"c{n}","name":"{name}"{inner}}}"#)
    };
    let fields: Vec<_> = ALL.iter().enumerate().map(field).collect();
    format!(
        r#"{{"type":"struct","fields":[{{"type":"int64","field":"id"}},{{"type":"int32","field":"turn"}},{}]}}"#,
        fields.join(",")
    )
}

pub(super) fn avro() -> Format {
    let say = |value: &Said| match value {
        Number(number) => long(*number),
        Text(text) => counted(text.as_bytes()),
        Bytes(bytes) => counted(bytes),
        Scaled(scale, bytes) => [long(*scale), counted(bytes)].concat(),
    };
    let record = |columns: usize, id: usize, turn: u8, value: Option<(usize, &[u8])>| {
        let id = i64::try_from(id).expect("a small number");
        let mut bytes = [long(id), long(turn.into())].concat();
        for n in 0..columns {
            match value.filter(|(column, value)| *column == n && !value.is_empty()) {
                Some((_, value)) => bytes.extend([&long(1), value].concat()),
                None => bytes.extend(long(0)),
            }
        }
        bytes
    };
    let decode = "{ format = \"avro\", schema_file = FILE }".to_owned();
    let schema = Some(("connect.avsc", avro_schema()));
    Format { name: "Kafka Connect and Debezium in Avro", decode, schema, columns: columns(say), record }
}

fn avro_schema() -> String {
    let field = |(n, (name, kind, ..)): (usize, &Logical)| {
        let of = match *kind {
            "int32" => r#""type":"int""#.to_owned(),
            "int64" => r#""type":"long""#.to_owned(),
            "bytes" if *name == "org.apache.kafka.connect.data.Decimal" => {
                r#""type":"bytes","logicalType":"decimal","precision":64,"scale":2"#.to_owned()
            }
            "bytes" => r#""type":"bytes""#.to_owned(),
            "struct" => {
                let fields = r#"[{"name":"scale","type":"int"},{"name":"value","type":"bytes"}]"#;
                format!(r#""type":"record","name":"S{n}","fields":{fields}"#)
            }
            kind => format!(r#""type":"{kind}""#),
        };
        format!(r#"{{"name":"c{n}","type":["null",{{{of},"connect.name":"{name}"}}],"default":null}}"#)
    };
    let fields: Vec<_> = ALL.iter().enumerate().map(field).collect();
    format!(
        r#"{{"type":"record","name":"Trial","fields":[{{"name":"id","type":"long"}},{{"name":"turn","type":"int"}},{}]}}"#,
        fields.join(",")
    )
}

fn long(number: i64) -> Vec<u8> {
    super::protobuf::varint((number << 1 ^ number >> 63).cast_unsigned())
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [long(i64::try_from(bytes.len()).expect("short")), bytes.to_vec()].concat()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
