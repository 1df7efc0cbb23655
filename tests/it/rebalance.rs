//! Partitions that move while records flow, under each group protocol: nothing is missing or written twice.

use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Record, eventually, eventually_async, unique_name};

use crate::cli::tidegate;
use crate::group::{COLUMNS, Flow, Intruder, TABLE, await_exact, await_shares, logs, numbered, pipeline};
use crate::support::{PATIENCE, World, in_tests};

/// The longest time without a write to a partition that moves in a graceful hand-over. The test prints the actual time.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_goes_and_dies_under_the_cooperative_protocol() {
    a_member_comes_goes_and_dies("cooperative").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_goes_and_dies_under_the_eager_protocol() {
    a_member_comes_goes_and_dies("eager").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_goes_and_dies_under_the_consumer_protocol() {
    a_member_comes_goes_and_dies("consumer").await;
}

async fn a_member_comes_goes_and_dies(protocol: &str) {
    let world = World::new(4).await;
    world.sql(TABLE).await;
    let config = || world.config(&pipeline(protocol));
    let stays = world.daemon(&config());
    await_shares(&world, &world.name, &[&stays], &[4]).await;
    let flow = Flow::start(world.kafka, &world.topic, 4);
    let before = now(&world).await;
    await_new_rows(&world, &[&stays]).await;
    await_new_rows(&world, &[&stays]).await;
    // Measure the usual time between two batches on this machine.
    let steady = standstill(&world, before, now(&world).await).await;

    let before = now(&world).await;
    let guest = world.daemon(&config());
    await_shares(&world, &world.name, &[&stays, &guest], &[2, 2]).await;
    await_new_rows(&world, &[&stays, &guest]).await;
    let joined = standstill(&world, before, now(&world).await).await;

    let before = now(&world).await;
    guest.terminate().expect("the daemon takes a signal");
    let ended = guest.wait_exit(PATIENCE).expect("the daemon ends");
    assert_eq!(ended.code(), Some(0), "{}", guest.log_tail());
    await_shares(&world, &world.name, &[&stays], &[4]).await;
    await_new_rows(&world, &[&stays, &guest]).await;
    let left = standstill(&world, before, now(&world).await).await;

    let second = world.daemon(&config());
    await_shares(&world, &world.name, &[&stays, &second], &[2, 2]).await;
    await_new_rows(&world, &[&stays, &second]).await;
    let before = now(&world).await;
    second.kill().expect("the daemon dies");
    await_shares(&world, &world.name, &[&stays], &[4]).await;
    await_new_rows(&world, &[&stays, &second]).await;
    let died = standstill(&world, before, now(&world).await).await;

    println!(
        "{protocol}: longest standstill of a partition: steady {steady:?}, join {joined:?}, leave {left:?}, death {died:?}"
    );
    let sent = flow.stop();
    await_exact(&world, sent, &[&stays, &guest, &second]).await;
    assert!(joined.max(left) < in_tests(HAND_OVER_MAX), "join {joined:?}, leave {left:?}");
}

async fn now(world: &World) -> String {
    world.text("SELECT clock_timestamp()::text").await
}

/// Waits until each of the four partitions has rows that were written after this call.
async fn await_new_rows(world: &World, daemons: &[&Daemon]) {
    let since = now(world).await;
    let sql = format!("SELECT count(DISTINCT part) FROM rides WHERE at > '{since}'");
    eventually_async("each partition flows", PATIENCE, async || world.number(&sql).await == 4)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", logs(daemons)));
}

/// Returns the longest time between two consecutive rows of the same partition. Only times that ended between
/// `from` and `to` count.
async fn standstill(world: &World, from: String, to: String) -> Duration {
    let milliseconds = world
        .number(&format!(
            "SELECT (extract(epoch FROM coalesce(max(gap), '0')) * 1000)::int8 FROM
                 (SELECT at - lag(at) OVER (PARTITION BY part ORDER BY at) AS gap, at FROM rides) AS gaps
             WHERE at BETWEEN '{from}' AND '{to}'"
        ))
        .await;
    Duration::from_millis(u64::try_from(milliseconds).expect("time goes forward"))
}

/// The table is locked while a batch with records of all partitions is being written. Before the batch can commit, half of the
/// partitions get another owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_partitions_are_claimed_by_another_commits_without_them() {
    let world = World::new(4).await;
    world.sql(TABLE).await;
    // Put all records into one batch, which then waits for the lock.
    let pipeline = pipeline("cooperative").replace("max_age = \"50ms\"", "max_rows = 400, max_age = \"3s\"");
    let slow = world.daemon(&world.config(&pipeline));
    await_shares(&world, &world.name, &[&slow], &[4]).await;
    let intruder = Intruder::hold(&world, "LOCK TABLE rides IN ACCESS EXCLUSIVE MODE").await;
    world.produce(numbered(0, 4, 100));
    slow.await_log("waiting for a lock", PATIENCE).expect("a COPY waits");
    let guest = world.daemon(&world.config(&pipeline));
    // Claims use only the ledger, so they don't wait for the table's lock.
    await_shares(&world, &world.name, &[&slow, &guest], &[2, 2]).await;
    intruder.release().await;
    await_exact(&world, 400, &[&slow, &guest]).await;
    let fenced = slow.metric("tidegate_fenced_total", &[]);
    assert_eq!(fenced, Some(2.0), "the two that moved are fenced\n{}", slow.log_tail());
    world.produce(numbered(400, 4, 25));
    await_exact(&world, 500, &[&slow, &guest]).await;
}

/// A second member joins and leaves while a backlog is drained. Partitions move to it and back. Each owner resumes at the right
/// offset.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_taken_and_given_back_within_a_drain_keep_flowing() {
    for protocol in ["eager", "cooperative"] {
        let world = World::new(4).await;
        world.sql(TABLE).await;
        world.produce(numbered(0, 4, 25_000));
        // The rate limit slows the drain down, so that it lasts longer than the second member stays.
        let pipeline = pipeline(protocol) + "\nflow = { max_rows_per_second = 12_000 }";
        let stays = world.daemon(&world.config(&pipeline));
        await_shares(&world, &world.name, &[&stays], &[4]).await;
        let guest = world.daemon(&world.config(&pipeline));
        await_shares(&world, &world.name, &[&stays, &guest], &[2, 2]).await;
        guest.terminate().expect("the daemon takes a signal");
        guest.wait_exit(PATIENCE).expect("the daemon ends");
        await_shares(&world, &world.name, &[&stays], &[4]).await;
        let written = world.number("SELECT count(*) FROM rides").await;
        assert!(written < 100_000, "{protocol}: the drain ended before the partitions came back");
        await_exact(&world, 100_000, &[&stays, &guest]).await;
    }
}

/// `start` applies only to partitions that exist at the first start. No record of a later partition may be skipped.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_later_are_read_from_their_beginning() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    world.produce(numbered(-10, 1, 10));
    let daemon = world.daemon(&world.config(&format!("start = \"latest\"\n{COLUMNS}")));
    await_shares(&world, &world.name, &[&daemon], &[1]).await;
    world.kafka.add_partitions(&world.topic, 3).expect("the topic grows");
    // Produce before the daemon can know of the new partitions.
    world.produce(numbered(0, 3, 50));
    eventually_async("all records arrive", PATIENCE, async || world.number("SELECT count(*) FROM rides").await >= 150)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_tail()));
    await_shares(&world, &world.name, &[&daemon], &[3]).await;
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 150);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides WHERE id BETWEEN 0 AND 149").await, 150);
    assert_eq!(world.number("SELECT sum(next_offset)::int8 FROM tidegate.ledger").await, 160);
}

/// Two members get new partitions at the same moment, and both find that the new partitions have no ledger rows.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_two_members_add_at_once_are_lost_to_nobody() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    let [one, two] = [(); 2].map(|()| world.daemon(&world.config(COLUMNS)));
    await_shares(&world, &world.name, &[&one, &two], &[1, 1]).await;
    let intruder = Intruder::hold(&world, "SELECT FROM tidegate.pipeline FOR NO KEY UPDATE").await;
    world.kafka.add_partitions(&world.topic, 6).expect("the topic grows");
    world.produce(numbered(0, 6, 20));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually_async("both wait to add rows", PATIENCE, async || world.number(waiting).await == 2)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", logs(&[&one, &two])));
    intruder.release().await;
    await_shares(&world, &world.name, &[&one, &two], &[3, 3]).await;
    await_exact(&world, 120, &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_topic_that_the_pattern_matches_is_picked_up_from_its_beginning() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let pattern = format!("start = \"latest\"\n{COLUMNS}");
    let config = world
        .config(&pattern)
        .replace(&format!("topics = [\"{}\"]", world.topic), &format!("topic_pattern = \"^{}.*\"", world.topic));
    let daemon = world.daemon(&config);
    await_shares(&world, &world.name, &[&daemon], &[1]).await;
    let started = Instant::now();
    let later = format!("{}_later", world.topic);
    world.kafka.create_topic(&later, 2, &[]).expect("the topic is made");
    world.kafka.produce(&later, numbered(0, 2, 50)).expect("Kafka takes the records");
    world.produce(numbered(100, 1, 10));
    eventually_async("all records arrive", PATIENCE, async || world.number("SELECT count(*) FROM rides").await >= 110)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_tail()));
    println!("a new topic was picked up after {:?}", started.elapsed());
    // A consumer publishes its partitions only every 250 ms, perhaps after the rows are visible. So wait for both.
    await_shares(&world, &world.name, &[&daemon], &[3]).await;
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 110);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides WHERE id BETWEEN 0 AND 109").await, 110);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_topic_that_another_pipeline_writes_into_the_same_table_stops_the_pattern_only() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let later = format!("{}_later", world.topic);
    world.kafka.create_topic(&later, 1, &[]).expect("the topic is made");
    world.kafka.produce(&later, numbered(0, 1, 50)).expect("Kafka takes the records");
    let topics = format!("topics = [\"{}\"]", world.topic);
    let of = |topics_line: &str, name: &str| {
        world.config(COLUMNS).replace(&topics, topics_line).replace(&world.name, &unique_name(name))
    };
    let pattern = of(&format!("topic_pattern = \"^{}(_.*)?$\"", world.topic), "pattern");
    let first = pattern.replace("(_.*)?", "");
    let (code, log) = world.drain(&first);
    assert_eq!(code, Some(0), "{log}");
    let (code, log) = world.drain(&of(&format!("topics = [\"{later}\"]"), "single"));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 50);

    let (code, log) = world.drain(&pattern);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains(&format!("topic `{later}` is new in pipeline `")), "{log}");
    assert!(log.contains("so the table would have every record twice"), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 50, "no record is written twice");
}

/// A Java consumer offers `range` and `cooperative-sticky`. While it is alone, its group uses `range`. Our consumers offer only
/// `cooperative-sticky`. The group accepts them, because the Java consumer offers it too, and changes to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_java_consumer_with_its_defaults_shares_a_group_under_both_classic_protocols() {
    let world = World::new(2).await;
    world.sql(TABLE).await;
    let topic = format!("{}_other", world.topic);
    world.kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
    let _member = world.kafka.java_consumer(&world.name, &topic).expect("the consumer starts");
    let config = |protocol: &str| world.config(&pipeline(protocol));
    let joined = || {
        let report = tidegate(&config("cooperative"), &["check", "--json"]).json();
        report["pipelines"][0]["kafka"]["group_state"] == "Stable"
    };
    eventually("the consumer is in the group", PATIENCE, joined).expect("it joins");
    let checked = tidegate(&config("cooperative"), &["check"]);
    for words in ["share the partitions by `range`", "which only a join shows", "group_protocol = \"eager\""] {
        assert!(checked.out.contains(words), "{checked}");
    }
    tidegate(&config("eager"), &["check"]).ok();
    for (n, protocol) in (1..).zip(["cooperative", "eager"]) {
        world.produce((0..2).map(|part| Record::new(format!(r#"{{"id":{n}}}"#)).to(part)));
        let (code, log) = world.drain(&config(protocol));
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(world.number("SELECT count(*) FROM rides").await, 2 * n, "{log}");
    }
}
