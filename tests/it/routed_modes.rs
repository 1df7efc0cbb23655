//! Modes that merge, for records that name their table. Every table is exact. `verify`, `replay` and `offsets copy` handle all
//! tables.

use std::collections::BTreeMap;

use tidegate_harness::{Daemon, Record, eventually_async, free_port};

use crate::accounting::with_short_sessions;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const REGIONS: i64 = 5;

/// A reading of a vehicle: its time and a distance. The vehicle's number gives the region and the partition.
struct Reading {
    vehicle: i64,
    ts: i64,
    meters: i64,
}

fn readings(count: i64) -> Vec<Reading> {
    (0..count).map(|n| Reading { vehicle: n * 7_919 % 40, ts: n * 104_729 % count, meters: n % 13 }).collect()
}

impl Reading {
    fn record(&self) -> Record {
        let Self { vehicle, ts, meters } = self;
        let region = vehicle % REGIONS;
        Record::new(format!(r#"{{"vehicle":{vehicle},"ts":{ts},"meters":{meters},"region":"r{region}"}}"#))
            .to(i32::try_from(vehicle % 4).expect("small"))
    }
}

const UPSERT: &str = "table = { name = \"latest_{region}\", mode = \"upsert\", key = [\"vehicle\"], newer_by = \"ts\", create = true }\n\
    columns.vehicle = { field = \"vehicle\", type = \"int8\" }\ncolumns.ts = { field = \"ts\", type = \"int8\" }\n\
    columns.meters = { field = \"meters\", type = \"int4\" }\nbatch.max_rows = 700\n";

const SUMS: &str = "table = { name = \"sums_{region}\", mode = \"aggregate\", key = [\"vehicle\"], create = true }\n\
    columns.vehicle = { field = \"vehicle\", type = \"int8\" }\ncolumns.meters = { field = \"meters\", aggregate = \"sum\", type = \"int8\" }\n\
    columns.records = { aggregate = \"count\", type = \"int8\" }\nbatch.max_rows = 700\n";

impl World {
    /// Returns the sorted rows of the tables `{table}_rN`, one table per region. Each row has the form `region:row`.
    async fn rows_by_region(&self, table: &str, row: &str) -> String {
        let tables: Vec<_> = (0..REGIONS)
            .map(|region| format!("SELECT {region} AS region, vehicle, {row} AS said FROM {table}_r{region}"))
            .collect();
        let all = tables.join(" UNION ALL ");
        self.text(&format!("SELECT string_agg(region || ':' || said, ',' ORDER BY region, vehicle) FROM ({all}) t"))
            .await
    }
}

fn by_region(rows: BTreeMap<i64, String>) -> String {
    let mut rows: Vec<_> = rows.into_iter().map(|(vehicle, row)| (vehicle % REGIONS, vehicle, row)).collect();
    rows.sort_unstable();
    rows.into_iter().map(|(region, _, row)| format!("{region}:{row}")).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_and_sums_by_table_are_exact_through_kills_of_two_instances() {
    let world = World::new(4).await;
    let readings = readings(30_000);
    world.produce(readings.iter().map(Reading::record));
    let sums = world.config(SUMS).replace(&world.name, "sums");
    let (_, sums) = sums.split_at(sums.find("[pipelines.").expect("a pipeline"));
    let config = with_short_sessions(&(world.config(UPSERT) + sums));
    let elsewhere = |config: &str| {
        let (before, rest) = config.split_once("listen = \"").expect("it listens");
        let port = free_port().expect("a free port");
        format!("{before}listen = \"127.0.0.1:{port}\"{}", rest.split_once('"').expect("its end").1)
    };
    let other: Daemon = world.daemon(&elsewhere(&config));
    for kill in 1..=3 {
        let daemon = world.daemon(&config);
        let moved = async || world.ledger().await >= kill * 7_000;
        eventually_async("the ledger moves", PATIENCE, moved).await.expect("it does");
        daemon.kill().expect("the daemon is killed");
    }
    drop(other);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let mut newest: BTreeMap<i64, &Reading> = BTreeMap::new();
    let mut totals: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for reading in &readings {
        let entry = newest.entry(reading.vehicle).or_insert(reading);
        if reading.ts >= entry.ts {
            *entry = reading;
        }
        let total = totals.entry(reading.vehicle).or_default();
        *total = (total.0 + reading.meters, total.1 + 1);
    }
    let newest = newest.into_iter().map(|(vehicle, r)| (vehicle, format!("{vehicle}/{}/{}", r.ts, r.meters)));
    let found = world.rows_by_region("latest", "vehicle || '/' || ts || '/' || meters").await;
    assert_eq!(found, by_region(newest.collect()));
    let totals = totals.into_iter().map(|(vehicle, (sum, count))| (vehicle, format!("{vehicle}/{sum}/{count}")));
    let found = world.rows_by_region("sums", "vehicle || '/' || meters || '/' || records").await;
    assert_eq!(found, by_region(totals.collect()));
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_names_the_table_of_a_tombstone_and_each_table_has_its_own_refusals() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE latest_a (id bigint PRIMARY KEY, n int CHECK (n <> 51));
             CREATE TABLE latest_b (n smallint, id int UNIQUE); CREATE TABLE latest_c (id bigint, n int);
             INSERT INTO latest_b VALUES (7, 7)",
        )
        .await;
    let row = |id: i64, n: i64, table: &str| {
        Record::new(format!(r#"{{"id":{id},"n":{n}}}"#)).header("to", table).key(id.to_string()).to(0)
    };
    let gone = |id: i64, table: &str| Record::tombstone().header("to", table).key(id.to_string()).to(0);
    world.produce([
        // The first record that names this table is a tombstone.
        gone(7, "b"),
        row(1, 10, "a"),
        row(1, 10, "b"),
        row(2, 20, "b"),
        gone(1, "a"),
        row(2, 51, "a"),
        row(3, 30, "a"),
        row(3, 31, "a"),
        gone(2, "b"),
        row(2, 22, "b"),
        row(9, 99_999, "b"),
        row(1, 1, "c"),
        gone(1, "nowhere"),
    ]);
    let config = world.config(
        "table = { name = \"latest_{header:to}\", mode = \"upsert\", key = [\"id\"], deletes = true }\n\
         columns.id = \"id\"\ncolumns.n = \"n\"\ndead_letters.max_share = 1.0",
    );
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(id || ':' || n, ',' ORDER BY id) FROM latest_a").await, "3:31");
    assert_eq!(world.text("SELECT string_agg(id || ':' || n, ',' ORDER BY id) FROM latest_b").await, "1:10,2:22");
    assert_eq!(world.number("SELECT count(*) FROM latest_c").await, 0);
    let letters = world
        .text("SELECT string_agg(record_offset || ' ' || reason || ' ' || detail, E'\\n' ORDER BY record_offset) FROM tidegate.dead_letter")
        .await;
    let lines: Vec<&str> = letters.lines().collect();
    for (line, words) in lines.iter().zip([
        "5 refused_by_postgres",
        "10 out_of_range n 99999",
        "create one: CREATE UNIQUE INDEX ON \"public\".\"latest_c\" (\"id\")",
        "12 no_table the record is for public.latest_nowhere, which does not exist",
    ]) {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
    assert_eq!(lines.len(), 4, "{letters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_an_existing_key_are_skipped_in_each_table_and_the_commands_know_all_tables() {
    let world = World::new(2).await;
    let lines = "table = { name = \"rides_{region}\", mode = \"insert_new\", key = [\"part\", \"off\"], create = true }\n\
        columns.part = { meta = \"partition\", type = \"int4\" }\ncolumns.off = { meta = \"offset\", type = \"int8\" }\n\
        columns.id = { field = \"id\", type = \"int8\" }\n";
    let config = world.config(lines);
    let record =
        |n: i64| Record::new(format!(r#"{{"id":{n},"region":{}}}"#, n % 3)).to(i32::try_from(n % 2).expect("small"));
    world.produce((0..3_000).map(record));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let all = "(SELECT * FROM rides_0 UNION ALL SELECT * FROM rides_1 UNION ALL SELECT * FROM rides_2) t";
    let accounting = format!("SELECT count(*) * 1000000 + count(DISTINCT id) FROM {all}");
    assert_eq!(world.number(&accounting).await, 3_000_003_000);

    let report = tidegate(&config, &["verify", "--json"]).ok().json();
    let partitions = report["pipelines"][0]["partitions"].as_array().expect("partitions");
    let sum = |what: &str| partitions.iter().map(|partition| partition[what].as_i64().unwrap_or(-1)).sum::<i64>();
    assert_eq!((sum("rows"), sum("missing"), sum("twice")), (3_000, 0, 0), "{report}");
    world.sql("DELETE FROM rides_1 WHERE id < 10; DELETE FROM rides_2 WHERE id = 2").await;
    let report = tidegate(&config, &["verify", "--json"]).json();
    let partitions = report["pipelines"][0]["partitions"].as_array().expect("partitions");
    let missing: i64 = partitions.iter().map(|partition| partition["missing"].as_i64().unwrap_or(-1)).sum();
    assert_eq!(missing, 4, "three of the one and one of the other: {report}");

    // Replay into the same tables: existing rows are skipped, and missing ones are restored.
    let report = tidegate(&config, &["replay", "--from", "earliest", "--json"]).ok().json();
    assert_eq!((&report["records"], &report["rows"]), (&3_000.into(), &4.into()), "{report}");
    assert_eq!(world.number(&accounting).await, 3_000_003_000);
    world.sql("CREATE TABLE together (part int, off bigint, id bigint, UNIQUE (part, off))").await;
    tidegate(&config, &["replay", "--from", "earliest", "--into", "together"]).ok().says(&["3 000 rows"]);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM together").await, 3_000);

    let renamed = format!("{}_new", world.name);
    let new = config.replace(&format!("[pipelines.{}]", world.name), &format!("[pipelines.{renamed}]"));
    tidegate(&new, &["offsets", "copy", &world.name, &renamed]).ok();
    world.produce((3_000..3_030).map(record));
    let (code, log) = world.drain(&new);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number(&accounting).await, 3_030_003_030);
    let owner = format!("SELECT count(*) FROM tidegate.route WHERE pipeline = '{renamed}'");
    assert_eq!(world.number(&owner).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_where_a_routed_table_would_count_twice() {
    let world = World::new(4).await;
    world.produce(readings(100).iter().map(Reading::record));
    let config = world.config(SUMS);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    tidegate(&config, &["replay", "--from", "earliest"]).fails(64, &["is a sum or a count", "--into"]);
    let report = tidegate(&config, &["verify", "--json"]).ok().json();
    assert!(report["pipelines"][0]["table_skipped"].is_string(), "sums can't be compared with the log: {report}");
}
