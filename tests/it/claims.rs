//! Locks of other sessions. A claim or a COPY waits a minute for a lock. Only the claim's partition or the COPY's pipeline is
//! delayed. The members stay in their group, although the minute is longer than a member's session timeout.

use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, eventually_async};

use crate::group::{COLUMNS, Flow, Intruder, PROTOCOLS, TABLE, await_exact, logs, numbered, owned_by, pipeline};
use crate::support::{PATIENCE, World};

/// Longer than librdkafka's default session timeout of 45 s.
const LOCKED_FOR: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_takes_a_minute_keeps_its_group_under_each_protocol() {
    let [cooperative, eager, consumer] = PROTOCOLS.map(a_claim_takes_a_minute);
    // Run all three protocols at the same time, so that the test takes one minute and not three.
    tokio::join!(cooperative, eager, consumer);
}

async fn a_claim_takes_a_minute(protocol: &str) {
    let world = World::new(4).await;
    world.sql(TABLE).await;
    world.produce(numbered(0, 4, 5));
    let config = world.config(&pipeline(protocol));
    // The first run leaves an offset in each partition, from which the second must resume.
    let first = world.daemon(&config);
    await_exact(&world, 20, &[&first]).await;
    first.terminate().expect("the daemon takes a signal");
    first.wait_exit(PATIENCE).expect("the daemon ends");
    let claimed_at = world.number("SELECT next_offset FROM tidegate.ledger WHERE partition = 1").await;
    let intruder = Intruder::hold(&world, "SELECT FROM tidegate.ledger WHERE partition = 1 FOR UPDATE").await;
    let daemon = world.daemon(&config);
    let flow = Flow::start_from(world.kafka, &world.topic, 4, 20);
    eventually_async("the other partitions are claimed", PATIENCE, async || claims_open(&daemon) == 1)
        .await
        .unwrap_or_else(|error| panic!("{protocol}: {error}\n{}", daemon.log_tail()));
    let rebalances = daemon.metric("tidegate_rebalances_total", &[]);
    assert!(rebalances.is_some_and(|count| count > 0.0), "{protocol}: {rebalances:?}");

    let started = Instant::now();
    let mut rows_before = world.number(OTHERS).await;
    while started.elapsed() < LOCKED_FOR {
        let mut rows = rows_before;
        eventually_async("the other partitions flow", PATIENCE, async || {
            rows = world.number(OTHERS).await;
            rows > rows_before
        })
        .await
        .unwrap_or_else(|error| panic!("{protocol}: {error}\n{}", daemon.log_tail()));
        rows_before = rows;
        assert_eq!(daemon.metric("tidegate_rebalances_total", &[]), rebalances, "{protocol}: the group moved");
        assert_eq!(world.number(LOCKED).await, claimed_at, "{protocol}: written without a claim");
    }
    let readyz = daemon.get("/readyz").expect("the daemon answers");
    assert_eq!(readyz.status, 503, "{protocol}: {}", readyz.body);
    assert!(readyz.body.contains("/1 is claiming"), "{protocol}: {}", readyz.body);
    let named = daemon.log().iter().any(|line| line.contains("lock") && line.contains(Intruder::NAME));
    assert!(named, "{protocol}: nobody says who holds the lock\n{}", daemon.log_tail());

    intruder.release().await;
    let released = Instant::now();
    eventually_async("the claim is granted", PATIENCE, async || world.number(LOCKED).await > claimed_at)
        .await
        .unwrap_or_else(|error| panic!("{protocol}: {error}\n{}", daemon.log_tail()));
    println!("{protocol}: the partition flows {:?} after its lock was released", released.elapsed());
    assert_eq!(
        world.number("SELECT min(src) FROM rides WHERE part = 1 AND id >= 20").await,
        claimed_at,
        "{protocol}: consumption begins where the claim says"
    );
    let sent = flow.stop();
    await_exact(&world, sent, &[&daemon]).await;
    assert_eq!(daemon.metric("tidegate_rebalances_total", &[]), rebalances, "{protocol}: the group moved");
}

const OTHERS: &str = "SELECT count(*) FROM rides WHERE part <> 1";
const LOCKED: &str = "SELECT count(*) FROM rides WHERE part = 1";

/// Returns how many partitions of a daemon wait for their claim. Returns 0 unless the daemon owns exactly three others.
fn claims_open(daemon: &Daemon) -> usize {
    let Ok(status) = daemon.status_json() else { return 0 };
    let partitions = status["pipelines"][0]["consumers"][0]["partitions"].as_array().cloned().unwrap_or_default();
    let owned = partitions.iter().filter(|partition| partition["state"] == "owned").count();
    if owned == 3 { partitions.len() - owned } else { 0 }
}

/// While a claim waits for a lock, its partition moves to another member. So the claim is obsolete. When the lock is released,
/// the claim must not take the partition from its new owner.
#[tokio::test(flavor = "multi_thread")]
async fn an_obsolete_claim_fences_nobody() {
    let world = World::new(4).await;
    world.sql(TABLE).await;
    world.produce(numbered(0, 4, 5));
    let config = world.config(&pipeline("cooperative"));
    let first = world.daemon(&config);
    await_exact(&world, 20, &[&first]).await;
    first.terminate().expect("the daemon takes a signal");
    first.wait_exit(PATIENCE).expect("the daemon ends");
    let intruder = Intruder::hold(&world, "SELECT FROM tidegate.ledger FOR UPDATE").await;
    let waits = world.daemon(&config);
    waits.await_log("waiting for a lock", PATIENCE).expect("a claim waits");
    let joins = world.daemon(&world.config(&pipeline("cooperative")));
    joins.await_log("waiting for a lock", PATIENCE).expect("its claims wait too");
    intruder.release().await;
    let both = [&waits, &joins];
    crate::group::await_shares(&world, &world.name, &both, &[2, 2]).await;
    world.produce(numbered(20, 4, 5));
    await_exact(&world, 40, &both).await;
    for daemon in both {
        let fenced = daemon.metric("tidegate_fenced_total", &[]).unwrap_or(0.0);
        assert!(fenced < 1.0, "{fenced} batches were fenced\n{}", logs(&both));
    }
}

/// Three pipelines read one topic. The table of one of them is locked for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_holds_up_its_own_pipeline_and_no_other() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    world.sql("CREATE TABLE left_alone (id bigint); CREATE TABLE left_alone_too (id bigint)").await;
    let [second, third] = ["second", "third"].map(|suffix| format!("{}_{suffix}", world.name));
    let topics = format!("topics = [\"{}\"]", world.topic);
    let daemon = world.daemon(&world.config(&format!(
        "{COLUMNS}\n[pipelines.{second}]\n{topics}\ntable.name = \"left_alone\"\n\
         [pipelines.{third}]\n{topics}\ntable.name = \"left_alone_too\""
    )));
    daemon.await_ready(PATIENCE).expect("the daemon is ready");
    let flow = Flow::start(world.kafka, &world.topic, 2);
    let rows = |table: &str| format!("SELECT count(*) FROM {table}");
    eventually_async("all three flow", PATIENCE, async || world.number(&rows("rides")).await > 0)
        .await
        .expect("the first pipeline flows");
    let rebalances = daemon.metric("tidegate_rebalances_total", &[]);
    let intruder = Intruder::hold(&world, "LOCK TABLE rides IN ACCESS EXCLUSIVE MODE").await;

    let started = Instant::now();
    let mut before = [0, 0];
    let mut lag_max = 0.0_f64;
    while started.elapsed() < LOCKED_FOR {
        let mut now = before;
        eventually_async("the other two flow", PATIENCE, async || {
            now = [world.number(&rows("left_alone")).await, world.number(&rows("left_alone_too")).await];
            now[0] > before[0] && now[1] > before[1]
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_tail()));
        before = now;
        for pipeline in [&second, &third] {
            let lag = daemon.metric("tidegate_lag_records", &[("pipeline", pipeline)]).unwrap_or(0.0);
            lag_max = lag_max.max(lag);
        }
    }
    println!("largest lag of the pipelines beside the locked one: {lag_max} records");
    // After the minute, the locked pipeline has a large lag. The others have a lag of one or two batches.
    let behind = daemon.metric("tidegate_lag_records", &[("pipeline", &world.name)]).unwrap_or(0.0);
    assert!(5.0 * lag_max < behind, "{lag_max} records behind beside {behind}\n{}", daemon.log_tail());
    let readyz = daemon.get("/readyz").expect("the daemon answers");
    assert_eq!(readyz.status, 503, "{}", readyz.body);
    assert!(readyz.body.contains(&format!("{} is waiting", world.name)), "{}", readyz.body);
    assert!(readyz.body.contains(Intruder::NAME), "the holder of the lock is named: {}", readyz.body);
    for other in [&second, &third] {
        assert!(!readyz.body.contains(other.as_str()), "{other} doesn't wait: {}", readyz.body);
    }
    assert_eq!(owned_by(&daemon, &world.name), 2, "the locked pipeline keeps its partitions");
    assert_eq!(daemon.metric("tidegate_rebalances_total", &[]), rebalances, "no group moved");

    intruder.release().await;
    let sent = flow.stop();
    eventually_async("the locked one catches up", PATIENCE, async || world.number(&rows("rides")).await >= sent)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_tail()));
    for table in ["rides", "left_alone", "left_alone_too"] {
        eventually_async("all arrive", PATIENCE, async || world.number(&rows(table)).await >= sent)
            .await
            .unwrap_or_else(|error| panic!("{table}: {error}\n{}", daemon.log_tail()));
        assert_eq!(world.number(&rows(table)).await, sent, "{table}");
        assert_eq!(world.number(&format!("SELECT count(DISTINCT id) FROM {table}")).await, sent, "{table}");
    }
    daemon.await_ready(PATIENCE).expect("the daemon is ready again");
    assert_eq!(daemon.metric("tidegate_rebalances_total", &[]), rebalances, "no group moved");
}
