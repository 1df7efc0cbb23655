//! The table changes repeatedly during a drain. Nothing is lost: records that the table no longer accepts become dead
//! letters with a reason.

use std::time::Duration;

use tidegate_harness::{Action, Proxy, Record, Trigger, eventually_async};

use crate::accounting::{await_metric, with_short_sessions};
use crate::support::{PATIENCE, World};

const RECORDS: i32 = 60_000;

fn reading(n: i32) -> Record {
    Record::new(format!(r#"{{"seq":{n},"speed":{},"name":"vehicle {n}","note":"n{n}"}}"#, n % 300)).to(n % 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_added_dropped_and_retyped_and_the_table_renamed_lose_no_record() {
    let world = World::new(4).await;
    world.sql("CREATE TABLE rides (seq int, speed int, name text, spare text)").await;
    world.produce((0..RECORDS).map(reading));
    let config = with_short_sessions(&world.config(
        "table.name = \"rides\"\nconsumers = 2\nbatch.max_rows = 1000\nflow.max_rows_per_second = 6_000\ndead_letters.max_share = 1.0",
    ));
    let daemon = world.daemon(&config);
    await_metric(&daemon, "tidegate_rows_written_total", 2_000.0);
    let step = Duration::from_secs(20);
    for change in [
        "ALTER TABLE rides ADD COLUMN note text",
        "ALTER TABLE rides ALTER COLUMN seq TYPE bigint",
        "ALTER TABLE rides DROP COLUMN spare",
        // A domain makes Postgres refuse a speed above 255.
        "BEGIN; LOCK TABLE rides; CREATE DOMAIN byte AS int CHECK (VALUE < 256); UPDATE rides SET speed = 0 WHERE speed > 255; ALTER TABLE rides ALTER COLUMN speed TYPE byte; COMMIT",
        // Tidegate's encoder rejects a number as a value of this column.
        "ALTER TABLE rides DROP COLUMN speed; ALTER TABLE rides ADD COLUMN speed bool",
        "ALTER TABLE rides DROP COLUMN speed",
    ] {
        world.sql(change).await;
        world.await_next_commit(&daemon, step).await;
        world.await_next_commit(&daemon, step).await;
    }
    assert!(world.ledger().await < i64::from(RECORDS), "the changes came in the middle");
    world.sql("ALTER TABLE rides RENAME TO journeys").await;
    let status = daemon.wait_exit(PATIENCE).expect("it stops, named");
    let log = daemon.log().join("\n");
    assert_eq!(status.code(), Some(70), "{log}");
    assert!(log.contains("table `public.rides` does not exist"), "{log}");
    let before = world.ledger().await;
    assert!(before < i64::from(RECORDS), "nothing was moved past");
    world.sql("ALTER TABLE journeys RENAME TO rides").await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let seen = "SELECT count(*) FROM (SELECT seq FROM rides UNION ALL SELECT (convert_from(value, 'UTF8')::jsonb ->> 'seq')::bigint FROM tidegate.dead_letter) s";
    assert_eq!(world.number(seen).await, i64::from(RECORDS));
    let seen = "SELECT count(DISTINCT seq) FROM (SELECT seq FROM rides UNION ALL SELECT (convert_from(value, 'UTF8')::jsonb ->> 'seq')::bigint FROM tidegate.dead_letter) s";
    assert_eq!(world.number(seen).await, i64::from(RECORDS));
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE name IS DISTINCT FROM 'vehicle ' || seq").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE note <> 'n' || seq").await, 0);
    let unexplained = "SELECT count(*) FROM tidegate.dead_letter WHERE NOT (
        sqlstate = '23514' AND detail LIKE '%byte%' AND (convert_from(value, 'UTF8')::jsonb ->> 'speed')::int > 255
        OR reason = 'type_mismatch' AND column_name = 'speed' AND detail LIKE 'speed % is not bool%')";
    assert_eq!(world.number(unexplained).await, 0);
    let counted = async |reason: &str| {
        world.number(&format!("SELECT count(*) FROM tidegate.dead_letter WHERE reason = '{reason}'")).await
    };
    assert!(counted("refused_by_postgres").await > 0 && counted("type_mismatch").await > 0);
    let settled = async || world.ledger().await == i64::from(RECORDS);
    eventually_async("the ledger stands at the end", PATIENCE, settled).await.expect("it does");
}

/// Binary COPY accepts the eight bytes of an int8 as a float8 or a timestamptz, and as a text if they are valid text. So Postgres
/// may not notice that the column has another type.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_whose_new_type_reads_the_old_bytes_gets_the_right_values() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE readings (seq int, real_from_int int8, text_from_int int8, text_of_one_record int8)").await;
    let reading = |n: i32| {
        Record::new(format!(
            // The bytes of the long number are the text AAAAAAAA. The bytes of the number 7 aren't valid text.
            r#"{{"seq":{n},"real_from_int":{n},"text_from_int":4702111234474983745,"text_of_one_record":7}}"#
        ))
    };
    let daemon = world.daemon(&world.config("table.name = \"readings\""));
    let right = "SELECT count(*) FROM readings WHERE real_from_int = seq AND text_from_int::text = '4702111234474983745' AND text_of_one_record::text = '7'";
    let mut sent = 0;
    for change in [
        "SELECT",
        "ALTER TABLE readings ALTER real_from_int TYPE float8",
        "ALTER TABLE readings ALTER text_from_int TYPE text",
        "ALTER TABLE readings ALTER text_of_one_record TYPE text",
    ] {
        world.sql(change).await;
        sent += 1;
        world.produce([reading(sent)]);
        await_metric(&daemon, "tidegate_records_consumed_total", f64::from(sent));
        let all = async || {
            world.number("SELECT count(*) FROM readings").await
                + world.number("SELECT count(*) FROM tidegate.dead_letter").await
                == i64::from(sent)
        };
        eventually_async("the record is written", PATIENCE, all).await.expect("it is");
        assert_eq!(world.number(right).await, i64::from(sent), "after {change}");
    }
}

/// Two columns change while a batch is being written. The first new plan includes one change only, so a second new plan is
/// needed.
#[tokio::test(flavor = "multi_thread")]
async fn two_columns_that_change_during_one_write_are_planned_again_twice() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE readings (seq int, level int8, speed int8)").await;
    let postgres = Proxy::start_postgres(world.postgres.address()).expect("a proxy");
    let config = world.config_at(&world.database.url_at(postgres.addr()), "table.name = \"readings\"");
    let daemon = world.daemon(&config);
    let reading = |n: i32| Record::new(format!(r#"{{"seq":{n},"level":{n},"speed":{n}}}"#));
    world.produce([reading(1)]);
    world.await_written(&daemon).await;
    world.sql("ALTER TABLE readings ALTER level TYPE float8").await;
    let noticed = postgres.arm(Trigger::FrontendQueryContains("ROLLBACK".to_owned()), Action::Hold);
    world.produce([reading(2)]);
    noticed.fired(PATIENCE).await.expect("the first change is noticed");
    // The second change comes after the catalog was read for the new plan, and before the next COPY.
    let planned = postgres.arm(Trigger::FrontendQueryContains("COPY".to_owned()), Action::Hold);
    noticed.release();
    planned.fired(PATIENCE).await.expect("the batch is copied again");
    world.sql("ALTER TABLE readings ALTER speed TYPE float8").await;
    planned.release();
    world.await_written(&daemon).await;
    let right = "SELECT count(*) FROM readings WHERE level = seq AND speed = seq";
    assert_eq!(world.number(right).await, 2, "{}", daemon.log_tail());
}

/// The records name two tables, and a column of one table gets another type. Each table has its own plan, so the plan
/// of the other table stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_type_in_one_of_the_tables_that_records_name_gets_the_right_values() {
    let world = World::new(1).await;
    for region in ["a", "b"] {
        world.sql(&format!("CREATE TABLE readings_{region} (seq int, level int8)")).await;
    }
    let reading = |n: i32, region: &str| Record::new(format!(r#"{{"seq":{n},"region":"{region}","level":{n}}}"#)).to(0);
    let columns = "columns.seq.field = \"seq\"\ncolumns.level.field = \"level\"";
    let daemon = world.daemon(&world.config(&format!("table.name = \"readings_{{region}}\"\n{columns}")));
    world.produce([reading(1, "a"), reading(1, "b")]);
    world.await_written(&daemon).await;
    world.sql("ALTER TABLE readings_b ALTER level TYPE float8").await;
    world.produce([reading(2, "a"), reading(2, "b")]);
    world.await_written(&daemon).await;
    for region in ["a", "b"] {
        let right = format!("SELECT count(*) FROM readings_{region} WHERE level = seq");
        assert_eq!(world.number(&right).await, 2, "region {region}: {}", daemon.log_tail());
    }
}
