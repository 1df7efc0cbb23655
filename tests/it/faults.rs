//! Faults that users of other Kafka sinks reported, with one test each. Some of these tests are in other files, with related
//! tests.

use sqlx::Executor;
use tidegate_harness::{Daemon, Kafka, KafkaSpec, Record, eventually_async, shared, usage};

use crate::accounting::{NUMBERED, SHORT_DEADLINES, await_metric, counted, numbered, with_limits, with_postgres};
use crate::group::{COLUMNS, TABLE, await_shares, logs};
use crate::support::{PATIENCE, World};

const TO_RIDES: &str = "table.name = \"rides\"";
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_a_key_or_a_header_follows_the_column_s_policy() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq int, id text, mark text)").await;
    let mapping = format!(
        "{TO_RIDES}\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\nseq = \"seq\"\nid = {{ meta = \"key\", nul = \"strip\" }}\n\
         mark = {{ header = \"mark\", nul = \"replace\" }}",
        world.name
    );
    world.produce([Record::new(r#"{"seq":1}"#).key(*b"a\0b").header("mark", *b"c\0d").to(0)]);
    let (code, log) = world.drain(&world.config(&mapping));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT id || ' ' || mark FROM rides").await, "ab c\u{fffd}d");
    let untold = mapping.replace(", nul = \"strip\"", "").replace(", nul = \"replace\"", "");
    world.produce([
        Record::new(r#"{"seq":2}"#).key(*b"a\0b").to(0),
        Record::new(r#"{"seq":3}"#).header("mark", *b"c\0d").to(0),
        Record::new(r#"{"seq":4}"#).key("fine").to(0),
    ]);
    let (code, log) = world.drain(&world.config(&untold));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT sum(seq)::int8 FROM rides").await, 5);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE reason = 'nul_in_text'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_50_mb_goes_through_between_small_ones() {
    const LIMIT: u64 = 512 << 20;
    let mut world = World::new(1).await;
    world.topic = format!("{}_huge", world.topic);
    world
        .kafka
        .create_topic(&world.topic, 1, &[("max.message.bytes", "62914560"), ("segment.bytes", "134217728")])
        .expect("the topic is made");
    world.sql("CREATE TABLE rides (seq bigint, pad text)").await;
    let pad = |seq: i32| if seq == 500 { 50_000_000 } else { 100 };
    world.produce(
        (0..1000).map(|seq| Record::new(format!(r#"{{"seq":{seq},"pad":"{}"}}"#, "x".repeat(pad(seq)))).to(0)),
    );
    let daemon = world.daemon(&with_limits(&world.config(TO_RIDES), "memory = \"512MiB\""));
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 1000);
    assert_eq!(world.number("SELECT max(length(pad))::int8 FROM rides").await, 50_000_000);
    let peak = usage::peak_rss_bytes(daemon.pid()).expect("it lives");
    assert!(peak <= LIMIT, "peak RSS {} MiB", peak >> 20);
}

/// Another session inserts the keys of two of our rows in the opposite order, which causes a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_retried_and_nothing_is_dead_lettered() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint PRIMARY KEY, name text)").await;
    world.produce((0..1000).map(|n| numbered(n, 1)));
    let mut other = world.connect().await;
    // The other session's `deadlock_timeout` is long, so our session detects the deadlock, after a second.
    let begun = "SET deadlock_timeout = '30s'; BEGIN; INSERT INTO rides VALUES (900, 'theirs')";
    other.execute(begun).await.expect("it inserts");
    let daemon = world.daemon(&world.config(TO_RIDES));
    eventually_async("our COPY waits for the key", PATIENCE, async || world.number(WAITING).await > 0)
        .await
        .unwrap_or_else(|error| panic!("{error}; {}", daemon.log_tail()));
    let theirs = "INSERT INTO rides VALUES (0, 'theirs')";
    other.execute(theirs).await.unwrap_or_else(|error| panic!("ours gives way: {error}; {}", daemon.log_tail()));
    let retried = |daemon: &Daemon| daemon.metric("tidegate_retries_total", &[("sqlstate_class", "40")]);
    daemon.await_until("a deadlock", PATIENCE, |daemon| retried(daemon).unwrap_or(0.0) >= 1.0).expect("it is counted");
    other.execute("ROLLBACK").await.expect("it lets go");
    world.await_written(&daemon).await;
    world.assert_exact(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_a_copy_failed_is_reused_or_closed() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint CHECK (seq <> 7), pid int DEFAULT pg_backend_pid())").await;
    let mapping = format!("{TO_RIDES}\n[pipelines.{}.columns]\nseq = \"seq\"", world.name);
    let daemon = world.daemon(&world.config(&mapping));
    for round in 0..3 {
        world.produce((round * 10..round * 10 + 10).map(|seq| Record::new(format!(r#"{{"seq":{seq}}}"#)).to(0)));
        world.await_written(&daemon).await;
    }
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 29);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 1);
    assert_eq!(world.number("SELECT count(DISTINCT pid) FROM rides").await, 1, "the connection was clean, and stayed");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    eventually_async("no transaction is left open", PATIENCE, async || world.number(left).await == 0)
        .await
        .expect("all are ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_slower_than_the_poll_interval_evicts_nobody() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let kafka = "kafka = { \"max.poll.interval.ms\" = 6000, \"session.timeout.ms\" = 6000 }";
    // Batches are small. So the open batch is full, and more records wait in Kafka.
    let config = world.config(&format!("batch = {{ max_rows = 500 }}\n{kafka}\n{TO_RIDES}"));
    let config = with_limits(&with_postgres(&config, SHORT_DEADLINES), "drain_timeout = \"5s\"\nclaim_grace = \"3s\"");
    let daemon = world.daemon(&config);
    daemon.await_ready(PATIENCE).expect("it is ready");
    let rebalances = counted(&daemon, "tidegate_rebalances_total");
    let mut holder = world.connect().await;
    holder.execute("BEGIN; LOCK TABLE rides").await.expect("it locks");
    world.produce_numbered(0..20_000, 2);
    // Wait for more than three poll intervals, by the server's clock.
    let since = world.number("SELECT extract(epoch FROM clock_timestamp())::int8").await;
    eventually_async("three poll intervals pass", PATIENCE, async || {
        world.number("SELECT extract(epoch FROM clock_timestamp())::int8").await > since + 20
    })
    .await
    .expect("time passes");
    assert_eq!(counted(&daemon, "tidegate_rebalances_total"), rebalances, "{}", daemon.log_tail());
    assert!(counted(&daemon, "tidegate_paused_partitions") > 0.0, "fetching is paused, polling is not");
    holder.execute("COMMIT").await.expect("it lets go");
    world.await_written(&daemon).await;
    world.assert_exact(20_000).await;
    assert_eq!(counted(&daemon, "tidegate_rebalances_total"), rebalances, "{}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..10_000, 2);
    kafka.stop(0).expect("it stops");
    let daemon = world.daemon(&world.config(TO_RIDES));
    daemon.await_log("can't start yet", PATIENCE).expect("it says what it waits for");
    let ready = daemon.get("/readyz").expect("it answers");
    assert!(ready.status == 503 && ready.body.contains("Kafka"), "{}", ready.body);
    assert_eq!(daemon.get("/healthz").expect("it answers").status, 200, "the process lives");
    kafka.start_again(0).expect("it starts again");
    world.await_written(&daemon).await;
    world.assert_exact(10_000).await;
    daemon.await_ready(PATIENCE).expect("it is ready");
}

/// After good records come only records without rows: tombstones, skipped records and bad records. While the good records aren't
/// written, the ledger must not advance past the later records.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_passes_records_without_rows_only_when_all_before_them_are_written() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let skips = format!("where = {{ field = \"seq\", less = 100 }}\ndead_letters.max_share = 1.0\n{TO_RIDES}");
    let daemon = world.daemon(&with_postgres(&world.config(&skips), SHORT_DEADLINES));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let mut holder = world.connect().await;
    holder.execute("BEGIN; LOCK TABLE rides").await.expect("it locks");
    world.produce_numbered(0..100, 1);
    await_metric(&daemon, "tidegate_records_consumed_total", 100.0);
    world.produce_numbered(100..150, 1);
    world.produce([Record::tombstone().key("gone").to(0), Record::new("{").to(0)]);
    await_metric(&daemon, "tidegate_records_consumed_total", 152.0);
    await_metric(&daemon, "tidegate_retries_total", 2.0);
    assert_eq!(world.ledger().await, 0, "the position waits for what is below it");
    let committed = |world: &World| world.kafka.committed_offsets(&world.name, &world.topic).expect("Kafka answers")[0];
    assert!(committed(&world).is_none_or(|offset| offset == 0), "and so does Kafka's");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
    holder.execute("COMMIT").await.expect("it lets go");
    world.await_ledger(&daemon, 152).await;
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 100);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 2);
    eventually_async("Kafka's offset follows", PATIENCE, async || committed(&world) == Some(152))
        .await
        .expect("it does");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lag_is_shown_for_records_that_another_member_has_written() {
    let world = World::new(4).await;
    world.sql(TABLE).await;
    let stays = world.daemon(&world.config(COLUMNS));
    await_shares(&world, &world.name, &[&stays], &[4]).await;
    let guest = world.daemon(&world.config(COLUMNS));
    let both = [&stays, &guest];
    await_shares(&world, &world.name, &both, &[2, 2]).await;
    world.produce(crate::group::numbered(0, 4, 500));
    crate::group::await_exact(&world, 2000, &both).await;
    for daemon in both {
        let calm = |daemon: &Daemon| {
            daemon.metric("tidegate_lag_records", &[]) == Some(0.0)
                && daemon.metric("tidegate_lag_seconds", &[]) == Some(0.0)
                && daemon.metric("tidegate_assigned_partitions", &[]) == Some(2.0)
        };
        daemon
            .await_until("no lag is shown", PATIENCE, calm)
            .unwrap_or_else(|error| panic!("{error}\n{}", logs(&both)));
    }
}

/// A suspended daemon holds the lock of its migration. The cause may be SIGSTOP, or a paused machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_stopped_while_it_migrated_holds_up_no_other() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 1);
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    let mut stopped = world.connect().await;
    let lock = format!("SELECT pg_advisory_lock({})", i64::from_be_bytes(*b"tidegate"));
    stopped.execute(lock.as_str()).await.expect("the lock is taken");
    world.produce_numbered(100..200, 1);
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(200).await;
}
