//! Records of every format become the rows that they describe. An array and several lines become several rows. If one row of a
//! record is at fault, none of the record's rows is written.

use std::path::Path;

use apache_avro::types::{Record as AvroRecord, Value as Avro};
use apache_avro::{Decimal, Schema, to_avro_datum};
use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

impl World {
    pub(crate) fn drain_values(&self, config: &str, values: impl IntoIterator<Item = Vec<u8>>) {
        self.produce(values.into_iter().map(|value| Record::new(value).to(0)));
        let (code, log) = self.drain(config);
        assert_eq!(code, Some(0), "{log}");
    }

    /// Returns the rows of a query as a JSON array, without line breaks.
    pub(crate) async fn rows(&self, query: &str) -> String {
        self.text(&format!("SELECT coalesce(json_agg(r), '[]')::text FROM ({query}) r")).await.replace("\n ", "")
    }

    /// Returns the reason and the detail of each dead letter, sorted by partition and offset.
    pub(crate) async fn reasons(&self) -> Vec<(String, String)> {
        let sql = "SELECT reason, detail FROM tidegate.dead_letter ORDER BY partition, record_offset";
        sqlx::query_as(sql).fetch_all(&mut self.connect().await).await.expect("the query runs")
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("the file is written");
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrays_objects_are_rows_and_one_bad_element_makes_its_whole_record_a_dead_letter() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq int NOT NULL, name text, at bigint)").await;
    let config = world.config(&format!(
        "table.name = \"rides\"\nwhere = {{ field = \"seq\", not_equals = 9 }}\ndead_letters.max_share = 1.0\n\
         [pipelines.{}.columns]\nseq = \"seq\"\nname = \"name\"\nat = {{ meta = \"offset\" }}",
        world.name
    ));
    let values = [
        r#"[{"seq":1,"name":"a"},{"name":"b","seq":2}]"#,
        "[]",
        r#"[{"seq":3},{"seq":"x"},{"seq":4}]"#,
        r#"{"seq":5}"#,
        r#" [ {"seq":6} , {"seq":9} ] "#,
        r#"[{"seq":9}]"#,
        r#"[{"seq":7},8]"#,
        r#"[{"seq":7},]"#,
        r#"[{"seq":7}"#,
    ];
    world.drain_values(&config, values.map(|value| value.as_bytes().to_vec()));
    let rows = world.rows("SELECT * FROM rides ORDER BY seq").await;
    let expected = r#"[{"seq":1,"name":"a","at":0},{"seq":2,"name":"b","at":0},{"seq":5,"name":null,"at":3},{"seq":6,"name":null,"at":4}]"#;
    assert_eq!(rows.replace(", {", ",{"), expected);
    let reasons = world.reasons().await;
    assert_eq!(
        reasons.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(),
        ["type_mismatch", "not_an_object", "invalid_json", "invalid_json"]
    );
    assert_eq!(reasons[0].1, "row 2 of the record: seq \"x\" is not int4");
    assert_eq!(world.ledger().await, 9, "the position moved past all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_of_an_array_that_postgres_refuses_takes_all_rows_of_its_record_along() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq int CHECK (seq < 100))").await;
    let config = world.config("table.name = \"rides\"\ndead_letters.max_share = 1.0");
    let values = [r#"[{"seq":1},{"seq":2}]"#, r#"[{"seq":3},{"seq":100},{"seq":4}]"#, r#"[{"seq":5},{"seq":6}]"#];
    world.drain_values(&config, values.map(|value| value.as_bytes().to_vec()));
    assert_eq!(world.text("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM rides").await, "1,2,5,6");
    assert_eq!(world.reasons().await.len(), 1);
    assert_eq!(world.ledger().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrapped_records_have_the_types_that_their_schema_says() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE rides (seq int, day date, clock time, at timestamptz, price numeric(10,2), raw bytea)")
        .await;
    let config = world.config("table.name = \"rides\"\ndecode = { format = \"json\", envelope = \"connect\" }");
    let named = |field: &str, kind: &str, name: &str| {
        format!(
            r#"{{"field":"{field}","type":"{kind}","name":"org.apache.kafka.connect.data.{name}","parameters":{{"scale":"2"}}}}"#
        )
    };
    let fields = [
        r#"{"field":"seq","type":"int32"}"#.to_owned(),
        named("day", "int32", "Date"),
        named("clock", "int32", "Time"),
        named("at", "int64", "Timestamp"),
        named("price", "bytes", "Decimal"),
        r#"{"field":"raw","type":"bytes"}"#.to_owned(),
    ];
    let schema = format!(r#"{{"type":"struct","fields":[{}]}}"#, fields.join(","));
    let payload = r#"{"seq":1,"day":20484,"clock":43200500,"at":1769860800123,"price":"z8c=","raw":"aGk="}"#;
    let values =
        [format!(r#"{{"schema":{schema},"payload":{payload}}}"#), r#"{"schema":null,"payload":{"seq":2}}"#.to_owned()];
    world.drain_values(&config, values.map(String::into_bytes));
    let row =
        world.text("SELECT concat_ws('|', day, clock, at AT TIME ZONE 'UTC', price, raw) FROM rides WHERE seq = 1");
    assert_eq!(row.await, "2026-01-31|12:00:00.5|2026-01-31 12:00:00.123|-123.45|\\x6869");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_values_go_into_columns_as_these_read_them() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (body bytea, words text, doc jsonb)").await;
    let columns = format!(
        "table.name = \"rides\"\ndecode.format = \"raw\"\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\n\
         body = \"value\"\nwords = \"value\"\ndoc = \"value\"",
        world.name
    );
    let values: [&[u8]; 4] = [b"{\"a\": 1}", b"no json", b"\xff", b"\"x\\u0041\""];
    world.drain_values(&world.config(&columns), values.map(<[u8]>::to_vec));
    let rows = world.text("SELECT string_agg(concat_ws('|', convert_from(body, 'UTF8'), words, doc), ';') FROM rides");
    assert_eq!(rows.await, "{\"a\": 1}|{\"a\": 1}|{\"a\": 1};\"x\\u0041\"|\"x\\u0041\"|\"xA\"");
    let reasons: Vec<String> = world.reasons().await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["invalid_json", "invalid_utf8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_csv_are_rows_by_their_header_and_read_as_postgres_reads_text() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int, name text, price numeric, ok bool, at timestamptz, tags jsonb)").await;
    let config = world
        .config("table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode = { format = \"csv\", delimiter = \";\", null = \"NULL\" }");
    let values = [
        "id;name;price;ok;at;tags\n007;\"a;\"\"b\"\"\";+1.50;t;2026-01-31T12:00:00Z;\"{\"\"k\"\":[1]}\"\r\n2;NULL;NULL;no;NULL;NULL\n",
        "name;id\n\"NULL\";3",
        "id;name\n4;x\nfive;y\n",
        "id;name\n6",
        "id;ok\n8;1\n9;0\n",
    ];
    world.drain_values(&config, values.map(|value| value.as_bytes().to_vec()));
    let rows = world.text(
        "SELECT string_agg(concat_ws('|', id, coalesce(name, '-'), price, ok, at AT TIME ZONE 'UTC', tags), ' / ' ORDER BY id) FROM rides",
    );
    assert_eq!(rows.await, "2|-|f / 3|NULL / 7|a;\"b\"|1.50|t|2026-01-31 12:00:00|{\"k\": [1]} / 8|-|t / 9|-|f");
    let reasons = world.reasons().await;
    assert_eq!(reasons[0], ("type_mismatch".to_owned(), "row 2 of the record: id \"five\" is not int4".to_owned()));
    assert_eq!(reasons[1].0, "invalid_format");
}

pub(crate) const AVRO: &str = r#"{"type":"record","name":"Ride","fields":[
    {"name":"id","type":"long"},
    {"name":"name","type":["null","string"]},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"code","type":{"type":"string","logicalType":"uuid"}},
    {"name":"position","type":{"type":"record","name":"Position","fields":[
        {"name":"lat","type":"double"},{"name":"lon","type":"float"}]}},
    {"name":"tags","type":{"type":"map","values":"string"}},
    {"name":"readings","type":{"type":"array","items":"int"}}]}"#;

pub(crate) fn avro_ride(id: i64) -> Vec<u8> {
    let schema = Schema::parse_str(AVRO).expect("a schema");
    let mut record = AvroRecord::new(&schema).expect("a record");
    record.put("id", id);
    record.put("name", Avro::Union(1, Box::new(Avro::String(format!("vehicle {id}")))));
    record.put("price", Avro::Decimal(Decimal::from(12_345_i32.to_be_bytes())));
    record.put("at", Avro::TimestampMicros(1_769_860_800_123_456));
    record.put("code", Avro::Uuid("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".parse().expect("a UUID")));
    let position = vec![("lat".to_owned(), Avro::Double(52.5)), ("lon".to_owned(), Avro::Float(13.25))];
    record.put("position", Avro::Record(position));
    record.put("tags", Avro::Map([("k".to_owned(), Avro::String("v".to_owned()))].into()));
    record.put("readings", Avro::Array(vec![Avro::Int(1), Avro::Int(-2)]));
    to_avro_datum(&schema, record).expect("bytes")
}

pub(crate) const RIDES: &str = "CREATE TABLE rides (id bigint NOT NULL, name text, price numeric(10,2), at timestamptz,
    code uuid, lat float8, position jsonb, tags jsonb, readings int[])";

pub(crate) const RIDES_COLUMNS: &str = "id = \"id\"\nname = \"name\"\nprice = \"price\"\nat = \"at\"\ncode = \"code\"\n\
    lat = \"position.lat\"\nposition = \"position\"\ntags = \"tags\"\nreadings = \"readings\"\n";

pub(crate) const RIDE: &str = "vehicle 1|123.45|2026-01-31 12:00:00.123456|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|52.5|\
    {\"lat\": 52.5, \"lon\": 13.25}|{\"k\": \"v\"}|{1,-2}";

pub(crate) const SHOWN: &str =
    "SELECT concat_ws('|', name, price, at AT TIME ZONE 'UTC', code, lat, position, tags, readings)
    FROM rides WHERE id = 1";

#[tokio::test(flavor = "multi_thread")]
async fn avro_by_a_local_schema_fills_columns_of_every_kind_and_check_knows_its_fields() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "ride.avsc", AVRO);
    let pipeline = format!(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode = {{ format = \"avro\", schema_file = {file:?} }}\n\
         [pipelines.{}.columns]\n{RIDES_COLUMNS}",
        world.name
    );
    let config = world.config(&pipeline);
    let cut = avro_ride(2)[..20].to_vec();
    let values = [avro_ride(1), cut, b"{}".to_vec(), avro_ride(3)];
    world.produce(values.into_iter().map(|value| Record::new(value).to(0)));
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["rows"], 2, "{report}");
    for (wrong, said) in [
        ("where.lat", "`where.lat`: record `Ride` has no field `where` (there are id, name, price, at"),
        ("position.latt", "`position.latt`: record `Position` has no field `latt`; did you mean `lat`?"),
        ("tags.k.v", "field `k` of record `Ride` has no fields of its own"),
        ("readings.first", "field `readings` of record `Ride` is a list; with `decode.rows` its elements become rows"),
    ] {
        let wrong = config.replace("\"position.lat\"", &format!("\"{wrong}\""));
        tidegate(&wrong, &["check"]).fails(64, &[said]);
    }
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text(SHOWN).await, RIDE);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 2);
    let reasons = world.reasons().await;
    assert!(reasons.iter().all(|(reason, _)| reason == "invalid_format"), "{reasons:?}");
    assert_eq!(reasons.len(), 2);
}

pub(crate) const PROTO: &str = r#"syntax = "proto3";
package rides;
import "google/protobuf/timestamp.proto";
message Ride {
  int64 id = 1;
  string name = 2;
  google.protobuf.Timestamp at = 3;
  Position position = 4;
  map<string, string> tags = 5;
  repeated int32 readings = 6;
  State state = 7;
  optional double speed = 8;
}
message Position { double lat = 1; float lon = 2; }
enum State { UNKNOWN = 0; DRIVING = 1; }
"#;

/// Encodes ride `id` in Protobuf, by hand. The ride's time is noon, and its position is in Berlin.
pub(crate) fn proto_ride(id: u8) -> Vec<u8> {
    let mut value = vec![8, id, 0x12, 9];
    value.extend_from_slice(format!("vehicle {id}").as_bytes());
    value.extend_from_slice(&[0x1a, 6, 8, 0xc0, 0xdd, 0xf7, 0xcb, 6]);
    value.extend_from_slice(&[0x22, 14, 9]);
    value.extend_from_slice(&52.5_f64.to_le_bytes());
    value.push(0x15);
    value.extend_from_slice(&13.25_f32.to_le_bytes());
    value.extend_from_slice(&[0x2a, 6, 0x0a, 1, b'k', 0x12, 1, b'v', 0x32, 2, 1, 2, 0x38, 1]);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_by_a_local_file_fills_columns_and_defaults_are_values() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE rides (id bigint, name text, at timestamptz, lat float8, tags jsonb, readings int[], state text, speed float8)")
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "ride.proto", PROTO);
    let decode = format!("{{ format = \"protobuf\", schema_file = {file:?}, message = \"rides.Ride\" }}");
    let columns = "id = \"id\"\nname = \"name\"\nat = \"at\"\nlat = \"position.lat\"\ntags = \"tags\"\n\
        readings = \"readings\"\nstate = \"state\"\nspeed = \"speed\"";
    let pipeline = format!(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode = {decode}\n[pipelines.{}.columns]\n{columns}",
        world.name
    );
    let config = world.config(&pipeline);
    let values = [proto_ride(1), Vec::new(), b"{\"id\":1}".to_vec()];
    world.produce(values.into_iter().map(|value| Record::new(value).to(0)));
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["rows"], 2, "{report}");
    for (wrong, said) in [
        ("place.lat", "`place.lat`: message `rides.Ride` has no field `place` (there are id, name, at"),
        ("position.latt", "`position.latt`: message `rides.Position` has no field `latt`; did you mean `lat`?"),
        ("at.seconds", "field `at` of message `rides.Ride` has no fields of its own"),
        ("tags.k.v", "field `k` of message `rides.Ride` has no fields of its own"),
    ] {
        let wrong = config.replace("\"position.lat\"", &format!("\"{wrong}\""));
        tidegate(&wrong, &["check"]).fails(64, &[said]);
        // `run` stops before it writes a row.
        let daemon = world.daemon(&wrong);
        daemon.await_log(said, PATIENCE).expect("it says why it doesn't start");
        drop(daemon);
    }
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 0);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let row = |id: i32| {
        format!(
            "SELECT concat_ws('|', name, at AT TIME ZONE 'UTC', lat, tags, readings, state, speed) FROM rides WHERE id = {id}"
        )
    };
    assert_eq!(world.text(&row(1)).await, "vehicle 1|2026-01-31 12:00:00|52.5|{\"k\": \"v\"}|{1,2}|DRIVING");
    assert_eq!(world.text(&row(0)).await, "|{}|{}|UNKNOWN", "an empty message is one of defaults");
    assert_eq!(world.reasons().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_formats_are_named_with_their_place_and_remedy() {
    let world = World::new(1).await;
    let fault = |decode: &str, says: &[&str]| {
        let config = world.config(&format!("table.name = \"rides\"\ndecode = {decode}"));
        tidegate(&config, &["check"]).fails(64, says);
    };
    fault("{ format = \"avor\" }", &["tidegate.toml:", "decode.format", "did you mean \"avro\"?"]);
    fault("{ format = \"avro\" }", &["decode.format", "schema_registry", "schema_file"]);
    fault("{ format = \"json\", delimiter = \";\" }", &["decode.delimiter", "belongs to format \"csv\""]);
    fault("{ format = \"csv\", delimiter = \"ab\" }", &["decode.delimiter", "one ASCII character"]);
    fault("{ format = \"avro\", schema_file = \"none.avsc\" }", &["decode.schema_file", "none.avsc"]);
}
