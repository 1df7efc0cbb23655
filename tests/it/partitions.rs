//! Tables that are partitioned by time.

use sqlx::Connection as _;
use tidegate_harness::{Daemon, Record, unique_name};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const PARTITIONED: &str = r#"
table = { name = "history", create = true, partition_by = { column = "ts", interval = "1 day", ahead = 1, retention = "10d", expired = "drop" } }
columns.id = { field = "id", type = "int8" }
columns.ts = { field = "ts", type = "timestamptz" }
dead_letters.max_share = 1
"#;

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_created_in_advance_and_for_late_records_and_removed_when_expired() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts)").await;
    let day = |days: i32| format!("to_char((now() AT TIME ZONE 'UTC')::date + {days}, 'YYYYMMDD')");
    // Both partitions have expired. The name of the second one isn't in our form, so only the first one is dropped.
    let expired = world.text(&format!("SELECT {}", day(-11))).await;
    let own = world.text(&format!("SELECT {}", day(-12))).await;
    world
        .sql(&format!(
            "SET timezone = 'UTC';
             CREATE TABLE history_p{expired} PARTITION OF history FOR VALUES FROM ('{expired}') TO ('{expired}'::date + 1);
             CREATE TABLE old PARTITION OF history FOR VALUES FROM ('{own}') TO ('{own}'::date + 1)"
        ))
        .await;
    let at = async |days: i32| {
        world
            .text(&format!(
                "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '{days} days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
            ))
            .await
    };
    let times = [at(0).await, at(-3).await, at(1).await, at(-5).await, at(-3).await];
    let mut records: Vec<_> =
        times.iter().zip(1..).map(|(ts, id)| Record::new(format!(r#"{{"id":{id},"ts":"{ts}"}}"#))).collect();
    // These times come from clocks that were reset or are ahead.
    for ts in ["1970-01-01T00:00:00Z".to_owned(), at(40).await] {
        records.insert(2, Record::new(format!(r#"{{"id":99,"ts":"{ts}"}}"#)));
    }
    world.produce(records);
    let (code, log) = world.drain(&world.config(PARTITIONED));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM history").await, "1,2,3,4,5");
    let names = "SELECT string_agg(inhrelid::regclass::text, ',' ORDER BY inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'history'::regclass";
    let mut expected = vec!["old".to_owned()];
    for days in [-5, -3, 0, 1] {
        expected.push(format!("history_p{}", world.text(&format!("SELECT {}", day(days))).await));
    }
    expected.sort();
    assert_eq!(world.text(names).await, expected.join(","));
    assert_eq!(world.number(&format!("SELECT count(*) FROM pg_class WHERE relname = 'history_p{expired}'")).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE sqlstate = '23514'").await, 2);
}

/// One batch needs 150 partitions, more than are created at once. One of them can't be created, because another table has its
/// name. Its row goes to the DEFAULT partition. Without a DEFAULT partition, the pipeline stops until the other table is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_need_many_partitions_and_one_that_cannot_be_created_loses_no_row() {
    for default in [false, true] {
        let world = World::new(1).await;
        world.sql("CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts)").await;
        let (name, rows) = (
            "'history_p' || to_char(now() AT TIME ZONE 'UTC' - interval '30 hours', 'YYYYMMDDHH24')",
            "SELECT string_agg(format('{\"id\":%s,\"ts\":\"%s\"}', n, to_char(now() AT TIME ZONE 'UTC' - n * interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')), E'\\n' ORDER BY n) FROM generate_series(1, 150) n",
        );
        let taken = world.text(&format!("SELECT {name}")).await;
        world.sql(&format!("CREATE TABLE {taken} ()")).await;
        world.produce(world.text(rows).await.lines().map(Record::new));
        let by = format!(
            "table = {{ name = \"history\", partition_by = {{ column = \"ts\", interval = \"1 hour\", default = {default} }} }}\ndead_letters.max_share = 1"
        );
        let (code, log) = world.drain(&world.config(&by));
        assert!(log.contains("its name is taken"), "{log}");
        if default {
            assert_eq!(code, Some(0), "{log}");
        } else {
            assert_eq!(code, Some(70), "{log}");
            assert!(log.contains(&format!("relation \"{taken}\" already exists")), "{log}");
            world.sql(&format!("DROP TABLE {taken}")).await;
            let (code, log) = world.drain(&world.config(&by));
            assert_eq!(code, Some(0), "{log}");
        }
        assert_eq!(world.number("SELECT count(*) FROM history").await, 150, "{log}");
        assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0, "{log}");
        let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'history'::regclass AND inhrelid::regclass::text <> 'history_default'";
        assert!(world.number(partitions).await >= 149, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_records_get_their_own_partition_despite_a_default_partition() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts)").await;
    let day = async |days: i32| {
        world.text(&format!("SELECT to_char(now() AT TIME ZONE 'UTC' - interval '{days} days', 'YYYY-MM-DD')")).await
    };
    let record = |id: i64, ts: &str| Record::new(format!(r#"{{"id":{id},"ts":"{ts}T12:00:00Z"}}"#));
    let (late, later, today) = (day(3).await, day(5).await, day(0).await);
    world.produce([record(1, &late), record(2, "1970-01-01"), record(3, &today), record(4, "2099-01-01")]);
    let config = world.config(&PARTITIONED.replace("ahead = 1", "ahead = 1, default = true"));
    let drain = || {
        let (code, log) = world.drain(&config);
        assert_eq!(code, Some(0), "{log}");
    };
    drain();
    world.produce([record(5, &late), record(6, &later)]);
    drain();
    for (day, ids) in [(late, "1,5"), (later, "6"), (today, "3")] {
        let sql = "SELECT string_agg(id::text, ',' ORDER BY id) FROM history_p";
        assert_eq!(world.text(&format!("{sql}{}", day.replace('-', ""))).await, ids);
    }
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM history_default").await, "2,4");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_made_with_its_key_and_takes_upserts() {
    let world = World::new(2).await;
    world.produce((0..1_000).map(|n: i32| {
        Record::new(format!(r#"{{"id":{},"ts":"2026-01-0{}T12:00:00Z","n":{n}}}"#, n % 10, 1 + n % 2)).to(n % 2)
    }));
    let config = world.config(
        "table = { name = \"latest\", create = true, mode = \"upsert\", key = [\"id\", \"ts\"], \
         partition_by = { column = \"ts\", interval = \"1 month\", default = true } }\n\
         columns.id = { field = \"id\", type = \"int8\" }\ncolumns.ts = { field = \"ts\", type = \"timestamptz\" }\n\
         columns.n = { field = \"n\", type = \"int8\" }",
    );
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM latest WHERE n >= 990").await, 10);
    assert_eq!(world.number("SELECT count(*) FROM latest").await, 10);
    // There are five partitions: that of the records, the current month, two in advance, and the empty DEFAULT partition.
    assert_eq!(world.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'latest'::regclass").await, 5);
    assert_eq!(world.number("SELECT count(*) FROM latest_default").await, 0);
    let fillfactor = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'latest'::regclass AND 'fillfactor=70' = ANY (reloptions)";
    assert_eq!(world.number(fillfactor).await, 5);
}

/// Returns the name of the partition of `history` for the day that is `days` days after today.
async fn partition(world: &World, days: i32) -> String {
    let day = format!("SELECT 'history_p' || to_char((now() AT TIME ZONE 'UTC')::date + {days}, 'YYYYMMDD')");
    world.text(&day).await
}

async fn create_partition(world: &World, days: i32) -> String {
    let name = partition(world, days).await;
    let day = name.trim_start_matches("history_p");
    world
        .sql(&format!(
            "SET timezone = 'UTC'; CREATE TABLE {name} PARTITION OF history FOR VALUES FROM ('{day}') TO ('{day}'::date + 1)"
        ))
        .await;
    name
}

async fn record(world: &World, id: i64, days: i32) -> Record {
    let ts = format!(
        "SELECT to_char((now() AT TIME ZONE 'UTC') + interval '{days} days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    );
    Record::new(format!(r#"{{"id":{id},"ts":"{}"}}"#, world.text(&ts).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_a_reader_locks_holds_up_neither_the_start_nor_the_removal_of_others() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts)").await;
    let (read, unread) = (create_partition(&world, -13).await, create_partition(&world, -12).await);
    world.produce([record(&world, 1, 0).await]);
    let exist =
        async |name: &str| world.number(&format!("SELECT count(*) FROM pg_class WHERE relname = '{name}'")).await;
    // Two partitions have expired, but a reader's lock prevents their removal. While the whole table is read, none is removed.
    // While one partition is read, only the other one is removed. The pipeline runs in both cases.
    for (reads, left) in [("history", 1), (read.as_str(), 0)] {
        let mut reader = world.connect().await;
        let reading = format!("SET application_name = 'long report'; BEGIN; SELECT count(*) FROM {reads}");
        sqlx::raw_sql(&reading).execute(&mut reader).await.expect("it reads");
        let (code, log) = world.drain(&world.config(PARTITIONED));
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(world.number("SELECT count(*) FROM history").await, 1, "{log}");
        assert_eq!((exist(&read).await, exist(&unread).await), (1, left), "{log}");
        let warning = |line: &str| {
            line.contains("can't remove an expired partition, retrying in a minute")
                && line.contains(&read)
                && line.contains("long report")
        };
        assert!(log.lines().any(warning), "{log}");
        reader.close().await.expect("it closes");
    }
    let (code, log) = world.drain(&world.config(PARTITIONED));
    assert_eq!((code, exist(&read).await), (Some(0), 0), "{log}");
}

/// Creates the table, and a role that may write into it and doesn't own it. Returns the role's name and its URL.
async fn clerk(world: &World) -> (String, String) {
    let role = unique_name("clerk");
    world
        .sql(&format!(
            "CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts);
             CREATE ROLE {role} LOGIN; CREATE SCHEMA tidegate AUTHORIZATION {role}; GRANT INSERT ON history TO {role}"
        ))
        .await;
    let url = world.database.url.replacen("postgres@", &format!("{role}@"), 1);
    (role, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_create_partitions_rows_go_on_while_they_have_a_place() {
    let world = World::new(1).await;
    let (role, url) = clerk(&world).await;
    create_partition(&world, 0).await;
    let config = |default: bool| {
        world.config_at(
            &url,
            &format!(
                "table = {{ name = \"history\", partition_by = {{ column = \"ts\", interval = \"1 day\", default = {default} }} }}\ndead_letters.max_share = 1"
            ),
        )
    };
    let remedy = format!("ALTER TABLE \"public\".\"history\" OWNER TO {role};");
    // Today's partition exists.
    world.produce([record(&world, 1, 0).await]);
    let checked = tidegate(&config(false), &["check"]);
    assert!(checked.code == 0 && checked.out.contains(&remedy), "{checked}");
    let (code, log) = world.drain(&config(false));
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("rows are still written, because existing partitions accept them") && log.contains(&remedy),
        "{log}"
    );
    // No partition accepts a late row, so the pipeline stops. The row doesn't become a dead letter.
    world.produce([record(&world, 2, -30).await]);
    let checked = tidegate(&config(false), &["check"]);
    assert!(checked.code != 0 && checked.out.contains("rows of the newest records have no partition"), "{checked}");
    let (code, log) = world.drain(&config(false));
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("can't create the partitions of `public.history` that rows need"), "{log}");
    // A DEFAULT partition accepts the row, even if the configuration doesn't ask for one.
    world.sql("CREATE TABLE history_rest PARTITION OF history DEFAULT").await;
    for (default, id) in [(false, 3), (true, 4)] {
        world.produce([record(&world, id, -40).await]);
        let checked = tidegate(&config(default), &["check"]);
        assert!(checked.code == 0 && checked.out.contains(&remedy), "{checked}");
        let (code, log) = world.drain(&config(default));
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains(&remedy), "{log}");
    }
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM history_rest").await, "2,3,4");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_a_table_that_has_the_name_of_a_partition() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE history (id int8, ts timestamptz) PARTITION BY RANGE (ts)").await;
    let (today, tomorrow) = (partition(&world, 0).await, partition(&world, 1).await);
    // The second table has the name of an expired partition, like one that was detached after its retention.
    world.sql(&format!("CREATE TABLE {tomorrow} (); CREATE TABLE {} ()", partition(&world, -20).await)).await;
    world.produce([record(&world, 1, 0).await]);
    let config = world.config(PARTITIONED);
    let checked = tidegate(&config, &["check"]);
    let named = |name: &str| format!("public.{name}` would be partitions of `public.history` by their names");
    assert!(checked.code == 0 && checked.out.contains(&named(&tomorrow)), "{checked}");
    assert_eq!(checked.out.matches("by their names").count(), 1, "{checked}");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    // No partition accepts a row of tomorrow, so the pipeline stops. The row doesn't become a dead letter.
    world.produce([record(&world, 2, 1).await]);
    let checked = tidegate(&config, &["check"]);
    assert!(checked.code != 0 && checked.out.contains("rows of the newest records have no partition"), "{checked}");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains(&format!("relation \"{tomorrow}\" already exists")), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0, "{log}");
    // If a table has the name of today's partition, no partition accepts today's rows.
    world.sql(&format!("DROP TABLE {today}; CREATE TABLE {today} ()")).await;
    let checked = tidegate(&config, &["check"]);
    assert!(checked.code != 0 && checked.out.contains("so the pipeline would stop"), "{checked}");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
}

/// The DEFAULT partition takes rows whose time is too far from now. Without it, these rows would be dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_partition_that_cannot_be_created_holds_up_the_start_and_dead_letters_nothing() {
    let world = World::new(1).await;
    let (role, url) = clerk(&world).await;
    create_partition(&world, 0).await;
    world.produce([record(&world, 1, 0).await, record(&world, 2, 40).await]);
    let config = world.config_at(
        &url,
        "table = { name = \"history\", partition_by = { column = \"ts\", interval = \"1 day\", default = true } }\ndead_letters.max_share = 1",
    );
    let remedy = format!("ALTER TABLE \"public\".\"history\" OWNER TO {role};");
    let checked = tidegate(&config, &["check"]);
    assert!(checked.code != 0 && checked.out.contains(&remedy), "{checked}");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    // Since PostgreSQL 15, the role can't create a table in schema public. Before, it can, but it can't read the table whose
    // columns the partition copies. Both messages begin in the same way.
    assert!(log.contains("Postgres 42501 permission denied for"), "{log}");
    // The start waits for a lock such as that of CREATE INDEX.
    world.sql(&format!("ALTER TABLE history OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}")).await;
    let mut indexing = world.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE history IN SHARE MODE").execute(&mut indexing).await.expect("it locks");
    let daemon = world.daemon(&config);
    let waits =
        |daemon: &Daemon| daemon.log().iter().any(|line| line.contains("can't start yet") && line.contains("lock"));
    daemon.await_until("it waits for the lock", PATIENCE, waits).unwrap_or_else(|error| panic!("{error:#}"));
    indexing.close().await.expect("it closes");
    let written = |daemon: &Daemon| daemon.metric("tidegate_rows_written_total", &[]).is_some_and(|rows| rows >= 2.0);
    daemon.await_until("the rows are written", PATIENCE, written).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(world.text("SELECT string_agg(id::text, ',') FROM history_default").await, "2");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}
