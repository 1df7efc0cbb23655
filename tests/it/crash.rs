//! A daemon ends at a random moment, at a chosen step of a write, or by a signal. Rows that were written stay. Records that
//! weren't written are read again, and no row is written twice.

use std::time::Duration;

use tidegate_harness::{Action, Proxy, Trigger};

use crate::accounting::{NUMBERED, await_metric, with_postgres, with_short_sessions};
use crate::support::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn killed_ten_times_at_random_moments_of_one_drain_it_loses_nothing_and_writes_nothing_twice() {
    const RECORDS: i32 = 1_000_000;
    let seed =
        std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(4).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..RECORDS, 4);
    // Batches are small, so that a write is in progress most of the time.
    let pipeline = "table.name = \"rides\"\nconsumers = 2\nbatch.max_rows = 4000\nflow.max_rows_per_second = 250_000";
    let mut at = 0;
    for kill in 1..=10 {
        let daemon = world.daemon(&with_short_sessions(&world.config(pipeline)));
        // About half of the kills happen while the daemon claims or begins to write. The others happen after the first commit.
        if random.bool() {
            daemon.await_log("assigned", PATIENCE).expect("the group gives it partitions");
        } else {
            await_metric(&daemon, "tidegate_rows_written_total", 1.0);
        }
        // This test is about random moments, so it waits for a time and not for an event.
        tokio::time::sleep(Duration::from_micros(random.u64(0..200_000))).await;
        daemon.kill().expect("it dies");
        let now = world.ledger().await;
        println!("kill {kill}: the ledger stands at {now}");
        assert!(now >= at, "the ledger never goes back");
        at = now;
    }
    assert!(at > 0 && at < i64::from(RECORDS), "the kills came in the middle of the drain: {at}");
    let (code, log) = world.drain(&with_short_sessions(&world.config("table.name = \"rides\"")));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(RECORDS.into()).await;
}

/// Kills a daemon while the proxy holds back the message that fires `trigger`. If `arrives` is true, the message then arrives.
async fn kill_at(world: &World, proxy: &Proxy, trigger: Trigger, arrives: bool) {
    let config = world.config_at(&world.database.url_at(proxy.addr()), "table.name = \"rides\"\nbatch.max_rows = 1000");
    let held = proxy.arm(trigger, Action::Hold);
    let daemon = world.daemon(&with_short_sessions(&with_postgres(&config, "idle_in_transaction_timeout = \"60s\"")));
    if let Err(error) = held.fired(PATIENCE).await {
        panic!("{error:#}; {}", daemon.log_tail());
    }
    daemon.kill().expect("it dies");
    if !arrives {
        proxy.cut();
    }
    held.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_write_it_resumes_at_the_ledgers_offset() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..20_000, 2);
    let proxy = Proxy::start_postgres(world.postgres.address()).expect("the proxy starts");
    let statement = |text: &str| Trigger::FrontendQueryContains(text.to_owned());
    let done = |tag: &str| Trigger::BackendCommandComplete(tag.to_owned());
    let steps = [
        (statement("SET claim_id"), true),
        (statement("COPY \"public\""), false),
        (Trigger::CopyData(2), false),
        (Trigger::CopyData(3), true),
        (done("COPY 1"), true),
        (statement("SELECT tidegate.advance"), false),
        (statement("COMMIT"), false),
        (statement("COMMIT"), true),
    ];
    for (trigger, arrives) in steps {
        kill_at(&world, &proxy, trigger, arrives).await;
    }
    let (code, log) = world.drain(&with_short_sessions(&world.config("table.name = \"rides\"")));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_in_the_middle_of_a_drain_it_writes_what_it_has_and_the_next_run_resumes() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100_000, 2);
    let pipeline = "table.name = \"rides\"\nbatch.max_rows = 3000\nflow.max_rows_per_second = 50_000";
    for interrupt in [false, true] {
        let daemon = world.daemon(&world.config(pipeline));
        await_metric(&daemon, "tidegate_rows_written_total", 5_000.0);
        let asked = if interrupt { daemon.interrupt() } else { daemon.terminate() };
        asked.expect("the signal is sent");
        let status = daemon.wait_exit(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
        let rows = world.number("SELECT count(*) FROM rides").await;
        assert_eq!(rows, world.ledger().await, "the ledger says what is in the table");
        assert!(rows < 100_000, "it was in the middle: {rows}");
    }
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(100_000).await;
}
