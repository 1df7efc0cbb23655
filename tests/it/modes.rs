//! Upsert and aggregate: the table has one row per key, with exact values, even if daemons are killed or write the same keys.
//! Also tests `where`, `sort_by`, and records that a mode can't write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Record, eventually_async};

use crate::accounting::with_short_sessions;
use crate::support::{PATIENCE, World};

/// Returns pseudo-random numbers (xorshift64, Marsaglia), the same in each run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |state| {
        let mut x = *state;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        Some(x)
    })
}

fn assert_drained(outcome: &(Option<i32>, String)) {
    assert_eq!(outcome.0, Some(0), "{}", outcome.1);
}

/// A reading of a trip. `meters` is the distance since the trip's last reading.
#[derive(Clone, Copy)]
struct Reading {
    trip: u64,
    ts: u64,
    meters: u64,
    paused: bool,
}

fn readings(count: usize, trips: u64, seed: u64) -> Vec<Reading> {
    let mut random = numbers(seed).skip(10);
    let mut next = move || random.next().expect("numbers never end");
    (0..count)
        .map(|_| Reading { trip: next() % trips, ts: next() % 1_000, meters: next() % 100, paused: next() % 4 == 0 })
        .collect()
}

impl Reading {
    fn json(&self) -> String {
        let state = if self.paused { "paused" } else { "driving" };
        format!(
            r#"{{"trip":{},"ts":{},"meters":{},"state":"{state}","pad":"{}"}}"#,
            self.trip,
            self.ts,
            self.meters,
            // Rows of very different sizes may have another order in the staging table than in the partition.
            "x".repeat(if self.meters == 7 { 7_000 } else { 3 })
        )
    }
}

const UPSERT: &str = r#"
table = { name = "latest", mode = "upsert", key = ["trip"], newer_by = "ts" }
columns.trip = "trip"
columns.ts = "ts"
columns.meters = "meters"
columns.pad = "pad"
columns.place = { meta = "offset" }
batch.max_rows = 997
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_record_of_a_key_wins_and_the_last_of_equals() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE latest (trip bigint PRIMARY KEY, ts bigint, meters bigint, pad text, place bigint, own text DEFAULT 'own')").await;
    world.sql("INSERT INTO latest (trip, ts, own) VALUES (0, NULL, 'mine'), (1, 5000, 'mine')").await;
    let readings = readings(6_000, 40, 7);
    world.produce(readings.iter().map(|r| Record::new(r.json()).to(i32::try_from(r.trip % 2).unwrap())));
    assert_drained(&world.drain(&world.config(UPSERT)));
    let mut newest: BTreeMap<u64, &Reading> = BTreeMap::new();
    for reading in readings.iter().filter(|reading| reading.trip != 1) {
        let entry = newest.entry(reading.trip).or_insert(reading);
        if reading.ts >= entry.ts {
            *entry = reading;
        }
    }
    let expected: Vec<_> = newest.values().map(|r| format!("{}:{}:{}", r.trip, r.ts, r.meters)).collect();
    let rows = "SELECT string_agg(trip || ':' || ts || ':' || meters, ',' ORDER BY trip) FROM latest WHERE trip <> 1";
    assert_eq!(world.text(rows).await, expected.join(","));
    assert_eq!(world.text("SELECT own || ts FROM latest WHERE trip = 1").await, "mine5000", "all records are older");
    assert_eq!(world.text("SELECT own FROM latest WHERE trip = 0").await, "mine", "not a column of the mapping");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_a_key_wins_and_tombstones_delete_in_turn() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE latest (region text, id int, v int NOT NULL, own text DEFAULT 'fresh', PRIMARY KEY (region, id))").await;
    world
        .sql("INSERT INTO latest VALUES ('n', 1, 0, 'old'), ('n', 2, 0, 'old'), ('n', 3, 0, 'old'), ('s', 1, 0, 'old')")
        .await;
    let row = |id: i32, v: i32| Record::new(format!(r#"{{"region":"n","id":{id},"v":{v}}}"#));
    let gone = |key: &str| Record::tombstone().key(key);
    world.produce([
        row(1, 10),
        gone(r#"{"region":"n","id":1}"#), // replaced, deleted
        gone(r#"{"region":"n","id":2}"#),
        row(2, 20),
        row(2, 21), // deleted, created again
        row(3, 30),
        row(3, 31), // replaced twice
        row(4, 40),
        gone(r#"{"region":"n","id":4}"#),
        gone(r#"{"region":"n","id":5}"#), // never there
        gone("n"),
        gone(r#"{"region":"n"}"#),
        Record::tombstone(),                    // these three name no row
        Record::new(r#"{"region":"n","v":1}"#), // no key
    ]);
    let config = world.config(
        "table = { name = \"latest\", mode = \"upsert\", key = [\"region\", \"id\"], deletes = true }\n\
         columns.region = \"region\"\ncolumns.id = \"id\"\ncolumns.v = \"v\"\ndead_letters.max_share = 1",
    );
    assert_drained(&world.drain(&config));
    let rows = "SELECT string_agg(concat_ws(':', region, id, v, own), ',' ORDER BY region, id) FROM latest";
    assert_eq!(world.text(rows).await, "n:2:21:fresh,n:3:31:old,s:1:0:old");
    let reasons = "SELECT string_agg(reason, ',' ORDER BY record_offset) FROM tidegate.dead_letter";
    assert_eq!(world.text(reasons).await, "tombstone,tombstone,tombstone,missing_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_of_a_single_key_column_may_have_a_plain_text_key() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE latest (id bigint PRIMARY KEY, ts int)").await;
    world.sql("INSERT INTO latest VALUES (1, 900), (2, 900), (3, 900)").await;
    world.produce([
        Record::tombstone().key("1"),
        Record::tombstone().key("2"),
        Record::new(r#"{"id":2,"ts":5}"#),
        Record::new(r#"{"id":3,"ts":5}"#),
        Record::tombstone().key("three"),
    ]);
    let config = world.config(
        "table = { name = \"latest\", mode = \"upsert\", key = [\"id\"], newer_by = \"ts\", deletes = true }\n\
         columns.id = \"id\"\ncolumns.ts = \"ts\"\ndead_letters.max_share = 1",
    );
    assert_drained(&world.drain(&config));
    assert_eq!(world.text("SELECT string_agg(id || ':' || ts, ',' ORDER BY id) FROM latest").await, "2:5,3:900");
    let detail = world.text("SELECT detail FROM tidegate.dead_letter").await;
    assert!(detail.contains("has no valid value for id int8: its key is three"), "{detail}");
}

const AGGREGATE: &str = r#"
table = { name = "fare", mode = "aggregate", key = ["trip"], create = true }
columns.trip = { field = "trip", type = "int8" }
columns.records = { aggregate = "count", type = "int8" }
columns.meters = { field = "meters", aggregate = "sum", type = "numeric" }
columns.paused = { aggregate = "count", type = "int8", where = { field = "state", equals = "paused" } }
columns.paused_meters = { field = "meters", aggregate = "sum", type = "int8", where = { field = "state", equals = "paused" } }
columns.started = { field = "ts", aggregate = "min", type = "int8" }
columns.ended = { field = "ts", aggregate = "max", type = "int8" }
columns.first_meters = { field = "meters", aggregate = "first", by = "started", type = "int8" }
columns.last_meters = { field = "meters", aggregate = "last", by = "ended", type = "int8" }
columns.last_state = { field = "state", aggregate = "last", by = "ended", type = "text" }
columns.paused_at = { field = "ts", aggregate = "max", type = "int8", where = { field = "state", equals = "paused" } }
columns.paused_last = { field = "meters", aggregate = "last", by = "paused_at", type = "int8" }
batch.max_rows = 500
"#;

const FARES: &str = "SELECT string_agg(concat_ws(':', trip, records, meters, paused, coalesce(paused_meters, 0), started, \
     ended, first_meters, last_meters, last_state, paused_at, paused_last), ',' ORDER BY trip) FROM fare";

/// Returns the expected rows of the table. Of several readings with the same time, `first` takes the first in the partition, and
/// `last` the last.
fn fares(readings: &[Reading]) -> String {
    let mut trips: BTreeMap<u64, Vec<Reading>> = BTreeMap::new();
    readings.iter().for_each(|reading| trips.entry(reading.trip).or_default().push(*reading));
    let rows = trips.into_iter().map(|(trip, readings)| {
        let paused: Vec<_> = readings.iter().filter(|reading| reading.paused).collect();
        let first = readings.iter().min_by_key(|reading| reading.ts).expect("a trip has readings");
        // Iterator::max_by_key returns the last of equal maxima.
        let last = readings.iter().max_by_key(|reading| reading.ts).expect("a trip has readings");
        let mut row = vec![
            trip.to_string(),
            readings.len().to_string(),
            readings.iter().map(|reading| reading.meters).sum::<u64>().to_string(),
            paused.len().to_string(),
            paused.iter().map(|reading| reading.meters).sum::<u64>().to_string(),
            first.ts.to_string(),
            last.ts.to_string(),
            first.meters.to_string(),
            last.meters.to_string(),
            if last.paused { "paused" } else { "driving" }.to_owned(),
        ];
        if let Some(paused) = paused.iter().max_by_key(|reading| reading.ts) {
            row.extend([paused.ts.to_string(), paused.meters.to_string()]);
        }
        row.join(":")
    });
    rows.collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_exact_through_kills_and_redelivery() {
    let world = World::new(2).await;
    let readings = readings(40_000, 300, 11);
    world.produce(readings.iter().map(|r| Record::new(r.json()).to(i32::try_from(r.trip % 2).unwrap())));
    let written = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger";
    // After a kill, the group waits until the killed member's session ends. So use short sessions.
    let config = || with_short_sessions(&world.config(AGGREGATE));
    for kill in 1..=4 {
        let daemon = world.daemon(&config());
        let enough = kill * 7_000;
        // The tables are created by the first start.
        daemon.await_ready(PATIENCE).expect("the daemon reads");
        eventually_async("the ledger moves", PATIENCE, async || world.number(written).await >= enough)
            .await
            .expect("it does");
        daemon.kill().expect("the daemon is killed");
    }
    assert_drained(&world.drain(&config()));
    assert_eq!(world.number(written).await, 40_000);
    assert_eq!(world.text(FARES).await, fares(&readings));
}

/// Runs rounds of 60 000 records, and prints the results. By default there is one round. `make contention MINUTES=5` begins
/// rounds until five minutes have passed.
#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_on_the_same_keys_come_to_the_right_end() {
    const ROUND: usize = 60_000;
    let minutes = std::env::var("MINUTES").map_or(0, |minutes| minutes.parse().expect("MINUTES is a number"));
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let world = World::new(4).await;
    world.sql("CREATE TABLE latest (trip bigint PRIMARY KEY, ts bigint, meters bigint, pad text, place bigint)").await;
    let upsert = world.config(UPSERT);
    let aggregate = world.config(AGGREGATE).replace(&world.name, "fares");
    let daemons: Vec<Daemon> = [&upsert, &upsert, &aggregate, &aggregate]
        .iter()
        .map(|config| {
            let port = tidegate_harness::free_port().expect("a free port");
            let (before, rest) = config.split_once("listen = \"").expect("it listens");
            let (_, after) = rest.split_once('"').expect("the address ends");
            world.daemon(&format!("{before}listen = \"127.0.0.1:{port}\"{after}"))
        })
        .collect();
    for daemon in &daemons {
        daemon.await_ready(PATIENCE).expect("the daemon reads");
    }
    let written = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger";
    let mut all: Vec<Reading> = Vec::new();
    loop {
        let round = all.len() / ROUND;
        let mut readings = readings(ROUND, 500, 13 + round as u64);
        // A key's records all have different times. So the order in which the daemons write doesn't change the result.
        let times = (0..).map(|number| ((round * ROUND) as u64) + number * 7_919 % ROUND as u64);
        readings.iter_mut().zip(times).for_each(|(reading, ts)| reading.ts = ts);
        // Records go to the partitions in turn. So both daemons of a pipeline get records of the same keys.
        world.produce(readings.iter().zip(0..).map(|(r, number)| Record::new(r.json()).to(number % 4)));
        all.append(&mut readings);
        let end = i64::try_from(2 * all.len()).unwrap();
        eventually_async("all is written", PATIENCE, async || world.number(written).await == end).await.expect("it is");
        if Instant::now() >= until {
            break;
        }
    }
    let readings = all;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks = world.number(deadlocks).await;
    let retries: Vec<String> = daemons.iter().map(retries).collect();
    eprintln!(
        "{} records of 500 keys, each written twice (upsert and aggregate) by two daemons a pipeline: {deadlocks} deadlocks, retries by daemon: {}",
        readings.len(),
        retries.join(" | ")
    );
    let newest: BTreeMap<u64, Reading> = readings.iter().fold(BTreeMap::new(), |mut newest, reading| {
        let entry = newest.entry(reading.trip).or_insert(*reading);
        if reading.ts > entry.ts {
            *entry = *reading;
        }
        newest
    });
    let expected: Vec<_> = newest.values().map(|r| format!("{}:{}:{}", r.trip, r.ts, r.meters)).collect();
    let rows = "SELECT string_agg(trip || ':' || ts || ':' || meters, ',' ORDER BY trip) FROM latest";
    assert_eq!(world.text(rows).await, expected.join(","));
    assert_eq!(world.text(FARES).await, fares(&readings));
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
    assert_eq!(deadlocks, 0);
    eprintln!("both tables are what the records make of them: {} keys, no dead letter", newest.len());
}

fn retries(daemon: &Daemon) -> String {
    let metrics = daemon.get("/metrics").map(|answer| answer.body).unwrap_or_default();
    let lines: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("tidegate_retries_total")).collect();
    if lines.is_empty() { "none".to_owned() } else { lines.join(", ") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_overflows_its_column_dead_letters_one_record() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int PRIMARY KEY, total int, n int)").await;
    let record = |id: i32, n: i64| Record::new(format!(r#"{{"id":{id},"n":{n}}}"#));
    let mut records: Vec<_> = (0..200).map(|n| record(n % 5, 1)).collect();
    records.insert(120, record(2, 2_147_483_640));
    world.produce(records);
    let config = world.config(
        "table = { name = \"t\", mode = \"aggregate\", key = [\"id\"] }\ncolumns.id = \"id\"\n\
         columns.total = { field = \"n\", aggregate = \"sum\" }\ncolumns.n = { aggregate = \"count\" }\n\
         dead_letters.max_share = 1",
    );
    assert_drained(&world.drain(&config));
    assert_eq!(world.number("SELECT sum(total)::int8 FROM t WHERE id <> 2").await, 160);
    assert_eq!(
        world.number("SELECT count(*) FROM tidegate.dead_letter WHERE sqlstate = '22003'").await,
        world.number("SELECT 201 - sum(n)::int8 FROM t").await,
        "each record is in the sums or a dead letter"
    );
    assert!(world.number("SELECT count(*) FROM tidegate.dead_letter").await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_without_its_index_says_which_to_make() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE latest (trip bigint, ts bigint, meters bigint, pad text, place bigint)").await;
    world.sql("CREATE UNIQUE INDEX ON latest (trip) WHERE ts > 0").await;
    let (code, log) = world.drain(&world.config(UPSERT));
    assert_eq!(code, Some(70), "{log}");
    assert!(
        log.contains("create one: CREATE UNIQUE INDEX ON \\\"public\\\".\\\"latest\\\" (\\\"trip\\\")")
            || log.contains("create one: CREATE UNIQUE INDEX ON \"public\".\"latest\" (\"trip\")"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_which_where_does_not_hold_are_skipped() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int, state text)").await;
    world.produce((0..100).map(|n| {
        let state = ["driving", "paused", "parked"][n % 3];
        Record::new(format!(r#"{{"id":{n},"state":"{state}"}}"#))
    }));
    let config =
        world.config("table.name = \"t\"\nwhere = { field = \"state\", equals = \"paused\" }\ncolumns.id = \"id\"");
    assert_drained(&world.drain(&config));
    assert_eq!(world.number("SELECT count(*) FROM t WHERE id % 3 = 1").await, 33);
    assert_eq!(world.number("SELECT count(*) FROM t").await, 33);
    assert_eq!(world.number("SELECT sum(next_offset)::int8 FROM tidegate.ledger").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_written_in_the_order_of_sort_by() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (vehicle int, ts int, place serial)").await;
    world.produce(
        readings(2_000, 50, 17).iter().map(|r| Record::new(format!(r#"{{"vehicle":{},"ts":{}}}"#, r.trip, r.ts))),
    );
    let config = world.config(
        "table = { name = \"t\", sort_by = [\"vehicle\", \"ts\"] }\ncolumns.vehicle = \"vehicle\"\ncolumns.ts = \"ts\"\n\
         batch.max_age = \"20s\"",
    );
    assert_drained(&world.drain(&config));
    assert_eq!(world.number("SELECT count(*) FROM t").await, 2_000);
    let ordered = "SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY vehicle, ts, place) AS n, place FROM t) s WHERE n <> place";
    assert_eq!(world.number(ordered).await, 0, "all in one batch, which is what `--until now` closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_and_last_take_arrays_and_nulls_as_they_are() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, began int, ended int, first_tags text[], last_tags text[], note text)",
        )
        .await;
    world.produce(
        [
            r#"{"id":1,"ts":5,"tags":["a","b"],"note":"x"}"#,
            r#"{"id":1,"ts":3,"tags":["c"],"note":"y"}"#,
            r#"{"id":1,"ts":9,"tags":["d","e","f"],"note":null}"#,
            r#"{"id":1,"tags":["without a time"],"note":"z"}"#,
            r#"{"id":2,"tags":["without a time"],"note":"z"}"#,
        ]
        .map(Record::new),
    );
    let config = world.config(
        "table = { name = \"t\", mode = \"aggregate\", key = [\"id\"] }\ncolumns.id = \"id\"\n\
         columns.began = { field = \"ts\", aggregate = \"min\" }\ncolumns.ended = { field = \"ts\", aggregate = \"max\" }\n\
         columns.first_tags = { field = \"tags\", aggregate = \"first\", by = \"began\" }\n\
         columns.last_tags = { field = \"tags\", aggregate = \"last\", by = \"ended\" }\n\
         columns.note = { field = \"note\", aggregate = \"last\", by = \"ended\" }\nbatch.max_rows = 2",
    );
    assert_drained(&world.drain(&config));
    let rows = "SELECT string_agg(t::text, ' ' ORDER BY id) FROM t";
    assert_eq!(world.text(rows).await, "(1,3,9,{c},\"{d,e,f}\",) (2,,,,,)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_of_a_mode_that_merges_is_dead_lettered_alone() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n <> 77))").await;
    world.produce((0..300).map(|n| Record::new(format!(r#"{{"id":{n},"n":{n}}}"#))));
    let config = world.config("table = { name = \"t\", mode = \"insert_new\", key = [\"id\"] }\nbatch.max_rows = 100");
    assert_drained(&world.drain(&config));
    assert_eq!(world.number("SELECT count(*) FROM t").await, 299);
    assert_eq!(world.number("SELECT record_offset FROM tidegate.dead_letter WHERE sqlstate = '23514'").await, 77);
}
