//! The table changes while records flow, and the catalog is read again. If the mapping no longer matches the table, the pipeline
//! stops and names the reason.

use tidegate_harness::{Daemon, Record, eventually_async};

use crate::accounting::{NUMBERED, await_metric, with_short_sessions};
use crate::cli::tidegate;
use crate::group::{Intruder, await_shares};
use crate::support::{PATIENCE, World};

/// A pipeline without `columns`: a field goes to the column with its name. The rate limit leaves time for a change of the table.
const AUTOMATIC: &str = "table.name = \"rides\"\nbatch.max_rows = 2000\nflow.max_rows_per_second = 20_000";
const RECORDS: i32 = 40_000;

fn flowing(world: &World, config: &str) -> Daemon {
    world.produce_numbered(0..RECORDS, 2);
    let daemon = world.daemon(config);
    await_metric(&daemon, "tidegate_rows_written_total", 4_000.0);
    daemon
}

async fn still_exact(world: &World, daemon: &Daemon) {
    assert!(world.ledger().await < i64::from(RECORDS), "the change came in the middle");
    world.await_written(daemon).await;
    world.assert_exact(RECORDS.into()).await;
}

async fn stops_named(world: &World, daemon: &Daemon, words: &[&str]) {
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    let log = daemon.log().join("\n");
    assert_eq!(status.code(), Some(70), "{log}");
    for word in words {
        assert!(log.contains(word), "no `{word}` in: {log}");
    }
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0, "no record is at fault");
    assert!(world.ledger().await < i64::from(RECORDS), "nothing was moved past");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_added_retyped_and_dropped_under_load_are_replanned() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE rides (seq int, name text, spare text)").await;
    let daemon = flowing(&world, &world.config(AUTOMATIC));
    world.sql("ALTER TABLE rides ADD COLUMN note text DEFAULT 'none'").await;
    world.await_next_commit(&daemon, PATIENCE).await;
    world.sql("ALTER TABLE rides ALTER COLUMN seq TYPE bigint").await;
    world.await_next_commit(&daemon, PATIENCE).await;
    world.sql("ALTER TABLE rides DROP COLUMN spare").await;
    still_exact(&world, &daemon).await;
    assert_eq!(daemon.exit_status(), None, "it never stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_column_that_is_dropped_stops_the_pipeline_by_name() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE rides (seq bigint, name text)").await;
    let columns = format!("{AUTOMATIC}\n[pipelines.{}.columns]\nseq = \"seq\"\nname = \"name\"", world.name);
    let daemon = flowing(&world, &world.config(&columns));
    world.sql("ALTER TABLE rides DROP COLUMN name").await;
    stops_named(&world, &daemon, &["columns.name", "has no column `name`"]).await;
    // After a repair, the pipeline continues.
    world.sql("ALTER TABLE rides ADD COLUMN name text").await;
    let (code, log) = world.drain(&world.config(&columns));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, i64::from(RECORDS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_stops_the_pipeline_by_name() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let daemon = flowing(&world, &world.config(AUTOMATIC));
    world.sql("ALTER TABLE rides RENAME TO journeys").await;
    stops_named(&world, &daemon, &["table `public.rides` does not exist"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_table_stops_the_pipeline_by_name() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let daemon = flowing(&world, &world.config(AUTOMATIC));
    world.sql("BEGIN; DROP TABLE rides; CREATE TABLE rides (seq bigint, name text); COMMIT").await;
    // The new table differs from the old one only in its oid and its rows. A running daemon may not notice the new oid. The next
    // start does.
    daemon.terminate().expect("the signal is sent");
    daemon.wait_exit(PATIENCE).expect("it ends");
    let (code, log) = world.drain(&world.config(AUTOMATIC));
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("dropped and recreated"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_that_tidegate_created_stops_the_pipeline_with_a_remedy_that_works() {
    let world = World::new(2).await;
    let of_seq = format!("[pipelines.{}.columns]\nseq = {{ field = \"seq\", type = \"int8\" }}", world.name);
    let config = world.config(&format!("{AUTOMATIC}\ntable.create = true\n{of_seq}"));
    let daemon = flowing(&world, &config);
    world.sql("DROP TABLE rides").await;
    let remedy = format!("tidegate pipelines forget {} --yes", world.name);
    let words = ["table `public.rides` does not exist any more", remedy.as_str()];
    stops_named(&world, &daemon, &words).await;
    let ran = tidegate(&config, &["check"]).fails(64, &words);
    assert!(!ran.out.contains("recreated"), "{ran}");
    tidegate(&config, &["pipelines", "forget", &world.name, "--yes"]).ok();
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, i64::from(RECORDS));
    // If the table was restored with its rows, the statement that `check` prints lets the pipeline continue.
    world.sql("ALTER TABLE rides RENAME TO old; CREATE TABLE rides AS SELECT * FROM old").await;
    let ran = tidegate(&config, &["check"]).fails(64, &["dropped and recreated", &remedy]);
    let (_, statement) = ran.out.split_once("if it was restored with these rows, run: ").expect("a statement");
    world.sql(statement.lines().next().expect("a line")).await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, i64::from(RECORDS));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_that_create_the_same_tables_at_once_both_continue() {
    let world = World::new(2).await;
    world.produce_numbered(0..RECORDS, 2);
    let pipeline = format!(
        "table = {{ name = \"rides\", create = true }}\n[pipelines.{}.columns]\n\
         seq = {{ field = \"seq\", type = \"int8\" }}\nname = {{ field = \"name\", type = \"text\" }}",
        world.name
    );
    let daemons: Vec<Daemon> = (0..3).map(|_| world.daemon(&with_short_sessions(&world.config(&pipeline)))).collect();
    for daemon in &daemons {
        daemon.await_ready(PATIENCE).expect("it is ready");
    }
    world.await_written(&daemons[0]).await;
    world.assert_exact(RECORDS.into()).await;
    for daemon in &daemons {
        assert_eq!(daemon.exit_status(), None, "{}", daemon.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_wait_for_a_lock_of_a_table_with_defaults_and_the_write_that_waits_is_named() {
    for mode in ["mode = \"append\"", "mode = \"upsert\"\ntable.key = [\"seq\"]"] {
        let world = World::new(1).await;
        world
            .sql(
                "CREATE TABLE rides (seq int PRIMARY KEY, id bigserial, nth int GENERATED ALWAYS AS IDENTITY,
                 at timestamptz DEFAULT now(), label text DEFAULT 'none' || '!')",
            )
            .await;
        let intruder = Intruder::hold(&world, "LOCK TABLE rides IN ACCESS EXCLUSIVE MODE").await;
        let daemon = world.daemon(&world.config(&format!("table.name = \"rides\"\ntable.{mode}")));
        // The start succeeds although the table is locked, because a claim doesn't need the table.
        await_shares(&world, &world.name, &[&daemon], &[1]).await;
        world.produce([r#"{"seq":1}"#, r#"{"seq":2,"label":"x"}"#].map(|value| Record::new(value).to(0)));
        daemon.await_log("waiting for a lock", PATIENCE).expect("the write waits");
        daemon.await_log(Intruder::NAME, PATIENCE).expect("the holder is named");
        intruder.release().await;
        let there = async || world.number("SELECT count(*) FROM rides").await == 2;
        eventually_async("the rows come", PATIENCE, there).await.expect("they come");
        let rows = "SELECT string_agg(concat_ws(':', id, nth, at IS NOT NULL, label), ',' ORDER BY seq) FROM rides";
        assert_eq!(world.text(rows).await, "1:1:t:none!,2:2:t:x", "{mode}");
    }
}
