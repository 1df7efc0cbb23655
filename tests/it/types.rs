//! Values of the common types are stored as INSERT of the same text would store them. A value that INSERT
//! refuses becomes a dead letter.

use std::fmt::Write as _;

use tidegate_harness::Record;

use crate::support::World;

/// A column: its type, the mapping's `unit`, and its values as JSON and as text in INSERT.
struct Column {
    name: &'static str,
    sql_type: &'static str,
    unit: &'static str,
    values: &'static [(&'static str, &'static str)],
}

const fn column(
    name: &'static str,
    sql_type: &'static str,
    unit: &'static str,
    values: &'static [(&'static str, &'static str)],
) -> Column {
    Column { name, sql_type, unit, values }
}

const COLUMNS: &[Column] = &[
    column("flag", "bool", "", &[("true", "true"), ("false", "false")]),
    column("small", "int2", "", &[("-32768", "-32768"), ("32767", "32767"), ("0", "0")]),
    column("whole", "int4", "", &[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    column(
        "large",
        "int8",
        "",
        &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")],
    ),
    column(
        "real4",
        "float4",
        "",
        &[("3.4028235e38", "3.4028235e38"), ("1.17549435e-38", "1.17549435e-38"), ("0.1", "0.1"), ("-0.0", "-0.0")],
    ),
    column(
        "real8",
        "float8",
        "",
        &[
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("123456789.123456789", "123456789.123456789"),
            ("0.1", "0.1"),
            ("-0.0", "-0.0"),
            ("9007199254740993", "9007199254740993"),
        ],
    ),
    column(
        "exact",
        "numeric",
        "",
        &[
            ("0.1", "0.1"),
            ("0.100", "0.100"),
            ("123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
            ("1e-20", "1e-20"),
            ("1.5E30", "1.5E30"),
            ("-0.000", "-0.000"),
        ],
    ),
    column(
        "money2",
        "numeric(10,2)",
        "",
        &[
            ("12345678.91", "12345678.91"),
            ("1.005", "1.005"),
            ("1", "1"),
            ("-0.001", "-0.001"),
            ("99999999.994", "99999999.994"),
        ],
    ),
    column(
        "words",
        "text",
        "",
        &[
            (r#""""#, ""),
            (r#""tab\there""#, "tab\there"),
            (r#""line\nfeed\r\n""#, "line\nfeed\r\n"),
            (r#""back\\slash""#, r"back\slash"),
            (r#""\\N""#, r"\N"),
            (r#""\\.""#, r"\."),
            (r#""it's \"quoted\"""#, "it's \"quoted\""),
            (r#""Zürich \u00e9 \ud83d\ude80 海""#, "Zürich é 🚀 海"),
            (r#""\\u0000""#, r"\u0000"),
            (r#""NULL""#, "NULL"),
        ],
    ),
    column("short", "varchar(5)", "", &[(r#""abcde""#, "abcde"), (r#""éééé海""#, "éééé海"), (r#""""#, "")]),
    column("fixed", "char(5)", "", &[(r#""ab""#, "ab"), (r#""abcde""#, "abcde")]),
    column("bytes", "bytea", "", &[(r#""\\x00ff5c""#, r"\x00ff5c"), (r#""AP9c""#, r"\x00ff5c"), (r#""""#, "")]),
    column(
        "day",
        "date",
        "",
        &[
            (r#""2026-02-28""#, "2026-02-28"),
            (r#""2024-02-29""#, "2024-02-29"),
            (r#""0001-01-01""#, "0001-01-01"),
            (r#""9999-12-31""#, "9999-12-31"),
        ],
    ),
    column("clock", "time", "", &[(r#""00:00:00""#, "00:00:00"), (r#""23:59:59.999999""#, "23:59:59.999999")]),
    column(
        "local",
        "timestamp",
        "",
        &[
            (r#""2026-01-31T12:00:00.123456""#, "2026-01-31T12:00:00.123456"),
            (r#""2026-01-31 12:00:00""#, "2026-01-31 12:00:00"),
        ],
    ),
    column(
        "instant",
        "timestamptz",
        "",
        &[
            (r#""2026-01-31T12:00:00Z""#, "2026-01-31T12:00:00Z"),
            (r#""2026-01-31T12:00:00.123456Z""#, "2026-01-31T12:00:00.123456Z"),
            (r#""2026-01-31T12:00:00.123456789Z""#, "2026-01-31T12:00:00.123456789Z"),
            (r#""2026-01-31T12:00:00.5+05:30""#, "2026-01-31T12:00:00.5+05:30"),
            (r#""2026-01-31T12:00:00-11:45""#, "2026-01-31T12:00:00-11:45"),
            (r#""1969-12-31T23:59:59.999999Z""#, "1969-12-31T23:59:59.999999Z"),
            (r#""0001-01-01T00:00:00Z""#, "0001-01-01T00:00:00Z"),
            (r#""9999-12-31T23:59:59.999999Z""#, "9999-12-31T23:59:59.999999Z"),
        ],
    ),
    column(
        "in_s",
        "timestamptz",
        "s",
        &[
            ("1700000000", "2023-11-14 22:13:20+00"),
            ("-1", "1969-12-31 23:59:59+00"),
            ("1700000000.25", "2023-11-14 22:13:20.25+00"),
        ],
    ),
    column(
        "in_ms",
        "timestamptz",
        "ms",
        &[("1700000000123", "2023-11-14 22:13:20.123+00"), ("-1", "1969-12-31 23:59:59.999+00")],
    ),
    column(
        "in_us",
        "timestamptz",
        "us",
        &[("1700000000123456", "2023-11-14 22:13:20.123456+00"), ("-1", "1969-12-31 23:59:59.999999+00")],
    ),
    column(
        "in_ns",
        "timestamptz",
        "ns",
        &[
            ("1700000000123456000", "2023-11-14 22:13:20.123456+00"),
            ("1700000000123456789", "2023-11-14 22:13:20.123456789+00"),
        ],
    ),
    column("local_ms", "timestamp", "ms", &[("1700000000123", "2023-11-14 22:13:20.123")]),
    column(
        "code",
        "uuid",
        "",
        &[(r#""A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11""#, "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11")],
    ),
    column(
        "raw",
        "json",
        "",
        &[(r#"{"b": 1.10, "b":2}"#, r#"{"b": 1.10, "b":2}"#), ("[1,null]", "[1,null]"), (r#""x""#, r#""x""#)],
    ),
    column(
        "tree",
        "jsonb",
        "",
        &[
            (r#"{"b":1.10,"a":[1,null,"x\ty"],"b":2}"#, r#"{"b":1.10,"a":[1,null,"x\ty"],"b":2}"#),
            ("5", "5"),
            (r#""x\\u0000""#, r#""x\\u0000""#),
        ],
    ),
];

fn mapping(columns: &[Column]) -> String {
    let mut lines = String::from("id = \"id\"\n");
    for Column { name, unit, .. } in columns {
        let unit = if unit.is_empty() { String::new() } else { format!(", unit = \"{unit}\"") };
        // Writing to a String can't fail.
        let _infallible = writeln!(lines, "{name} = {{ field = \"{name}\"{unit} }}");
    }
    lines
}

fn definition(columns: &[Column]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| format!("{} {}", column.name, column.sql_type)).collect();
    format!("(id int, {})", columns.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_every_type_is_what_insert_of_the_same_text_gives() {
    let world = World::new(1).await;
    let definition = definition(COLUMNS);
    let mut sql = format!("CREATE TABLE rides {definition}; CREATE TABLE expected {definition};");
    let (mut records, mut id) = (Vec::new(), 0);
    for Column { name, values, .. } in COLUMNS {
        for (json, text) in *values {
            id += 1;
            records.push(Record::new(format!(r#"{{"id":{id},"{name}":{json}}}"#)));
            sql += &format!("INSERT INTO expected (id, {name}) VALUES ({id}, '{}');", text.replace('\'', "''"));
        }
        id += 1;
        records.push(Record::new(format!(r#"{{"id":{id},"{name}":null}}"#)));
        sql += &format!("INSERT INTO expected (id) VALUES ({id});");
    }
    world.sql(&sql).await;
    world.produce(records.into_iter().map(|record| record.to(0)));
    let pipeline = format!(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\n{}",
        world.name,
        mapping(COLUMNS)
    );
    let (code, log) = world.drain(&world.config(&pipeline));
    assert_eq!(code, Some(0), "{log}");
    let refused = "SELECT coalesce(string_agg(detail, E'\\n'), '') FROM tidegate.dead_letter";
    assert_eq!(world.text(refused).await, "");
    let differing = "SELECT coalesce(string_agg(format('%s, and INSERT gives %s', r, e), E'\\n'), '')
        FROM expected e FULL JOIN rides r USING (id) WHERE r::text IS DISTINCT FROM e::text";
    assert_eq!(world.text(differing).await, "");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, id);
}

/// Columns with values that the column's type refuses. Each value is given as JSON and as text.
const REFUSED: &[Column] = &[
    column("flag", "bool", "", &[(r#""maybe""#, "maybe"), ("2", "2")]),
    column("small", "int2", "", &[("32768", "32768"), ("-32769", "-32769")]),
    column(
        "whole",
        "int4",
        "",
        &[("2147483648", "2147483648"), ("1.5", "1.5"), (r#""n/a""#, "n/a"), (r#""NaN""#, "NaN")],
    ),
    column("large", "int8", "", &[("9223372036854775808", "9223372036854775808")]),
    column("real4", "float4", "", &[("1e39", "1e39")]),
    column("real8", "float8", "", &[("1e309", "1e309"), (r#""n/a""#, "n/a")]),
    column(
        "money2",
        "numeric(10,2)",
        "",
        &[("100000000", "100000000"), ("99999999.995", "99999999.995"), (r#""Infinity""#, "Infinity")],
    ),
    column("short", "varchar(5)", "", &[(r#""abcdef""#, "abcdef")]),
    column("day", "date", "", &[(r#""2026-02-30""#, "2026-02-30"), (r#""5874898-01-01""#, "5874898-01-01")]),
    column("clock", "time", "", &[(r#""25:00:00""#, "25:00:00")]),
    column(
        "instant",
        "timestamptz",
        "",
        &[
            (r#""2026-13-01T00:00:00Z""#, "2026-13-01T00:00:00Z"),
            (r#""294277-01-01T00:00:00Z""#, "294277-01-01T00:00:00Z"),
        ],
    ),
    column("code", "uuid", "", &[(r#""a0eebc99""#, "a0eebc99")]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_insert_refuses_is_a_dead_letter_and_its_neighbours_are_written() {
    let world = World::new(1).await;
    world.sql(&format!("CREATE TABLE rides {}", definition(REFUSED))).await;
    let (mut records, mut id) = (vec![Record::new(r#"{"id":0}"#)], 0);
    for Column { name, values, .. } in REFUSED {
        for (json, text) in *values {
            let insert = format!("INSERT INTO rides ({name}) VALUES ('{text}')");
            let outcome = sqlx::raw_sql(&insert).execute(&mut world.connect().await).await;
            assert!(outcome.is_err(), "INSERT takes {text} into {name}");
            records.push(Record::new(format!(r#"{{"id":-1,"{name}":{json}}}"#)));
            id += 1;
            records.push(Record::new(format!(r#"{{"id":{id}}}"#)));
        }
    }
    world.produce(records.into_iter().map(|record| record.to(0)));
    let pipeline = format!(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\n{}",
        world.name,
        mapping(REFUSED)
    );
    let (code, log) = world.drain(&world.config(&pipeline));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT coalesce(string_agg(r::text, E'\\n'), '') FROM rides r WHERE id = -1").await, "");
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides").await, id + 1);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE record_offset % 2 = 1").await, id);
    // All these values were rejected by our encoders, before the COPY.
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE sqlstate IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_keys_headers_defaults_and_leftovers_fill_the_columns_of_a_table_it_makes() {
    let world = World::new(1).await;
    let pipeline = format!(
        r#"table = {{ name = "made.rides", create = true }}
unknown_fields = {{ column = "extra" }}
[pipelines.{}.columns]
topic = {{ meta = "topic", type = "text" }}
part = {{ meta = "partition", type = "int4" }}
place = {{ meta = "offset", type = "int8" }}
at = {{ meta = "timestamp", type = "timestamptz" }}
key_bytes = {{ meta = "key", type = "bytea" }}
key_text = {{ meta = "key", type = "text" }}
headers = {{ meta = "headers", type = "jsonb" }}
trace = {{ header = "trace", type = "text" }}
deep = {{ field = "a.b.c", type = "int4" }}
speed = {{ field = "speed", type = "int4", default = 7 }}
gone = {{ field = "gone", type = "text" }}
stripped = {{ field = "name", type = "text", nul = "strip" }}
replaced = {{ field = "name", type = "text", nul = "replace" }}
"#,
        world.name
    );
    world.sql("CREATE SCHEMA made").await;
    let record = |value: &str| Record::new(value).to(0).key("k1").at_ms(1_700_000_000_123);
    world.produce([
        record(r#"{"a":{"b":{"c":5}},"name":"x\u0000y","speed":3,"colour":"red","n":[1]}"#)
            .header("trace", "t1")
            .header("b", "2"),
        record(r#"{"a":{"b":null},"name":"plain"}"#),
    ]);
    let (code, log) = world.drain(&world.config(&pipeline));
    assert_eq!(code, Some(0), "{log}");
    let row = |place: i64| {
        format!(
            "SELECT concat_ws('|', topic = '{}', part, place, at AT TIME ZONE 'UTC', key_bytes, key_text, headers,
             coalesce(trace, '-'), coalesce(deep::text, '-'), speed, coalesce(gone, '-'), stripped, replaced,
             coalesce(extra::text, '-')) FROM made.rides WHERE place = {place}",
            world.topic
        )
    };
    assert_eq!(
        world.text(&row(0)).await,
        "t|0|0|2023-11-14 22:13:20.123|\\x6b31|k1|{\"b\": \"2\", \"trace\": \"t1\"}|t1|5|3|-|xy|x\u{fffd}y|{\"n\": [1], \"colour\": \"red\"}"
    );
    assert_eq!(world.text(&row(1)).await, "t|0|1|2023-11-14 22:13:20.123|\\x6b31|k1|{}|-|-|7|-|plain|plain|-");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_without_a_column_are_ignored_unless_told_otherwise() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int)").await;
    world.produce([Record::new(r#"{"id":1,"colour":"red"}"#).to(0), Record::new(r#"{"id":2}"#).to(0)]);
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 2);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}
