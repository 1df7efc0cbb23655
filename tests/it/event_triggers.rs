//! While a pipeline runs, event triggers are created that refuse the pipeline's DDL. Such a refusal isn't the fault of a record.

use tidegate_harness::{Daemon, Record};

use crate::support::{PATIENCE, World};

fn refusing(tag: &str) -> String {
    format!(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'ask the owners first'; END$$;
         CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN ('{tag}') EXECUTE FUNCTION refuse()"
    )
}

/// Waits until the pipeline has stopped because of the event trigger. Checks that there is no dead letter.
async fn stops(world: &World, daemon: &Daemon) {
    let status = daemon.wait_exit(PATIENCE).unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log_tail()));
    let log = daemon.log().join("\n");
    assert_eq!(status.code(), Some(70), "{log}");
    assert!(log.contains("ask the owners first"), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0, "{log}");
}

async fn rows(world: &World, daemon: &Daemon, count: i64) {
    let written =
        |daemon: &Daemon| daemon.metric("tidegate_rows_written_total", &[]).is_some_and(|rows| rows >= count as f64);
    daemon.await_until("the rows are written", PATIENCE, written).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(world.number("SELECT count(*) FROM history").await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_refused_stops_the_pipeline_and_dead_letters_nothing() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE history (id int8, ts timestamptz NOT NULL) PARTITION BY RANGE (ts)").await;
    let config = world.config(
        "table = { name = \"history\", partition_by = { column = \"ts\", interval = \"1 day\" } }\ndead_letters.max_share = 1",
    );
    let daemon = world.daemon(&config);
    let today = world.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").await;
    let earlier = world
        .text("SELECT to_char((now() AT TIME ZONE 'UTC') - interval '30 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
        .await;
    world.produce([Record::new(format!(r#"{{"id":1,"ts":"{today}"}}"#))]);
    rows(&world, &daemon, 1).await;
    world.sql(&refusing("CREATE TABLE")).await;
    world.produce([Record::new(format!(r#"{{"id":2,"ts":"{earlier}"}}"#))]);
    stops(&world, &daemon).await;
    assert!(daemon.log().iter().any(|line| line.contains("table.partition_by")), "{}", daemon.log_tail());
    // Nothing is lost: without the event trigger, the next start writes the row.
    world.sql("DROP EVENT TRIGGER no_ddl").await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM history").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_table_that_is_refused_stops_the_pipeline_and_dead_letters_nothing() {
    let world = World::new(1).await;
    world
        .sql("CREATE TABLE history (id int8 PRIMARY KEY, n int8); CREATE TABLE later (LIKE history INCLUDING ALL)")
        .await;
    // The staging table of each routed table is created at its first row, within the transaction that copies the row.
    let config = world.config(
        "table = { name = \"{to}\", mode = \"upsert\", key = [\"id\"] }\ncolumns = { id = \"id\", n = \"n\" }\ndead_letters.max_share = 1",
    );
    let daemon = world.daemon(&config);
    world.produce([Record::new(r#"{"id":1,"n":1,"to":"history"}"#)]);
    rows(&world, &daemon, 1).await;
    world.sql(&refusing("CREATE TABLE AS")).await;
    world.produce([Record::new(r#"{"id":2,"n":2,"to":"later"}"#)]);
    stops(&world, &daemon).await;
    world.sql("DROP EVENT TRIGGER no_ddl").await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM later").await, 1);
}
