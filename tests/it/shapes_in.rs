//! Records with several rows, with byte order marks or with binary headers. Also the functions of columns.

use std::io::Write as _;

use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn each_element_of_an_array_is_a_row_all_or_none_of_a_record() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE readings (device int, n int, t int NOT NULL, v float8, at bigint, PRIMARY KEY (at, n))")
        .await;
    world.produce(
        [
            r#"{"device":7,"site":"n","readings":[{"t":1,"v":2.5},{"t":2,"v":3.5},{"t":3}]}"#,
            r#"{"device":8,"readings":[]}"#,
            r#"{"device":8,"readings":null}"#,
            r#"{"device":9,"readings":[{"t":1},{"v":1}]}"#, // the second has no time, so neither is a row
            r#"{"device":9,"raedings":[{"t":1}]}"#,         // no array at all
            r#"{"readings":[{"t":4,"device":1}],"device":10}"#,
        ]
        .map(Record::new),
    );
    let config = world.config(
        "table = { name = \"readings\" }\ndecode = { format = \"json\", rows = \"readings\" }\ndead_letters.max_share = 1\n\
         columns.device = \"device\"\ncolumns.n = { meta = \"ordinal\" }\ncolumns.t = \"readings.t\"\n\
         columns.v = \"readings.v\"\ncolumns.at = { meta = \"offset\" }",
    );
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["rows"], 4, "{report}");
    world.drained(&config);
    let rows = "SELECT string_agg(concat_ws(':', at, device, n, t, v), ' ' ORDER BY at, n) FROM readings";
    assert_eq!(world.text(rows).await, "0:7:1:1:2.5 0:7:2:2:3.5 0:7:3:3 5:10:1:4");
    let reasons = world.reasons().await;
    let codes: Vec<_> = reasons.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(codes, ["missing_field", "missing_field"], "{reasons:?}");
    assert_eq!(world.ledger().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_within_arrays_give_the_log_records_of_otlp() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE logs (service jsonb, scope text, at timestamptz, body text)").await;
    let value = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"gate"}}]},
        "scopeLogs":[{"scope":{"name":"one"},"logRecords":[
            {"timeUnixNano":1769860800123456789,"body":{"stringValue":"a"}},{"timeUnixNano":1769860801000000000,"body":{"stringValue":"b"}}]},
          {"scope":{"name":"two"},"logRecords":[{"timeUnixNano":1769860802000000000,"body":{"stringValue":"c"}}]}]}]}"#;
    world.produce([Record::new(value)]);
    world.drained(
        &world.config(
            "table = { name = \"logs\" }\n\
             decode = { format = \"json\", rows = \"resourceLogs[].scopeLogs[].logRecords\" }\n\
             columns.service = \"resourceLogs.resource.attributes\"\ncolumns.scope = \"resourceLogs.scopeLogs.scope.name\"\n\
             columns.at = { field = \"resourceLogs.scopeLogs.logRecords.timeUnixNano\", unit = \"ns\" }\n\
             columns.body = \"resourceLogs.scopeLogs.logRecords.body.stringValue\"",
        ),
    );
    assert_eq!(world.reasons().await, []);
    assert_eq!(
        world.text("SELECT string_agg(scope || ':' || body, ' ' ORDER BY at) FROM logs").await,
        "one:a one:b two:c"
    );
    assert_eq!(world.text("SELECT DISTINCT service->0->'value'->>'stringValue' FROM logs").await, "gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_ndjson_are_rows_and_a_byte_order_mark_is_skipped() {
    let bom = "\u{feff}";
    for (decode, values, expected) in [
        (
            "ndjson",
            vec!["{\"id\":1}\n{\"id\":2}\r\n\n{\"id\":3}".to_owned(), format!("{bom}{{\"id\":4}}\n"), String::new()],
            "1,2,3,4",
        ),
        ("json", vec![format!("{bom}{{\"id\":1}}"), format!("{bom}[{{\"id\":2}}]"), "{\"id\":3}".to_owned()], "1,2,3"),
        ("csv", vec![format!("{bom}id\n1\n2\n"), "id\n3\n".to_owned()], "1,2,3"),
    ] {
        let world = World::new(1).await;
        world.sql("CREATE TABLE t (id int)").await;
        world.produce(values.into_iter().map(Record::new));
        let config = world.config(&format!("table = {{ name = \"t\" }}\ndecode = {{ format = \"{decode}\" }}\n"));
        world.drained(&config);
        assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM t").await, expected, "{decode}");
        assert_eq!(world.reasons().await, [], "{decode}");
    }
    // One line is bad, so the whole record is at fault. All of its lines become one dead letter.
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int)").await;
    world.produce(["{\"id\":1}\n[2]", "{\"id\":1}\n{\"id\":"].map(Record::new));
    let config = world.config("table = { name = \"t\" }\ndecode = { format = \"ndjson\" }\ndead_letters.max_share = 1");
    world.drained(&config);
    let reasons = world.reasons().await;
    assert_eq!((&*reasons[0].0, &*reasons[1].0), ("not_an_object", "invalid_json"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_header_costs_no_record() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int, h jsonb)").await;
    world.produce([Record::new(r#"{"id":1}"#)
        .header("trace", vec![0xff, 0x00, 0x10])
        .header("count", 5_i64.to_be_bytes().to_vec())
        .header("name", "ünï")]);
    world.drained(&world.config("table = { name = \"t\" }\ncolumns.id = \"id\"\ncolumns.h = { meta = \"headers\" }"));
    assert_eq!(
        world.text("SELECT h::text FROM t").await,
        r#"{"name": "ünï", "count": {"base64": "AAAAAAAAAAU="}, "trace": {"base64": "/wAQ"}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_scale_parse_hash_and_have_constants() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE t (temp numeric, raw int, doc jsonb, who text, digest bytea, site text NOT NULL, n int NOT NULL)")
        .await;
    let mut key = tempfile::NamedTempFile::new().expect("a file");
    key.write_all(b"0123456789abcdef0123456789abcdef\n").expect("the key is written");
    world.produce(
        [
            r#"{"temp":653,"doc":"{\"a\":[1]}","who":"Ada"}"#,
            r#"{"temp":-5,"doc":null,"who":"Ada"}"#,
            r#"{"temp":1,"doc":"{","who":null}"#,
        ]
        .map(Record::new),
    );
    let config = world.config(&format!(
        "table = {{ name = \"t\" }}\ndead_letters.max_share = 1\n\
         columns.temp = {{ field = \"temp\", scale = 0.1, offset = -40 }}\ncolumns.raw = \"temp\"\n\
         columns.doc = {{ field = \"doc\", parse = \"json\" }}\n\
         columns.who = {{ field = \"who\", hash = \"sha256\", hash_key_file = \"{0}\" }}\n\
         columns.digest = {{ field = \"who\", hash = \"sha256\", hash_key_file = \"{0}\" }}\n\
         columns.site = {{ value = \"north\" }}\ncolumns.n = {{ value = 7 }}",
        key.path().display()
    ));
    world.drained(&config);
    let rows = "SELECT string_agg(concat_ws('|', temp, raw, doc, site, n), ' ' ORDER BY temp DESC) FROM t";
    assert_eq!(world.text(rows).await, r#"25.3|653|{"a": [1]}|north|7 -40.5|-5|north|7"#);
    let hashed = "SELECT string_agg(DISTINCT who, '') || bool_and(decode(who, 'hex') = digest) FROM t";
    let digest = world.text(hashed).await;
    assert_eq!(digest.len(), 64 + "true".len(), "one person, one digest: {digest}");
    let reasons = world.reasons().await;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert_eq!(reasons[0].0, "invalid_json");
}
