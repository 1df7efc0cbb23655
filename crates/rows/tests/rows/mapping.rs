//! Plans and whole rows; single types are tested in `copy`.

use tidegate_protocol::record::{Headers, Record, push_header};
use tidegate_rows::catalog::{CatalogColumn, Generated, RelationKind};
use tidegate_rows::mapping::{Plan, mark};
use tidegate_rows::spec::{EpochUnit, Missing, NulPolicy, Source, UnknownFields, WriteMode};
use tidegate_rows::value::{EncodeError, Reason};

use crate::fixtures::*;

const TELEMETRY: &str = r#"{"vehicle_id":123456,"ts":"2026-01-01T00:00:00.123Z","lat":52.520008,"lon":13.404954,"speed_kmh":48.5,"state":"driving","trip_id":987654321}"#;

fn telemetry() -> Vec<CatalogColumn> {
    [
        ("vehicle_id", "int8"),
        ("ts", "timestamptz"),
        ("lat", "float8"),
        ("lon", "float8"),
        ("speed_kmh", "float4"),
        ("state", "text"),
        ("trip_id", "int8"),
    ]
    .map(|(name, type_text)| column(name, type_text))
    .into()
}

fn telemetry_row() -> Vec<Option<Vec<u8>>> {
    let micros = (1_767_225_600_123_i64 - 946_684_800_000) * 1_000;
    vec![
        Some(123_456_i64.to_be_bytes().into()),
        Some(micros.to_be_bytes().into()),
        Some(52.520_008_f64.to_be_bytes().into()),
        Some(13.404_954_f64.to_be_bytes().into()),
        Some(48.5_f32.to_be_bytes().into()),
        Some(b"driving".into()),
        Some(987_654_321_i64.to_be_bytes().into()),
    ]
}

fn one(
    config: &Pipeline,
    columns: Vec<CatalogColumn>,
    record: &Record<'_>,
) -> Result<Vec<Option<Vec<u8>>>, EncodeError> {
    let mut rows = Vec::new();
    encoder(config, &catalog(columns)).expect("a plan").encode(record, &mut rows).map(|_| fields(&rows))
}

fn text(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

#[test]
fn without_a_mapping_each_column_takes_the_field_of_its_name() {
    let plan = Plan::new(&pipeline(None).spec(), &catalog(telemetry())).expect("a plan");
    assert_eq!(
        plan.copy_statement(),
        r#"COPY "public"."t" ("vehicle_id","ts","lat","lon","speed_kmh","state","trip_id") FROM STDIN (FORMAT binary)"#
    );
    assert_eq!(one(&pipeline(None), telemetry(), &record(TELEMETRY.as_bytes())), Ok(telemetry_row()));
}

#[test]
fn the_order_of_keys_spaces_and_unknown_fields_change_nothing() {
    let mut encoder = encoder(&pipeline(None), &catalog(telemetry())).expect("a plan");
    let shapes = [
        TELEMETRY.to_owned(),
        TELEMETRY.replace(':', ": ").replace(",\"", ", \"").replace("T00: 00: 00", "T00:00:00"),
        TELEMETRY.replace("\"lat\"", "\"x\":[{\"lat\":1}],\"lat\""),
        TELEMETRY.replace("lat", "l\\u0061t"),
        r#" { "trip_id":987654321,"state":"driving","speed_kmh":48.5,"lon":13.404954,"lat":52.520008,"ts":"2026-01-01T00:00:00.123Z","vehicle_id":123456 } "#.to_owned(),
        TELEMETRY.replace("{\"vehicle_id\"", "{\"vehicle_id\":\"earlier\",\"vehicle_id\""),
    ];
    for shape in shapes.iter().chain(&shapes) {
        let mut rows = Vec::new();
        assert_eq!(encoder.encode(&record(shape.as_bytes()), &mut rows), Ok(1), "{shape}");
        assert_eq!(fields(&rows), telemetry_row(), "{shape}");
    }
}

#[test]
fn nested_paths_are_found_and_the_last_of_two_objects_counts() {
    let columns = || vec![column("lat", "float8"), column("position", "jsonb"), column("deep", "int4")];
    let config =
        pipeline(Some(vec![mapped("lat", "position.lat"), mapped("position", "position"), mapped("deep", "a.b.c")]));
    let row = |json: &str| one(&config, columns(), &record(json.as_bytes()));
    let lat = Some(1.5_f64.to_be_bytes().to_vec());
    let deep = Some(7_i32.to_be_bytes().to_vec());
    assert_eq!(
        row(r#"{"position":{"alt":[1],"lat":1.5},"a":{"b":{"c":7}}}"#),
        Ok(vec![lat, text("\u{1}{\"alt\":[1],\"lat\":1.5}"), deep])
    );
    assert_eq!(row(r#"{"position":{"lat":1.5},"position":5,"a":{"b":[]}}"#), Ok(vec![None, text("\u{1}5"), None]));
    assert_eq!(row(r#"{"position":{"lat":1.5},"position":null}"#), Ok(vec![None, None, None]));
}

#[test]
fn a_missing_field_takes_the_default_and_a_null_does_not() {
    let mut column_v = mapped("v", "v");
    column_v.default = Some("\"none\"".to_owned());
    let config = pipeline(Some(vec![column_v]));
    let row = |json: &str| one(&config, vec![column("v", "text")], &record(json.as_bytes()));
    assert_eq!(row("{}"), Ok(vec![text("none")]));
    assert_eq!(row("{\"v\":null}"), Ok(vec![None]));
}

#[test]
fn a_column_with_a_default_is_left_out_where_its_field_is_missing() {
    let with_default = |name: &str| CatalogColumn { has_default: true, not_null: true, ..column(name, "int4") };
    let columns = || vec![with_default("id"), column("v", "int4"), with_default("n")];
    let mut config = pipeline(None);
    let mut encoder = encoder(&config, &catalog(columns())).expect("a plan");
    let mut rows = Vec::new();
    for value in ["{\"v\":1}", "{\"id\":2,\"v\":3,\"n\":4}"] {
        encoder.encode(&record(value.as_bytes()), &mut rows).expect("a good record");
    }
    let found: Vec<_> = mark::marked(&rows).map(|(table, row)| (table, rows[row].split_at(1))).collect();
    let int = |number: i32| Some(number.to_be_bytes().to_vec());
    assert_eq!(found.len(), 2);
    let (table, (mask, row)) = found[0];
    assert_eq!((table, mask, fields(row)), (0, &[0b1100_0000][..], vec![int(1)]));
    let (_, (mask, row)) = found[1];
    assert_eq!((mask, fields(row)), (&[0][..], vec![int(2), int(3), int(4)]));
    let refused = encoder.encode(&record(b"{\"id\":null}"), &mut rows).expect_err("an explicit null");
    assert_eq!(refused.reason, Reason::NullInNotNull);
    // A setting of the mapping takes precedence over the table's default.
    let mapped = |missing| tidegate_rows::spec::Column { missing: Some(missing), ..mapped("id", "id") };
    for (missing, row) in [(Missing::Null, None), (Missing::DeadLetter, None), (Missing::Default, Some(0))] {
        config.columns = Some(vec![mapped(missing)]);
        let mut encoder = self::encoder(&config, &catalog(columns())).expect("a plan");
        let outcome = encoder.encode(&record(b"{}"), &mut Vec::new());
        assert_eq!(outcome.map_err(|rejection| rejection.reason), row.map(|_| 1).ok_or(Reason::MissingField));
    }
}

#[test]
fn not_null_columns_refuse_missing_and_null_without_asking_postgres() {
    let columns = || vec![CatalogColumn { not_null: true, ..column("lat", "float8") }];
    let config = pipeline(Some(vec![mapped("lat", "position.lat")]));
    let rejection = one(&config, columns(), &record(b"{}")).expect_err("a missing field");
    assert_eq!((rejection.reason, rejection.column), (Reason::MissingField, Some(0)));
    assert_eq!(rejection.detail, "position.lat (for lat) is missing, and the column is NOT NULL");
    let rejection = one(&config, columns(), &record(b"{\"position\":{\"lat\":null}}")).expect_err("a null field");
    assert_eq!(rejection.reason, Reason::NullInNotNull);
}

#[test]
fn refusals_are_sentences_for_a_person() {
    let refused = |type_text: &str, value: &str| {
        let EncodeError { reason, detail, .. } = encode_one(type_text, value).expect_err("a refusal");
        (reason, detail)
    };
    assert_eq!(refused("float8", "\"n/a\""), (Reason::TypeMismatch, "v \"n/a\" is not float8".to_owned()));
    assert_eq!(refused("int2", "40000"), (Reason::OutOfRange, "v 40000 is out of range for int2".to_owned()));
    assert_eq!(refused("varchar(2)", "\"abc\""), (Reason::TooLong, "v \"abc\" is too long for varchar(2)".to_owned()));
    assert_eq!(
        refused("text", "\"a\\u0000b\""),
        (Reason::NulInText, "v \"a\\u0000b\" holds a NUL, which text can't store".to_owned())
    );
    assert_eq!(
        refused("timestamptz", "1767225600"),
        (Reason::TypeMismatch, "v 1767225600 is not timestamptz; epochs need `unit` in the mapping".to_owned())
    );
    let long = format!("\"{}\"", "x".repeat(1000));
    assert!(refused("int4", &long).1.chars().count() < 100);
}

#[test]
fn records_that_are_no_json_object_are_refused_with_the_place() {
    let refused = |value: &[u8]| {
        let EncodeError { reason, detail, column } =
            one(&pipeline(None), telemetry(), &record(value)).expect_err("a refusal");
        assert_eq!(column, None);
        (reason, detail)
    };
    assert_eq!(
        refused(b"{\"lat\":1,}"),
        (Reason::InvalidJson, "the value is not JSON: byte 9 at }: expected a key in quotes".to_owned())
    );
    assert_eq!(refused(b"{\"lat\":1").1, "the value is not JSON: byte 8: it ends too early");
    assert_eq!(refused(b"[1]"), (Reason::NotAnObject, "the element 1 of the array is not a JSON object".to_owned()));
    assert_eq!(refused(b"{\"a\":\"\xff\"}"), (Reason::InvalidUtf8, "the value is not UTF-8 at byte 6".to_owned()));
    assert_eq!(refused(b"").0, Reason::InvalidJson);
    let tombstone = Record { value: None, ..record(b"") };
    assert_eq!(one(&pipeline(None), telemetry(), &tombstone).expect_err("a refusal").reason, Reason::Tombstone);
}

#[test]
fn kafkas_metadata_fills_columns() {
    let sources = [
        ("topic", Source::Topic, "text"),
        ("partition", Source::Partition, "int4"),
        ("offset", Source::Offset, "int8"),
        ("offset_text", Source::Offset, "text"),
        ("timestamp", Source::Timestamp, "timestamptz"),
        ("key", Source::Key, "bytea"),
        ("key_text", Source::Key, "text"),
        ("headers", Source::Headers, "jsonb"),
        ("header", Source::Header("a".to_owned()), "int4"),
        ("none", Source::Header("none".to_owned()), "text"),
    ];
    let config = pipeline(Some(
        sources
            .iter()
            .map(|(name, source, _)| tidegate_rows::spec::Column { source: source.clone(), ..mapped(name, "x") })
            .collect(),
    ));
    let columns = sources.iter().map(|(name, _, type_text)| column(name, type_text)).collect();
    let mut arena = Vec::new();
    push_header(&mut arena, b"a", Some(b"1"));
    push_header(&mut arena, b"b\"", None);
    push_header(&mut arena, b"a", Some(b"2"));
    let record = Record { headers: Headers::from_arena(&arena), ..record(b"{}") };
    let micros = (1_767_225_600_123_i64 - 946_684_800_000) * 1_000;
    let expected = vec![
        text("telemetry"),
        Some(3_i32.to_be_bytes().into()),
        Some(88_123_i64.to_be_bytes().into()),
        text("88123"),
        Some(micros.to_be_bytes().into()),
        text("k"),
        text("k"),
        text("\u{1}{\"a\":[\"1\",\"2\"],\"b\\\"\":null}"),
        Some(2_i32.to_be_bytes().into()),
        None,
    ];
    assert_eq!(one(&config, columns, &record), Ok(expected));
}

#[test]
fn keys_and_headers_that_do_not_fit_are_refused_with_their_name() {
    let refused = |source: Source, type_text: &str, key: &[u8], header: &[u8]| {
        let config = pipeline(Some(vec![tidegate_rows::spec::Column { source, ..mapped("v", "x") }]));
        let mut arena = Vec::new();
        push_header(&mut arena, b"h", Some(header));
        let record = Record { key: Some(key), headers: Headers::from_arena(&arena), ..record(b"{}") };
        let EncodeError { reason, detail, .. } =
            one(&config, vec![column("v", type_text)], &record).expect_err("a refusal");
        (reason, detail)
    };
    let header = || Source::Header("h".to_owned());
    assert_eq!(refused(Source::Key, "text", b"\xff", b""), (Reason::InvalidUtf8, "v: the key is not UTF-8".to_owned()));
    assert_eq!(refused(Source::Key, "text", b"a\0b", b"").0, Reason::NulInText);
    assert_eq!(refused(Source::Key, "int8", b"k7", b""), (Reason::TypeMismatch, "v \"k7\" is not int8".to_owned()));
    assert_eq!(refused(Source::Key, "jsonb", b"{", b"").0, Reason::InvalidJson);
    assert_eq!(refused(header(), "uuid", b"", b"x").0, Reason::InvalidUuid);
}

#[test]
fn headers_that_are_no_text_are_base64_among_those_that_are() {
    let config = pipeline(Some(vec![tidegate_rows::spec::Column { source: Source::Headers, ..mapped("v", "x") }]));
    let mut arena = Vec::new();
    for (name, value) in [("a", &b"\xff\x01"[..]), ("b", b"\0\0\0\x05"), ("c", b"text")] {
        push_header(&mut arena, name.as_bytes(), Some(value));
    }
    let record = Record { headers: Headers::from_arena(&arena), ..record(b"{}") };
    let expected = text("\u{1}{\"a\":{\"base64\":\"/wE=\"},\"b\":{\"base64\":\"AAAABQ==\"},\"c\":\"text\"}");
    assert_eq!(one(&config, vec![column("v", "jsonb")], &record), Ok(vec![expected]));
}

#[test]
fn a_kafka_timestamp_beyond_postgres_is_refused_and_none_is_null() {
    let config = pipeline(Some(vec![tidegate_rows::spec::Column { source: Source::Timestamp, ..mapped("v", "x") }]));
    let row = |timestamp_ms| one(&config, vec![column("v", "timestamptz")], &Record { timestamp_ms, ..record(b"{}") });
    assert_eq!(row(None), Ok(vec![None]));
    let rejection = row(Some(i64::MAX)).expect_err("a refusal");
    assert_eq!(rejection.reason, Reason::OutOfRange);
    assert_eq!(rejection.detail, "v 9223372036854775807 is out of range for timestamptz");
    assert_eq!(row(Some(i64::MIN)).expect_err("a refusal").reason, Reason::OutOfRange);
}

#[test]
fn unknown_fields_are_ignored_refused_or_kept() {
    let json = br#"{"x":1,"a":{"b":"\u0041"},"p":{"q":2},"x":"again"}"#;
    let mut config = pipeline(Some(vec![mapped("a", "a"), mapped("q", "p.q")]));
    let columns = || vec![column("a", "jsonb"), column("q", "int4"), column("extra", "jsonb")];
    let kept = [text("\u{1}{\"b\":\"\\u0041\"}"), Some(2_i32.to_be_bytes().into())];
    assert_eq!(one(&config, columns(), &record(json)), Ok(kept.to_vec()));

    config.unknown_fields = UnknownFields::DeadLetter;
    let rejection = one(&config, columns(), &record(json)).expect_err("a refusal");
    assert_eq!((rejection.reason, rejection.detail.as_str()), (Reason::UnknownField, "the field \"x\" has no column"));

    config.unknown_fields = UnknownFields::Column("extra".to_owned());
    let extra = text("\u{1}{\"x\":1,\"x\":\"again\"}");
    let expected = [&kept[..], &[extra]].concat();
    assert_eq!(one(&config, columns(), &record(json)), Ok(expected));
    assert_eq!(one(&config, columns(), &record(b"{}")), Ok(vec![None, None, None]));
    let not_null =
        vec![column("a", "jsonb"), column("q", "int4"), CatalogColumn { not_null: true, ..column("extra", "jsonb") }];
    assert_eq!(one(&config, not_null, &record(b"{}")), Ok(vec![None, None, text("\u{1}{}")]));
    assert_eq!(
        one(&config, columns(), &record(b"{\"x\":\"\\u0000\"}")).expect_err("a refusal").reason,
        Reason::NulInText
    );
}

#[test]
fn every_fault_of_a_plan_is_reported_at_once() {
    let mut ts = mapped("ts", "ts");
    ts.type_name = Some("timestamptz".to_owned());
    ts.unit = Some(EpochUnit::Millis);
    let mut state = mapped("state", "state");
    state.default = Some("7".to_owned());
    state.nul = NulPolicy::Strip;
    let topic = tidegate_rows::spec::Column { source: Source::Topic, ..mapped("n", "n") };
    let mut config =
        pipeline(Some(vec![ts, state, topic, mapped("spede", "speed"), mapped("made", "made"), mapped("h", "h")]));
    config.table.mode = WriteMode::InsertNew { key: vec!["idd".to_owned()] };
    config.unknown_fields = UnknownFields::Column("n".to_owned());
    let mut catalog = catalog(vec![
        CatalogColumn { not_null: true, ..column("id", "int8") },
        column("ts", "int8"),
        column("state", "uuid"),
        column("n", "int8"),
        column("speed", "float4"),
        CatalogColumn {
            generated: Some(Generated { stored: true, from: Vec::new(), oid: 7 }),
            ..column("made", "int8")
        },
        CatalogColumn { base_type_oid: 99_999, type_text: "hstore".to_owned(), ..column("h", "text") },
    ]);
    catalog.kind = RelationKind::View;
    let faults = Plan::new(&config.spec(), &catalog).expect_err("faults");
    let shown: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "pipelines.p.table.name: `public.t` is a view; name the table that the view reads",
            "pipelines.p.table.key: `public.t` has no column `idd`; did you mean `id`?",
            "pipelines.p.columns.ts.type: the mapping says `timestamptz`, but the column is `int8`",
            "pipelines.p.columns.ts.unit: only fields that become timestamp or timestamptz have a unit",
            "pipelines.p.columns.state.default: 7 is not `uuid`",
            "pipelines.p.columns.n: this is a text, but the column is `int8`",
            "pipelines.p.columns.spede: `public.t` has no column `spede`; did you mean `speed`?",
            "pipelines.p.columns.made: Postgres generates `made` itself; leave it out of the mapping",
            "pipelines.p.columns.h: column `h` is `hstore`, which has no encoder; leave it out, or fill a text column and let Postgres generate this one from it",
            "pipelines.p.unknown_fields.column: `n` is mapped already",
            "pipelines.p.columns: column `id` (int8) is NOT NULL without a default; map a field or a constant (`value`) to it, or give it a default",
        ]
    );
}

#[test]
fn types_are_compared_by_meaning() {
    let plan = |says: &str, is: &str| {
        let mut mapped = mapped("v", "v");
        mapped.type_name = Some(says.to_owned());
        encoder(&pipeline(Some(vec![mapped])), &catalog(vec![column("v", is)])).is_ok()
    };
    assert!(plan("bigint", "int8"));
    assert!(plan("varchar", "varchar(16)"));
    assert!(plan("numeric(10)", "numeric(10,0)"));
    assert!(plan("timestamptz", "timestamp with time zone"));
    assert!(plan("int4[]", "integer[]"));
    assert!(!plan("varchar(15)", "varchar(16)"));
    assert!(!plan("int4", "int8"));
    assert!(!plan("int4", "int4[]"));
}
