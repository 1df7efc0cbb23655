//! `tidegate schema`: the first configuration writes itself.

use std::process::Command;

use tidegate_harness::Record;

use crate::cli::{Ran, tidegate};
use crate::support::World;

/// Runs `tidegate schema` without a configuration.
fn schema(world: &World, arguments: &[&str]) -> Ran {
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
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
    // From a configuration that is there, of another pipeline.
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
async fn a_topic_that_is_missing_or_holds_no_json_is_told_as_such() {
    let world = World::new(1).await;
    world.produce([Record::new("1,2,3")]);
    schema(&world, &[]).fails(64, &["none is a JSON object"]);
    let topic = world.topic.clone();
    let run = tidegate(&world.config("table.name = \"rides\""), &["schema", "--topic", &format!("{topic}x")]);
    run.fails(64, &["does not exist"]);
}
