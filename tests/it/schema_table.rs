//! `tidegate schema` with a table that exists. The proposal maps fields to the table's columns, and its comments name
//! what the table would refuse.

use tidegate_harness::Record;

use crate::cli::{Ran, tidegate};
use crate::cli_schema::schema;
use crate::support::World;

impl World {
    fn for_table(&self) -> Ran {
        schema(self, &["--table", "t", "--postgres-url", &self.database.url]).ok()
    }
}

/// Adds a free port for HTTP to the proposal, because other daemons run at the same time.
fn runnable(proposal: &str) -> String {
    let port = tidegate_harness::free_port().expect("a free port");
    format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{proposal}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_table_keeps_its_serial_and_its_defaults_and_the_proposal_runs_as_it_is() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (id bigserial PRIMARY KEY, created_at timestamptz DEFAULT now(), vehicle_id int NOT NULL, \
         sent_at timestamptz, lat float8, note varchar(8) DEFAULT 'none', speed int, twice int GENERATED ALWAYS AS (speed * 2) STORED)";
    world.sql(table).await;
    world.produce((0..50).map(|n| {
        let note = if n % 2 == 0 { r#""note":"calm","# } else { "" };
        Record::new(format!(
            r#"{{"vehicleId":{n},{note}"sent_at":17672256000{n:02},"position":{{"lat":52.5,"lon":13.{n}}},"firmware":"1.{n}"}}"#
        ))
    }));
    let proposal = world.for_table().says(&[
        "name = \"t\"\n",
        "vehicle_id = { field = \"vehicleId\" } # integer\n",
        "sent_at = { field = \"sent_at\", unit = \"ms\" } # timestamp with time zone\n",
        "lat = { field = \"position.lat\" } # double precision\n",
        "note = { field = \"note\" } # character varying(8); in 25 of 50\n",
        "#   id (bigint): no field; left to Postgres, which has a default for it\n",
        "#   created_at (timestamp with time zone): no field; left to Postgres, which has a default for it\n",
        "#   speed (integer): no field; NULL in each row\n",
        "#   twice: Postgres computes it\n",
        "#   fields without a column, which are dropped: `position.lon`, `firmware`. To keep them, run ALTER TABLE \"public\".\"t\" ADD COLUMN extra jsonb",
    ]);
    for absent in ["create = true", "kafka_offset", "FAULT", "dead letter"] {
        assert!(!proposal.out.contains(absent), "{absent}: {}", proposal.out);
    }
    let config = runnable(&proposal.out);
    tidegate(&config, &["check"]).ok().says(&[" 0 dead letters", "ready"]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = "SELECT concat_ws('|', count(*), count(DISTINCT id), count(created_at), count(*) FILTER (WHERE note = 'none'), sum(lat)) FROM t";
    assert_eq!(world.text(rows).await, "50|50|50|25|2625");
    // The proposal suggests a column for fields that have none. Once the table has this column, the proposal stores the fields in
    // it.
    world.sql("ALTER TABLE t ADD COLUMN extra jsonb").await;
    let kept = world.for_table().says(&[
        "unknown_fields = { column = \"extra\" }",
        "#   fields without a column of their own, which are kept in `extra`: ",
    ]);
    assert!(!kept.out.contains("are dropped"), "{kept}");
    tidegate(&runnable(&kept.out), &["check"]).ok().says(&["\"firmware\": \"1.", "ready"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named_with_its_remedy() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, tenant text NOT NULL, level int, at timestamptz, seen timestamp, code int2);
             CREATE INDEX ON t (level)",
        )
        .await;
    world.produce([
        Record::new(r#"{"id":1,"level":"12","at":"2026-01-31T12:00:00","seen":"2026-01-31T12:00:00+02:00","code":1}"#),
        Record::new(r#"{"id":2,"level":"high","at":"2026-01-31T12:00:00","seen":"2026-01-31T12:00:00","code":70000}"#),
        Record::new(r#"{"level":3,"at":"2026-01-31T12:00:00","seen":"2026-01-31T12:00:00"}"#),
    ]);
    world.for_table().says(&[
        "id = { field = \"id\" } # integer; in 2 of 3\n",
        "at = { field = \"at\", zone = \"UTC\" }",
        "#   FAULT: pipelines.",
        "column `tenant` (text) is NOT NULL without a default; map a field or a constant (`value`) to it, or give it a default",
        "#   id: NOT NULL without a default; records that lack the field become dead letters\n",
        "#   (\"id\") is unique: a record whose key is in the table already becomes a dead letter; mode = \"insert_new\" skips it",
    ]);
    world.sql("ALTER TABLE t ALTER COLUMN tenant SET DEFAULT 'none'").await;
    let topic = &world.topic;
    let proposal = world.for_table().says(&[
        &format!("#   1 record of the sample becomes a dead letter: {topic}/0@2: id is missing, and the column is NOT NULL\n"),
        &format!("#   1 record of the sample becomes a dead letter: {topic}/0@1: level \"high\" is not int4\n"),
        &format!("{topic}/0@0: seen \"2026-01-31T12:00:00+02:00\" is not timestamp; it takes a time without an offset or with Z\n"),
    ]);
    // The proposal is a valid configuration in spite of these dead letters.
    let (code, log) = world.drain(&runnable(&proposal.out));
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_that_of_the_pipeline_which_reads_the_topic() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE \"My rides\" (id int, v int)").await;
    world.produce([Record::new(r#"{"id":1,"V":2}"#)]);
    let config = world.config("table.name = \"\\\"My rides\\\"\"");
    let report = tidegate(&config, &["schema", "--topic", &world.topic, "--json"]).ok().json();
    assert_eq!((&report["table_exists"], &report["ddl"]), (&true.into(), &serde_json::Value::Null), "{report}");
    assert_eq!((&report["table"], &report["columns"][1]["field"]), (&"\"public\".\"My rides\"".into(), &"V".into()));
    let new = tidegate(&config, &["schema", "--topic", &world.topic, "--table", "other", "--json"]).ok().json();
    assert_eq!((&new["table_exists"], &new["faults"]), (&false.into(), &serde_json::json!([])), "{new}");
    let text = tidegate(&config, &["schema", "--topic", &world.topic, "--table", "other"]).ok();
    text.says(&["# The database has no table other.\n# create = true runs this at the first start:"]);
    // If the database can't be reached, the proposal is for a new table. It notes that the table may exist.
    let away = config.replace(&world.database.url, "postgres://nobody@127.0.0.1:1/nothing");
    let away = tidegate(&away, &["schema", "--topic", &world.topic]).ok();
    away.says(&["# Whether the table exists isn't known: can't reach Postgres", "create = true"]);
    world.sql("CREATE TABLE t (x int)").await;
    let other = ["--table", "t", "--postgres-url", &world.database.url];
    schema(&world, &other).fails(64, &["no field of topic", "the records have id, V, the table has x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proposal_leaves_out_the_secrets_that_the_command_was_given() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (a int)").await;
    world.produce([Record::new(r#"{"a":1}"#)]);
    let (scheme, rest) = world.database.url.split_once("://").expect("a URL");
    let (user, rest) = rest.split_once('@').expect("a user");
    let url = format!("{scheme}://{}:canary-of-postgres@{rest}", user.split(':').next().unwrap_or(user));
    let options = ["--table", "t", "--postgres-url", &url, "--property", "ssl.key.password=canary-of-a-key"];
    let ran = schema(&world, &options).ok().says(&[
        "# The password is left out, because it is secret. Write it to a file",
        "# \"ssl.key.password\" is left out, because it may be secret.",
        "a = { field = \"a\" }",
    ]);
    assert!(!ran.to_string().contains("canary"), "{ran}");
    tidegate(&runnable(&ran.out), &["check"]).ok().says(&["ready"]);
}
