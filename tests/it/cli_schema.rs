//! `tidegate schema`: proposes the first configuration.

use std::process::Command;

use tidegate_harness::Record;

use crate::cli::{Ran, tidegate};
use crate::support::{World, program};

pub(crate) fn schema(world: &World, arguments: &[&str]) -> Ran {
    let run = Command::new(program())
        .args(["schema", "--topic", &world.topic, "--bootstrap-servers", world.kafka.bootstrap_servers()])
        .args(arguments)
        .output()
        .expect("tidegate runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: run.status.code().expect("an exit code"), out: text(run.stdout), err: text(run.stderr) }
}

fn reading(n: i32) -> Record {
    let note = if n % 2 == 0 { r#""note":"calm","# } else { "" };
    Record::new(format!(
        r#"{{"vehicle_id":{n},{note}"sent_at":17672256{:05},"position":{{"lat":52.5,"lon":{n}.25}},"tags":["a","b"],
            "trip":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","state.of \"mind\"":true,"odd":{{"deep":{{"x":{n}}}}}}}"#,
        n
    ))
    .to(n % 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proposal_is_a_configuration_that_check_accepts_and_run_drains_by() {
    let world = World::new(2).await;
    world.produce((0..200).map(reading));
    let proposal = schema(&world, &["--table", "public.rides"]).ok();
    let proposal = proposal.says(&[
        "vehicle_id = { field = \"vehicle_id\", type = \"int8\" }",
        "note = { field = \"note\", type = \"text\" } # in 100 of 200",
        "sent_at = { field = \"sent_at\", type = \"timestamptz\", unit = \"ms\" }",
        "position_lat = { field = \"position.lat\", type = \"float8\" }",
        "tags = { field = \"tags\", type = \"text[]\" }",
        "trip = { field = \"trip\", type = \"uuid\" }",
        r#""state.of \"mind\"" = { field = "state\\.of \"mind\"", type = "bool" }"#,
        "odd = { field = \"odd\", type = \"jsonb\" }",
    ]);
    assert!(!proposal.out.contains("\n\n\n"), "one empty line between tables: {}", proposal.out);
    let config = proposal.out.replace("postgres://tidegate@127.0.0.1:5432/telemetry", &world.database.url);
    let port = tidegate_harness::free_port().expect("a free port");
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{config}");
    tidegate(&config, &["check"]).ok().says(&["200 newest records → 200 rows, 0 dead letters", "ready"]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(
        world.text("SELECT concat_ws('|', vehicle_id, note, sent_at AT TIME ZONE 'UTC', position_lon, tags, \"state.of \"\"mind\"\"\", odd, extra) FROM rides WHERE vehicle_id = 42").await,
        "42|calm|2026-01-01 00:00:00.042|42.25|{a,b}|t|{\"deep\": {\"x\": 42}}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_for_programs_has_the_counts_the_statement_and_the_configuration() {
    let world = World::new(1).await;
    world.produce([
        Record::new(r#"{"id":1}"#),
        Record::new("[1]"),
        Record::new(r#"{"id":2,"late":null}"#),
        Record::tombstone(),
    ]);
    // The command reads the brokers from the existing configuration of another pipeline.
    let config = world.config("table.name = \"rides\"");
    let report = tidegate(&config, &["schema", "--topic", &world.topic, "--json"]).ok().json();
    assert_eq!(
        (&report["records"], &report["tombstones"], &report["not_json_objects"]),
        (&4.into(), &1.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["columns"][0]["type"], "int8", "{report}");
    assert_eq!(
        report["columns"].as_array().map(Vec::len),
        Some(1),
        "a field that was only ever null has no type: {report}"
    );
    assert!(report["ddl"].as_str().is_some_and(|ddl| ddl.contains("\"id\" int8")), "{report}");
    assert!(
        report["toml"].as_str().is_some_and(|toml| toml.contains("create = true") && !toml.contains("[kafka]")),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_and_a_topic_without_json_are_reported() {
    let world = World::new(1).await;
    world.produce([Record::new("1,2,3")]);
    schema(&world, &[]).fails(64, &["none is a JSON object"]);
    let topic = world.topic.clone();
    let run = tidegate(&world.config("table.name = \"rides\""), &["schema", "--topic", &format!("{topic}x")]);
    run.fails(64, &["does not exist"]);
}

impl World {
    /// Runs `schema` with `arguments`, and then `check` and `run` with the proposed configuration. The test changes only the
    /// database and the port for HTTP in it. Checks that the proposal contains the `expected` lines, that no record becomes a
    /// dead letter, and that every field has a column. Returns the output of `check`.
    pub(crate) async fn by_its_proposal(&self, arguments: &[&str], expected: &[&str]) -> Ran {
        let proposal = schema(self, &[&["--table", "public.t"], arguments].concat()).ok();
        let proposal = proposal.says(expected);
        let config = proposal.out.replace("postgres://tidegate@127.0.0.1:5432/telemetry", &self.database.url);
        let port = tidegate_harness::free_port().expect("a free port");
        let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{config}");
        let check = tidegate(&config, &["check"]).ok().says(&[" 0 dead letters", "ready"]);
        let (code, log) = self.drain(&config);
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(self.reasons().await, [], "{config}");
        assert_eq!(self.number("SELECT count(*) FROM t WHERE extra IS NOT NULL").await, 0, "{config}");
        check
    }

    /// Returns the columns of `t` and their types, without `extra` and the columns for Kafka's metadata.
    pub(crate) async fn columns(&self) -> String {
        let sql = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = 't'::regclass AND attnum > 0 AND attname NOT IN ('extra', 'kafka_partition', 'kafka_offset', 'kafka_row')";
        let long = self.text(sql).await;
        [
            (" with time zone", "tz"),
            ("double precision", "float8"),
            ("bigint", "int8"),
            ("integer", "int4"),
            ("smallint", "int2"),
            ("boolean", "bool"),
            (" without time zone", ""),
        ]
        .iter()
        .fold(long, |text, (long, short)| text.replace(long, short))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_get_their_table_and_their_key() {
    let world = World::new(1).await;
    let key_schema = r#"{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false}"#;
    let row_schema = r#"[{"type":"int32","optional":false,"field":"id"},
        {"type":"string","optional":true,"field":"name"},
        {"type":"int32","optional":true,"name":"io.debezium.time.Date","version":1,"field":"born"},
        {"type":"int64","optional":true,"name":"io.debezium.time.MicroTimestamp","version":1,"field":"seen"},
        {"type":"struct","optional":true,"name":"io.debezium.data.VariableScaleDecimal","version":1,"field":"credit",
         "fields":[{"type":"int32","optional":false,"field":"scale"},{"type":"bytes","optional":false,"field":"value"}]}]"#;
    let schema = format!(
        r#"{{"type":"struct","fields":[{{"type":"struct","fields":{row_schema},"optional":true,"field":"before"}},
            {{"type":"struct","fields":{row_schema},"optional":true,"field":"after"}},{{"type":"string","field":"op"}}]}}"#
    );
    let key = |id: i32| format!(r#"{{"schema":{key_schema},"payload":{{"id":{id}}}}}"#);
    let change = |id: i32, before: &str, after: &str, op: &str| {
        let value = format!(
            r#"{{"schema":{schema},"payload":{{"before":{before},"after":{after},"source":{{"lsn":1}},"op":"{op}","ts_ms":1}}}}"#
        );
        Record::new(value).key(key(id))
    };
    let row = |id: i32| {
        format!(
            r#"{{"id":{id},"name":"Ada","born":-56271,"seen":1769860800123456,"credit":{{"scale":2,"value":"z8c="}}}}"#
        )
    };
    world.produce([
        change(1, "null", &row(1), "r"),
        change(2, "null", &row(2), "c"),
        change(2, &row(2), "null", "d"),
        Record::tombstone().key(key(2)),
    ]);
    world
        .by_its_proposal(&[], &["envelope = \"debezium\"", "mode = \"upsert\"", "key = [\"id\"]", "type = \"date\""])
        .await;
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', id, name, born, seen, credit), ' ') FROM t").await,
        "1|Ada|1815-12-09|2026-01-31 12:00:00.123456|-123.45"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_readings_and_lines_get_a_row_each() {
    let world = World::new(1).await;
    world.produce(
        [
            r#"{"gateway":"g1","battery":81,"readings":[{"sensor":1,"celsius":21.5},{"sensor":2,"celsius":19.0}]}"#,
            r#"{"gateway":"g2","battery":80,"readings":[{"sensor":1,"celsius":20.5}]}"#,
        ]
        .map(Record::new),
    );
    world
        .by_its_proposal(&[], &["rows = \"readings\"", "celsius = { field = \"readings.celsius\", type = \"float8\" }"])
        .await;
    assert_eq!(
        world.text("SELECT string_agg(concat_ws(':', gateway, kafka_row, sensor, celsius), ' ' ORDER BY gateway, kafka_row) FROM t").await,
        "g1:1:1:21.5 g1:2:2:19 g2:1:1:20.5"
    );
    let world = World::new(1).await;
    let line = |n: i32| format!(r#"{{"date":1769860800.{n:03},"log":"line {n}","stream":"stdout"}}"#);
    world.produce([
        Record::new(format!("{}\n{}\n", line(1), line(2))),
        Record::new(format!("{}\n{}\n", line(3), line(4))),
    ]);
    world.by_its_proposal(&[], &["format = \"ndjson\"", "log = { field = \"log\", type = \"text\" }"]).await;
    assert_eq!(world.columns().await, "date timestamptz, log text, stream text");
    assert_eq!(
        world.text("SELECT string_agg(extract(epoch from date) || log || kafka_row, ',' ORDER BY log) FROM t").await,
        "1769860800.001000line 11,1769860800.002000line 22,1769860800.003000line 31,1769860800.004000line 42"
    );
}
