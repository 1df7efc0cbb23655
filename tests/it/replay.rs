//! `tidegate replay`: writes a range of a topic again, exactly once, and only if that is safe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sqlx::Executor;
use tempfile::TempDir;
use tidegate_harness::{Record, eventually_async};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World, program};

const TABLE: &str = "CREATE TABLE rides (id bigint); CREATE TABLE again (id bigint)";

impl World {
    async fn ids(&self, table: &str) -> (i64, i64, i64) {
        let number = async |what: &str| self.number(&format!("SELECT {what} FROM {table}")).await;
        (number("count(*)").await, number("count(DISTINCT id)").await, number("coalesce(sum(id), 0)::int8").await)
    }
}

fn sum(range: std::ops::Range<i64>) -> (i64, i64, i64) {
    let count = range.end - range.start;
    (count, count, range.sum())
}

fn written(config: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, config).expect("the configuration is written");
    (folder, file)
}

fn spawn(file: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.args(arguments).arg("--config").arg(file).stdout(Stdio::null()).spawn().expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_by_offset_fills_another_table_once_however_often_it_runs() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let config = world.config("table.name = \"rides\"\ndead_letters.max_share = 1.0");
    world.rides(0, 100, 1);
    world.produce([Record::new("{").to(0)]);
    world.rides(100, 100, 1);
    world.drained(&config);
    tidegate(&config, &["replay", "--from", "50", "--to", "2999-01-01T00:00:00Z", "--into", "again"])
        .fails(64, &["--to: 2999-01-01T00:00:00", "is in the future", "`latest`"]);
    tidegate(&config, &["replay", "--from", "earliest"])
        .fails(64, &["mode append would write every row once more", "--into"]);
    let replay = ["replay", "--from", "50", "--to", "151", "--into", "again"];
    let beyond = ["replay", "--from", "50", "--to", "500", "--into", "again"];
    tidegate(&config, &beyond).fails(64, &["outside of the log", "from 0 to 201"]);
    tidegate(&config, &[&replay[..], &["--partition", "9"]].concat())
        .fails(64, &["no partition 9 of a topic that pipeline"]);
    let report = tidegate(&config, &[&replay[..], &["--json"]].concat()).ok().json();
    let figures = ["records", "rows", "dead_letters"].map(|name| report[name].as_i64().unwrap_or(-1));
    assert_eq!(figures, [101, 100, 1], "{report}");
    assert_eq!(world.ids("again").await, sum(50..150));
    let key = report["replay"].as_str().expect("its key").to_owned();
    let letters = format!("SELECT count(*) FROM tidegate.dead_letter WHERE pipeline = '{key}' AND record_offset = 100");
    assert_eq!(world.number(&letters).await, 1);
    tidegate(&config, &replay).ok().says(&["was done already", "--again"]);
    assert_eq!(world.ids("again").await, sum(50..150), "nothing is written twice");
    world.sql("TRUNCATE again").await;
    tidegate(&config, &[&replay[..], &["--again"]].concat()).ok().says(&["101 records", "100 rows"]);
    assert_eq!(world.ids("again").await, sum(50..150));
    // A replay doesn't affect the pipeline itself.
    world.rides(200, 10, 1);
    world.drained(&config);
    assert_eq!(world.ids("rides").await, sum(0..210));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_again_and_again_goes_on_and_writes_nothing_twice() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    let config = world.config("table.name = \"rides\"\nbatch.max_rows = 500\nflow.max_rows_per_second = 20_000");
    world.rides(0, 30_000, 2);
    world.drained(&config);
    let (_folder, file) = written(&config);
    let replay = ["replay", "--from", "earliest", "--into", "again"];
    let mut at = 0;
    for _ in 0..3 {
        let mut child = spawn(&file, &replay);
        let rows = async || world.number("SELECT count(*) FROM again").await;
        let moved = eventually_async("it writes", PATIENCE, async || rows().await >= at + 2_000).await;
        child.kill().expect("it dies");
        child.wait().expect("it ends");
        moved.expect("it writes");
        at = rows().await;
    }
    assert!(at < 30_000, "it was killed in the middle: {at}");
    tidegate(&config, &replay).ok().says(&["the rest of an earlier run"]);
    assert_eq!(world.ids("again").await, sum(0..30_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_runs_is_not_forgotten() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let config = world.config("table.name = \"rides\"");
    world.rides(0, 100, 1);
    world.drained(&config);
    let mut holder = world.connect().await;
    holder.execute("BEGIN; LOCK TABLE again IN SHARE MODE").await.expect("it locks");
    let (_folder, file) = written(&config);
    let mut child = spawn(&file, &["replay", "--from", "earliest", "--into", "again"]);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'again'::regclass";
    let waiting = async || world.number(waits).await > 0;
    eventually_async("the replay waits for the table", PATIENCE, waiting).await.expect("it waits");
    let name = world.text(&format!("SELECT name FROM tidegate.pipeline WHERE name <> '{}'", world.name)).await;
    let forget = ["pipelines", "forget", name.as_str(), "--yes"];
    tidegate(&config, &forget).fails(64, &["runs", "stop it first"]);
    holder.execute("COMMIT").await.expect("it unlocks");
    assert!(child.wait().expect("it ends").success());
    tidegate(&config, &forget).ok().says(&["the same `tidegate replay` would write its rows again"]);
    assert_eq!(world.ids("again").await, sum(0..100));
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_by_time_repairs_a_table_that_skips_existing_keys() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint PRIMARY KEY)").await;
    let config = world.config("table = { name = \"rides\", mode = \"insert_new\", key = [\"id\"] }");
    let second = 1_760_000_000;
    let at = |n: i64| Record::new(format!(r#"{{"id":{n}}}"#)).at_ms((second + n) * 1000).to(0);
    world.produce((0..100).map(at));
    world.drained(&config);
    world.sql("DELETE FROM rides WHERE id % 2 = 0").await;
    let time = |n: i64| tidegate_time(second + n);
    let report = tidegate(&config, &["replay", "--from", &time(40), "--to", &time(60), "--json"]).ok().json();
    assert_eq!((&report["records"], &report["rows"]), (&20.into(), &10.into()), "{report}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 60);
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE id % 2 = 0 AND id BETWEEN 40 AND 59").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_partitions_takes_the_replay_of_one_that_has_some_and_deletes_are_counted() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE rides (id bigint, ts timestamptz NOT NULL, PRIMARY KEY (id, ts)) PARTITION BY RANGE (ts);
             CREATE TABLE again (id bigint, ts timestamptz NOT NULL, PRIMARY KEY (id, ts))",
        )
        .await;
    let config = world.config(
        r#"dead_letters.max_share = 1.0
        table = { name = "rides", mode = "upsert", key = ["id", "ts"], deletes = true, partition_by = { column = "ts", interval = "1 day", ahead = 0 } }
        columns = { id = "id", ts = { field = "ts", unit = "ms" } }"#,
    );
    let now = jiff::Timestamp::now().as_millisecond();
    let key = |n: i64| format!(r#"{{"id":{n},"ts":{}}}"#, now + n);
    world.produce((0..3).map(|n| Record::new(key(n)).key(key(n)).to(0)));
    world.produce([Record::tombstone().key(key(1)).to(0)]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 2);
    tidegate(&config, &["replay", "--from", "earliest", "--into", "again"])
        .ok()
        .says(&["4 records of 1 partition replayed into public.again: 3 rows, 1 delete, no dead letters"]);
    assert_eq!(world.number("SELECT count(*) FROM again").await, 2);
    // A replay of this replay's dead letters writes into the same table (`again`). The record isn't JSON, so it fails again.
    world.produce([Record::new("{").key(key(9)).to(0)]);
    let rest = ["replay", "--from", "4", "--into", "again", "--json"];
    assert_eq!(tidegate(&config, &rest).ok().json()["dead_letters"], 1);
    tidegate(&config, &["dead-letters", "replay", "--all", "--yes"]).fails(70, &["1 dead letter failed again"]);
}

fn tidegate_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).expect("a time").to_string()
}
