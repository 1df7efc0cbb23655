//! Daemons that are killed and started again. If the group protocol allows it, they get their partitions back at once, and no
//! other member loses any. In some tests the session timeout exceeds the deadlines, so nothing may wait for it.

use tidegate_harness::{Daemon, Kafka, KafkaSpec, eventually_async, shared};

use crate::group::{COLUMNS, Flow, TABLE, await_exact, await_shares, logs, numbered};
use crate::support::{PATIENCE, World};

/// Returns a configuration in which sessions last longer than any single wait of a test.
fn with_endless_sessions(world: &World, protocol: &str, pipeline: &str) -> String {
    let session = "kafka = { \"session.timeout.ms\" = 200_000 }";
    world.config(&format!("group_protocol = \"{protocol}\"\n{session}\n{pipeline}\n{COLUMNS}"))
}

fn named(name: &str, config: &str) -> String {
    format!("instance = \"{name}\"\n{config}")
}

/// Returns the claim ids of the partitions that `daemon` owns, as text.
async fn claims(world: &World, daemon: &Daemon) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(partition || ' ' || claim_id, ', ' ORDER BY partition), '') FROM tidegate.ledger
         WHERE owner LIKE '%-{}-%'",
        daemon.pid()
    );
    world.text(&sql).await
}

async fn a_killed_daemon_has_its_partitions_at_once(protocol: &str) {
    let world = World::new(6).await;
    world.sql(TABLE).await;
    let configs = [(); 3].map(|()| with_endless_sessions(&world, protocol, "consumers = 2"));
    let [one, two, dies] = configs.each_ref().map(|config| world.daemon(config));
    await_shares(&world, &world.name, &[&one, &two, &dies], &[1; 6]).await;
    let flow = Flow::start(world.kafka, &world.topic, 6);
    let others = (claims(&world, &one).await, claims(&world, &two).await);
    let mut again = dies;
    for _ in 0..3 {
        again.kill().expect("the daemon dies");
        again = world.daemon(&configs[2]);
        await_shares(&world, &world.name, &[&one, &two, &again], &[1; 6]).await;
    }
    assert_eq!((claims(&world, &one).await, claims(&world, &two).await), others, "the others keep theirs");
    // All daemons are killed at once, as in a power failure.
    let daemons = [one, two, again];
    for daemon in &daemons {
        daemon.kill().expect("the daemon dies");
    }
    let [one, two, three] = configs.each_ref().map(|config| world.daemon(config));
    await_shares(&world, &world.name, &[&one, &two, &three], &[1; 6]).await;
    await_exact(&world, flow.stop(), &[&one, &two, &three]).await;
    // After a restart, the group's leader rejoins under its static name. The broker doesn't tell this member that it is still the
    // leader. Nevertheless, the new partitions must be assigned.
    world.kafka.add_partitions(&world.topic, 12).expect("the topic grows");
    await_shares(&world, &world.name, &[&one, &two, &three], &[2; 6]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_daemons_have_their_partitions_at_once_under_the_cooperative_protocol() {
    a_killed_daemon_has_its_partitions_at_once("cooperative").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_daemons_have_their_partitions_at_once_under_the_eager_protocol() {
    a_killed_daemon_has_its_partitions_at_once("eager").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_end_leaves_its_partitions_to_the_others_at_once() {
    for protocol in ["cooperative", "eager"] {
        let world = World::new(4).await;
        world.sql(TABLE).await;
        let [stays, ends] = [(); 2].map(|()| world.daemon(&with_endless_sessions(&world, protocol, "")));
        await_shares(&world, &world.name, &[&stays, &ends], &[2, 2]).await;
        ends.drain(PATIENCE).expect("the daemon ends");
        await_shares(&world, &world.name, &[&stays], &[4]).await;
        world.produce(numbered(0, 4, 10));
        await_exact(&world, 40, &[&stays]).await;
        stays.drain(PATIENCE).expect("the daemon ends");
        let told = world.kafka.committed_offsets(&world.name, &world.topic).expect("Kafka answers");
        assert_eq!(told, [Some(10); 4], "{protocol}: the last commit is not lost by leaving");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_name_is_set_finds_its_partitions_after_a_planned_restart() {
    // With `consumer`, the broker sets the session timeout, which is longer than a restart takes.
    for protocol in ["cooperative", "eager", "consumer"] {
        let world = World::new(4).await;
        world.sql(TABLE).await;
        let config = |name: &str| match protocol {
            "consumer" => named(name, &world.config(&format!("group_protocol = \"consumer\"\n{COLUMNS}"))),
            _ => named(name, &with_endless_sessions(&world, protocol, "")),
        };
        let (stays, ends) = (world.daemon(&config("tidegate-0")), world.daemon(&config("tidegate-1")));
        await_shares(&world, &world.name, &[&stays, &ends], &[2, 2]).await;
        let kept = claims(&world, &stays).await;
        let flow = Flow::start(world.kafka, &world.topic, 4);
        ends.drain(PATIENCE).expect("the daemon ends");
        let again = world.daemon(&config("tidegate-1"));
        await_shares(&world, &world.name, &[&stays, &again], &[2, 2]).await;
        assert_eq!(claims(&world, &stays).await, kept, "{protocol}: the other one keeps its partitions");
        await_exact(&world, flow.stop(), &[&stays, &again]).await;
    }
}

/// While the broker is unavailable, the clients end their sessions. The consumers then join again under their names. The broker
/// refuses late requests of the earlier sessions. That must not look like a second daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_sessions_end_in_an_outage_keeps_its_names() {
    let kafka = crate::kafka_health::leak(Kafka::start(&KafkaSpec::single()).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 4).await;
    world.sql(TABLE).await;
    let session = "kafka = { \"session.timeout.ms\" = 6_000 }";
    let daemon = world.daemon(&world.config(&format!("consumers = 2\n{session}\n{COLUMNS}")));
    await_shares(&world, &world.name, &[&daemon], &[2, 2]).await;
    for round in 0..2 {
        let lost = |daemon: &Daemon| daemon.log().iter().filter(|line| line.contains("lost=true")).count();
        let before = lost(&daemon);
        kafka.kill(0).expect("the broker dies");
        daemon
            .await_until("both sessions end", PATIENCE, |daemon| lost(daemon) >= before + 2)
            .unwrap_or_else(|error| panic!("{error:#}"));
        kafka.start_again(0).expect("it starts again");
        await_shares(&world, &world.name, &[&daemon], &[2, 2]).await;
        world.produce(numbered(round * 40, 4, 10));
        await_exact(&world, (round + 1) * 40, &[&daemon]).await;
    }
    let taken_back = daemon.log().iter().filter(|line| line.contains("joins again under the same name")).count();
    println!("{taken_back} times a name was lost to an earlier session, and taken back");
    for accusation in ["another member joined", "joins without a name"] {
        assert!(!daemon.log().iter().any(|line| line.contains(accusation)), "{}", daemon.log_tail());
    }
}

/// Two daemons have the same name. Under the classic protocols, the second daemon takes it from the first. Under KIP-848, it
/// doesn't.
#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_with_one_name_are_told_and_share_the_partitions() {
    for protocol in ["cooperative", "eager", "consumer"] {
        let world = World::new(4).await;
        world.sql(TABLE).await;
        let config =
            || named("twin", &world.config(&format!("group_protocol = \"{protocol}\"\nconsumers = 2\n{COLUMNS}")));
        let first = world.daemon(&config());
        await_shares(&world, &world.name, &[&first], &[2, 2]).await;
        let flow = Flow::start(world.kafka, &world.topic, 4);
        let second = world.daemon(&config());
        let (loser, words) = match protocol {
            "consumer" => (&second, "the broker holds"),
            _ => (&first, "another member joined the group as"),
        };
        let line = loser.await_log(words, PATIENCE).expect("the loser of the name says so");
        assert!(line.contains("instance name `twin`, set `instance`"), "{line}");
        await_shares(&world, &world.name, &[&first, &second], &[1; 4]).await;
        for daemon in [&first, &second] {
            daemon.await_log("has the same instance name as this daemon", PATIENCE).expect("both are told");
        }
        await_exact(&world, flow.stop(), &[&first, &second]).await;
        let told = |daemon: &Daemon| daemon.log().iter().filter(|line| line.contains("joins without a name")).count();
        assert_eq!(
            told(&first) + told(&second),
            2,
            "{protocol}: each consumer gives way once\n{}",
            logs(&[&first, &second])
        );
    }
}

/// The broker keeps a dead member until its session times out. Until then no other member gets its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_flows_again_after_the_brokers_session_timeout_under_the_consumer_protocol() {
    for name in ["", "instance = \"tidegate-0\"\n"] {
        let world = World::new(4).await;
        world.sql(TABLE).await;
        let config = format!("{name}{}", world.config(&format!("group_protocol = \"consumer\"\n{COLUMNS}")));
        let dies = world.daemon(&config);
        await_shares(&world, &world.name, &[&dies], &[4]).await;
        let flow = Flow::start(world.kafka, &world.topic, 4);
        dies.kill().expect("the daemon dies");
        let again = world.daemon(&config);
        if !name.is_empty() {
            again.await_log("whose session has not timed out", PATIENCE).expect("it says why it has no name");
        }
        await_shares(&world, &world.name, &[&again], &[4]).await;
        await_exact(&world, flow.stop(), &[&again]).await;
    }
}

/// The broker gives a returning member its old assignment, even if the member now subscribes to other topics. The daemon must
/// still read the new topics.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_that_returns_with_other_topics_reads_those() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let other = format!("{}_other", world.topic);
    world.kafka.create_topic(&other, 1, &[]).expect("the topic is made");
    let config = world.config(&format!("kafka = {{ \"session.timeout.ms\" = 6000 }}\n{COLUMNS}"));
    let dies = world.daemon(&config);
    await_shares(&world, &world.name, &[&dies], &[1]).await;
    dies.kill().expect("the daemon dies");
    let both = format!("topics = [\"{}\", \"{other}\"]", world.topic);
    let again = world.daemon(&config.replace(&format!("topics = [\"{}\"]", world.topic), &both));
    world.kafka.produce(&other, numbered(0, 1, 10)).expect("Kafka takes the records");
    let arrived = eventually_async("the other topic is read", PATIENCE, async || {
        world.number("SELECT count(*) FROM rides").await == 10
    });
    arrived.await.unwrap_or_else(|error| panic!("{error}\n{}", again.log_tail()));
}
