//! `table.name = "telemetry_{region}"`: each row is written once, to the table that it names, even if daemons are killed. If a
//! row of a record can't be written to its table, the record becomes a dead letter.

use tidegate_harness::{Daemon, Record, eventually_async, free_port};

use crate::accounting::with_short_sessions;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

/// Returns the settings of a pipeline's table and columns. With `create`, the daemon creates the tables, so each column has a
/// type. Otherwise the types come from the tables.
fn routed(create: bool, more: &str) -> String {
    let column = |name: &str, sql: &str| {
        let of_type = if create { format!(", type = \"{sql}\"") } else { String::new() };
        format!("columns.{name} = {{ field = \"{name}\"{of_type} }}\n")
    };
    format!(
        "table = {{ name = \"telemetry_{{region}}\", create = {create}{more} }}\ndead_letters.max_share = 1.0\n{}{}",
        column("seq", "int8"),
        column("lat", "float8"),
    )
}

fn reading(n: i32, region: &str) -> Record {
    Record::new(format!(r#"{{"seq":{n},"region":{region},"lat":1.5}}"#)).to(n % 4)
}

impl World {
    async fn letters(&self) -> String {
        self.text("SELECT coalesce(string_agg(DISTINCT reason || ': ' || detail, E'\\n' ORDER BY reason || ': ' || detail), '') FROM tidegate.dead_letter").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_goes_to_the_table_it_names_and_those_that_name_none_say_so() {
    let world = World::new(4).await;
    world
        .sql(
            "CREATE TABLE telemetry_north (seq bigint, lat float8); CREATE TABLE telemetry_south (lat float4, seq int);
             CREATE TABLE \"telemetry_a\"\"b; --\" (seq bigint, lat float8); CREATE VIEW telemetry_view AS SELECT * FROM telemetry_north;
             CREATE TABLE telemetry_narrow (seq bigint)",
        )
        .await;
    let regions = [r#""north""#, r#""south""#, r#""a\"b; --""#];
    world.produce((0..3_000).map(|n| reading(n, regions[n as usize % 3])));
    let long = format!("\"{}\"", "x".repeat(60));
    let lost = [r#""west""#, r#""view""#, r#""narrow""#, "null", "[1]", &long, r#""nul\u0000""#];
    world.produce(lost.iter().zip(3_000..).map(|(region, n)| reading(n, region)));
    world.produce([reading(4_000, r#""south""#), Record::new(r#"{"seq":99999999999,"region":"south","lat":1}"#).to(0)]);
    let config = world.config(&routed(false, ""));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    for (table, n) in [("telemetry_north", 0), ("telemetry_south", 1), ("\"telemetry_a\"\"b; --\"", 2)] {
        let right = format!("SELECT count(*) FROM {table} WHERE seq % 3 = {n} AND lat = 1.5");
        let extra = i64::from(n == 1);
        assert_eq!(world.number(&right).await, 1_000 + extra, "{table}");
        assert_eq!(world.number(&format!("SELECT count(*) FROM {table}")).await, 1_000 + extra, "{table}");
    }
    let letters = world.letters().await;
    for words in [
        "public.telemetry_west, which does not exist",
        "telemetry_view: ",
        "is a view",
        "telemetry_narrow: ",
        "has no column `lat`",
        "missing or null",
        "[1] can't name a table",
        "which is not a name that Postgres accepts",
        "out_of_range: seq 99999999999 is out of range for int4",
    ] {
        assert!(letters.contains(words), "no {words:?} in: {letters}");
    }
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 8);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.route").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_created_when_records_name_them_up_to_max_tables() {
    let world = World::new(4).await;
    world.produce((0..2_000).map(|n| reading(n, &format!("{}", n % 7))));
    let config = with_short_sessions(&world.config(&routed(true, ", max_tables = 5")));
    let port = free_port().expect("a free port");
    let (before, rest) = config.split_once("listen = \"").expect("it listens");
    let other = format!("{before}listen = \"127.0.0.1:{port}\"{}", rest.split_once('"').expect("its end").1);
    // Two daemons run at once, and must agree on the same five tables.
    let daemons: [Daemon; 2] = [world.daemon(&config), world.daemon(&other)];
    world.await_written(&daemons[0]).await;
    assert_eq!(world.number("SELECT count(*) FROM tidegate.route").await, 5);
    assert_eq!(
        world.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'telemetry\\__' AND relkind = 'r'").await,
        5
    );
    let rows = "SELECT coalesce(sum((xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I', table_name), false, true, '')))[1]::text::int8), 0)::int8 FROM tidegate.route";
    let dead = world.number("SELECT count(*) FROM tidegate.dead_letter WHERE detail LIKE '%max_tables%'").await;
    assert_eq!(world.number(rows).await + dead, 2_000);
    assert!((2 * 285..=2 * 286).contains(&dead), "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_a_drain_leaves_each_record_in_its_table_once() {
    let world = World::new(4).await;
    world.produce((0..40_000).map(|n| reading(n, &format!("\"r{}\"", n % 5))));
    let config = with_short_sessions(&world.config(&(routed(true, "") + "\nbatch.max_rows = 700")));
    for kill in 1..=3 {
        let daemon = world.daemon(&config);
        let moved = async || world.ledger().await >= kill * 8_000;
        eventually_async("the ledger moves", PATIENCE, moved).await.expect("it does");
        daemon.kill().expect("the daemon is killed");
    }
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    for region in 0..5 {
        let wrong = format!(
            "SELECT count(*) - 8000 + abs(count(DISTINCT seq) - 8000) + count(*) FILTER (WHERE seq % 5 <> {region}) FROM telemetry_r{region}"
        );
        assert_eq!(world.number(&wrong).await, 0, "region {region}");
    }
    assert_eq!(world.letters().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_postgres_refuses_is_found_among_all_tables() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE telemetry_a (seq bigint, lat float8); CREATE TABLE telemetry_b (seq bigint CHECK (seq % 100 <> 51), lat float8)")
        .await;
    world.produce((0..1_000).map(|n| reading(n, if n % 2 == 0 { "\"a\"" } else { "\"b\"" }).to(0)));
    let (code, log) = world.drain(&world.config(&routed(false, "")));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM telemetry_a").await, 500);
    assert_eq!(world.number("SELECT count(*) FROM telemetry_b").await, 490);
    assert_eq!(
        world
            .number("SELECT count(*) FROM tidegate.dead_letter WHERE sqlstate = '23514' AND record_offset % 100 = 51")
            .await,
        10
    );
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_another_pipeline_feeds_from_the_same_topic_stops_it() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE telemetry_a (seq bigint, lat float8)").await;
    world.produce([reading(0, "\"a\"").to(0)]);
    let (code, log) = world.drain(&world.config("table.name = \"telemetry_a\"").replace(&world.name, "first"));
    assert_eq!(code, Some(0), "{log}");
    let (code, log) = world.drain(&world.config(&routed(false, "")));
    assert_eq!(code, Some(70), "{log}");
    assert!(
        log.contains("pipeline `first` already writes a topic") && log.contains("into `public.telemetry_a`"),
        "{log}"
    );
    assert_eq!(world.number("SELECT count(*) FROM telemetry_a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_each_record_on_its_own_table_and_creates_none() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE telemetry_a (seq bigint, lat float8)").await;
    world.produce((0..90).map(|n| reading(n, ["\"a\"", "\"b\"", "null"][n as usize % 3]).to(0)));
    let made = tidegate(&world.config(&routed(true, "")), &["check"]).ok();
    made.says(&[
        "90 newest records → 60 rows, 30 dead letters",
        "CREATE TABLE IF NOT EXISTS \"public\".\"telemetry_b\"",
        "no_table: 30",
    ]);
    let kept = tidegate(&world.config(&routed(false, "")), &["check"]).ok();
    kept.says(&["90 newest records → 30 rows, 60 dead letters", "telemetry_b, which does not exist"]);
    assert_eq!(world.number("SELECT count(*) FROM pg_class WHERE relname = 'telemetry_b'").await, 0);
    assert_eq!(world.schemas().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_routed_name_can_not_be_joined_with_is_a_fault_of_the_configuration() {
    let world = World::new(1).await;
    for (more, words) in [
        (", mode = \"upsert\", key = [\"seq\"], deletes = true", "deletes"),
        (", evolve = \"add\"", "evolve"),
        (", partition_by = { column = \"seq\", interval = \"1 day\" }", "partition_by"),
    ] {
        tidegate(&world.config(&routed(false, more)), &["check"]).fails(64, &[words, "placeholder"]);
    }
    tidegate(&world.config("table.name = \"telemetry_{region}\""), &["check"]).fails(64, &["columns"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_a_record_goes_to_the_table_it_names_all_or_none() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE telemetry_a (seq bigint, lat float8); CREATE TABLE telemetry_7 (seq bigint, lat float8)")
        .await;
    let row = |seq: i32, region: &str| format!(r#"{{"seq":{seq},"region":{region},"lat":1.5}}"#);
    world.produce(
        [
            // No record has named the second row's table before.
            format!("[{},{}]", row(1, "\"a\""), row(2, "7")),
            format!("[{},{}]", row(3, "7"), row(4, "\"nowhere\"")),
            format!("[{}]", row(5, "\"a\"")),
        ]
        .map(|text| Record::new(text).to(0)),
    );
    let (code, log) = world.drain(&world.config(&routed(false, "")));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM telemetry_a").await, "1,5");
    assert_eq!(world.text("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM telemetry_7").await, "2");
    let letters = world.letters().await;
    assert_eq!(
        letters,
        "no_table: row 2 of the record: the record is for public.telemetry_nowhere, which does not exist"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_csv_names_the_table_too() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE telemetry_a (seq bigint, lat float8); CREATE TABLE \"telemetry_b,c\" (seq bigint, lat float8)").await;
    world.produce(["1,a,1.5", "2,\"b,c\",2.5", "3,,3.5"].map(|text| Record::new(text).to(0)));
    let csv = "\ndecode = { format = \"csv\", columns = [\"seq\", \"region\", \"lat\"] }";
    let (code, log) = world.drain(&world.config(&(routed(false, "") + csv)));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(seq::text, ',') FROM telemetry_a").await, "1");
    assert_eq!(world.text("SELECT string_agg(lat::text, ',') FROM \"telemetry_b,c\"").await, "2.5");
    assert_eq!(world.number("SELECT record_offset FROM tidegate.dead_letter WHERE reason = 'no_table'").await, 2);
}
