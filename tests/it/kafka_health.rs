//! Kafka is unavailable, silent or denies access. Soon after the fault begins, `/metrics` shows the state, and `/readyz`, the
//! page and the log also name the cause. When the fault ends, the state becomes normal again.

use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Kafka, KafkaSpec, Proxy, fetch, shared};

use crate::accounting::{NUMBERED, counted};
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, in_tests};

/// The longest time from the beginning of a fault until the daemon shows it.
const SEEN: Duration = Duration::from_secs(15);
/// The longest time from the end of a fault until the state is normal. The daemon's clients wait up to 2 s between two connection
/// attempts.
const OVER: Duration = Duration::from_secs(15);

fn tool(kafka: &Kafka, class: &str, arguments: &[&str]) {
    let jars = fetch::kafka().expect("Kafka is here");
    let run = Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-cp", &jars.classpath(), class, "--bootstrap-server"])
        .arg(kafka.bootstrap_servers().split(',').next().expect("a broker"))
        .args(arguments)
        .output()
        .expect("java runs");
    assert!(run.status.success(), "{class} {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

pub(crate) fn acl(kafka: &Kafka, arguments: &[&str]) {
    tool(kafka, "org.apache.kafka.tools.AclCommand", arguments);
}

pub(crate) fn leak(kafka: Kafka) -> &'static Kafka {
    Box::leak(Box::new(kafka))
}

pub(crate) async fn world_behind(kafka: Kafka) -> World {
    let world = World::on(leak(kafka), shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    world
}

pub(crate) fn config(world: &World, servers: &str, properties: &str) -> String {
    let config = world.config("table.name = \"rides\"");
    let config = config.replacen(&format!("\"{}\"", world.kafka.bootstrap_servers()), &format!("\"{servers}\""), 1);
    config.replacen("[postgres]", &format!("[kafka.properties]\n{properties}\n[postgres]"), 1)
}

pub(crate) fn waits(daemon: &Daemon) -> bool {
    daemon.metric("tidegate_pipeline_state", &[("state", "waiting_for_kafka")]) == Some(1.0)
}

/// Waits until `/metrics` says that the daemon waits for Kafka and `/readyz` contains these words. Checks that the page and
/// the log contain them too.
#[track_caller]
fn waits_and_says(daemon: &Daemon, words: &[&str]) {
    let began = Instant::now();
    let ready = || daemon.get("/readyz").expect("it answers");
    let says = |daemon: &Daemon| waits(daemon) && words.iter().all(|word| ready().body.contains(word));
    if let Err(error) = daemon.await_until(&format!("it waits for Kafka and says {words:?}"), in_tests(SEEN), says) {
        panic!("{error:#}\n/readyz: {}", ready().body);
    }
    println!("waiting for Kafka, with the cause, after {:?}", began.elapsed());
    assert_eq!(ready().status, 503, "{}", ready().body);
    let status = daemon.status_json().expect("a status");
    let sentence = status["sentences"][0]["text"].as_str().expect("a sentence");
    assert_eq!(status["pipelines"][0]["state_words"], "waiting for Kafka");
    assert!(words.iter().all(|word| sentence.contains(word)), "the page: {sentence}");
    let logged = |line: &String| line.contains("waiting for Kafka") && words.iter().all(|word| line.contains(word));
    daemon.await_until("the log says so", PATIENCE, |daemon| daemon.log().iter().any(logged)).expect("a line");
}

/// Waits until the daemon no longer waits for Kafka, and checks that it logs this. Then produces the other half of the records,
/// and checks that the table has each record once.
async fn flows_again(world: &World, daemon: &Daemon, records: i32) {
    let ended = Instant::now();
    daemon.await_until("it doesn't wait any more", in_tests(OVER), |daemon| !waits(daemon)).expect("it is over");
    println!("over after {:?}", ended.elapsed());
    daemon.await_log("Kafka serves again", PATIENCE).expect("the log says so");
    daemon.await_ready(PATIENCE).expect("it is ready");
    world.produce_numbered(records / 2..records, 2);
    world.await_written(daemon).await;
    world.assert_exact(records.into()).await;
}

async fn flowing(world: &World, config: &str, records: i32) -> Daemon {
    world.produce_numbered(0..records / 2, 2);
    let daemon = world.daemon(config);
    world.await_written(&daemon).await;
    daemon.await_ready(PATIENCE).expect("it is ready");
    // No records arrive any more. An idle topic is not an outage.
    daemon.await_until("the lag is read", PATIENCE, lag_is_known).expect("it is read");
    assert!(!waits(&daemon), "an idle topic is no outage");
    daemon
}

fn lag_is_known(daemon: &Daemon) -> bool {
    daemon.metric("tidegate_lag_records", &[]).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_waited_for_by_name_and_what_is_not_known_is_absent() {
    let kafka = Kafka::start(&KafkaSpec::single()).expect("Kafka starts");
    let world = world_behind(kafka).await;
    let servers = world.kafka.bootstrap_servers();
    let daemon = flowing(&world, &config(&world, servers, ""), 2_000).await;
    world.kafka.kill(0).expect("it dies");
    waits_and_says(&daemon, &[servers, "the connection is refused", "start Kafka there"]);
    daemon
        .await_until("the lag is withdrawn", in_tests(SEEN), |daemon| !lag_is_known(daemon))
        .expect("nobody knows it");
    // Later requests have failed too. `/readyz` must still name the first cause.
    let ready = daemon.get("/readyz").expect("it answers");
    assert!(ready.body.contains("the connection is refused"), "{}", ready.body);
    let age = counted(&daemon, "tidegate_lag_reading_age_seconds");
    assert!(age >= 5.0, "the reading is {age} s old");
    let refused = |daemon: &Daemon| daemon.log().iter().filter(|line| line.contains("refused")).count();
    assert!(refused(&daemon) <= 6, "a line is said once a minute: {}", daemon.log_tail());
    world.kafka.start_again(0).expect("it starts again");
    flows_again(&world, &daemon, 2_000).await;
    daemon.await_until("the lag is read", PATIENCE, lag_is_known).expect("it is read");
}

/// If the brokers don't offer the protocol `consumer`, librdkafka repeats its request to the group's coordinator for
/// ever, and reports nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_the_consumer_protocol_is_named_by_check_and_by_run() {
    let world = world_behind(Kafka::start(&KafkaSpec::of_version("3.9.1")).expect("Kafka starts")).await;
    let servers = world.kafka.bootstrap_servers();
    world.produce_numbered(0..500, 2);
    let words = [servers, "does not offer `group_protocol = \"consumer\"`", "upgrade all brokers to Kafka 4.0"];
    let config = world.config("table.name = \"rides\"\ngroup_protocol = \"consumer\"");
    tidegate(&config, &["check"]).fails(64, &words);
    let daemon = world.daemon(&config);
    waits_and_says(&daemon, &words);
    drop(daemon);
    let (code, log) = world.drain(&world.config("table.name = \"rides\"\ngroup_protocol = \"cooperative\""));
    assert_eq!(code, Some(0), "the remedy: {log}");
    world.assert_exact(500).await;
}

/// Kafka 4 has two switches for the protocol `consumer`: a setting of the brokers, and a feature. `check` and
/// `run` name both switches.
#[tokio::test(flavor = "multi_thread")]
async fn a_switched_off_consumer_protocol_stops_the_pipeline_with_its_remedy() {
    let protocols = KafkaSpec::single().property("group.coordinator.rebalance.protocols", "classic");
    for (spec, is_downgraded) in [(protocols, false), (KafkaSpec::single(), true)] {
        let world = world_behind(Kafka::start(&spec).expect("Kafka starts")).await;
        if is_downgraded {
            let downgrade = ["downgrade", "--feature", "group.version=0"];
            tool(world.kafka, "org.apache.kafka.tools.FeatureCommand", &downgrade);
        }
        let config = world.config("table.name = \"rides\"\ngroup_protocol = \"consumer\"");
        let words = [
            world.kafka.bootstrap_servers(),
            "does not offer `group_protocol = \"consumer\"`",
            "or has the protocol switched off",
            "`kafka-features upgrade --feature group.version=1`",
            "`group.coordinator.rebalance.protocols`",
        ];
        // A broker says that it supports the protocol's requests even if the protocol is switched off. So `check` reads the
        // setting. It can't see the feature's version.
        if is_downgraded {
            tidegate(&config, &["check"]).ok().says(&["shows only a join", words[3], words[4]]);
        } else {
            tidegate(&config, &["check"]).fails(64, &words);
        }
        let daemon = world.daemon(&config);
        assert_eq!(daemon.wait_exit(PATIENCE).expect("it ends").code(), Some(70));
        let log = daemon.log().join("\n");
        assert!(words.iter().all(|words| log.contains(words)), "{log}");
    }
}

/// The broker accepts connections and never answers. No connection fails, so its silence is the only sign.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_waited_for() {
    let (kafka, proxies) = Kafka::start_behind_proxies(&KafkaSpec::single()).expect("Kafka starts");
    let world = world_behind(kafka).await;
    let servers = proxies[0].addr().to_string();
    let daemon = flowing(&world, &config(&world, &servers, ""), 2_000).await;
    proxies[0].hold(true);
    waits_and_says(&daemon, &[&servers, "the broker does not answer requests"]);
    proxies[0].hold(false);
    flows_again(&world, &daemon, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_topic_and_a_denied_group_are_waited_for_under_each_protocol() {
    let spec = KafkaSpec::single().acls();
    let world = world_behind(Kafka::start(&spec).expect("Kafka starts")).await;
    let servers = world.kafka.bootstrap_servers();
    let short = "\"session.timeout.ms\" = \"6000\"";
    let (topic, group) = (world.topic.clone(), world.name.clone());
    let denied = ["--deny-principal", "User:ANONYMOUS", "--operation", "Read"];
    let of_topic = [&denied[..], &["--topic", &topic]].concat();
    let of_group = [&denied[..], &["--group", &group]].concat();
    let daemon = flowing(&world, &config(&world, servers, short), 1_000).await;

    acl(world.kafka, &[&["--add"], &of_topic[..]].concat());
    waits_and_says(&daemon, &[&format!("topic `{topic}`"), "grant READ"]);
    acl(world.kafka, &[&["--remove", "--force"], &of_topic[..]].concat());
    flows_again(&world, &daemon, 1_000).await;

    acl(world.kafka, &[&["--add"], &of_group[..]].concat());
    waits_and_says(&daemon, &[&format!("group `{group}`"), "grant READ"]);
    acl(world.kafka, &[&["--remove", "--force"], &of_group[..]].concat());
    daemon.await_until("it doesn't wait any more", in_tests(OVER), |daemon| !waits(daemon)).expect("it is over");
    daemon.await_ready(PATIENCE).expect("it is ready");
    drop(daemon);

    // Under KIP-848, a denied group is a fatal error for librdkafka's client. So the daemon creates new clients until
    // it may read the group.
    acl(world.kafka, &[&["--add"], &of_group[..]].concat());
    let config = config(&world, servers, "").replacen("topics =", "group_protocol = \"consumer\"\ntopics =", 1);
    let daemon = world.daemon(&config);
    waits_and_says(&daemon, &[&format!("group `{group}`"), "grant READ"]);
    assert_eq!(daemon.metric("tidegate_pipeline_state", &[("state", "stopped")]), Some(0.0), "a right can be granted");
    acl(world.kafka, &[&["--remove", "--force"], &of_group[..]].concat());
    daemon.await_until("it doesn't wait any more", in_tests(OVER), |daemon| !waits(daemon)).expect("it is over");
    daemon.await_ready(PATIENCE).expect("it is ready");
}

/// Starts a Kafka whose listener behind the proxy requires SCRAM, with this user and password.
pub(crate) fn with_scram(user: &str, password: &str) -> (Kafka, Proxy) {
    let spec = KafkaSpec::single()
        .property("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT")
        .property("listener.name.proxied.sasl.enabled.mechanisms", "SCRAM-SHA-256")
        .property(
            "listener.name.proxied.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        );
    let (kafka, mut proxies) = Kafka::start_behind_proxies(&spec).expect("Kafka starts");
    let entity = ["--alter", "--entity-type", "users", "--entity-name", user];
    let add = format!("SCRAM-SHA-256=[password={password}]");
    tool(&kafka, "kafka.admin.ConfigCommand", &[&entity[..], &["--add-config", &add]].concat());
    (kafka, proxies.remove(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_scram_user_is_waited_for_also_while_records_come_by_another_listener() {
    let (kafka, proxy) = with_scram("rides", "of the test");
    let world = world_behind(kafka).await;
    let servers = proxy.addr().to_string();
    let sasl = "\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
         \"sasl.username\" = \"rides\"\n\"sasl.password\" = \"of the test\"";
    let daemon = flowing(&world, &config(&world, &servers, sasl), 2_000).await;
    let entity = ["--alter", "--entity-type", "users", "--entity-name", "rides"];
    let delete = [&entity[..], &["--delete-config", "SCRAM-SHA-256"]].concat();
    tool(world.kafka, "kafka.admin.ConfigCommand", &delete);
    // Open connections stay authenticated. A restarted broker authenticates each client again.
    world.kafka.restart(0).expect("it starts again");
    proxy.cut();
    waits_and_says(&daemon, &[&servers, "refuses the user or the password", "sasl.password"]);
    let log = daemon.log().join("\n");
    assert!(!log.contains("of the test"), "a password is on no line: {log}");
    let again = [&entity[..], &["--add-config", "SCRAM-SHA-256=[password=of the test]"]].concat();
    tool(world.kafka, "kafka.admin.ConfigCommand", &again);
    flows_again(&world, &daemon, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_delays_answers_is_shown() {
    let world = world_behind(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")).await;
    let quota = ["--alter", "--entity-type", "clients", "--entity-default"];
    tool(
        world.kafka,
        "kafka.admin.ConfigCommand",
        &[&quota[..], &["--add-config", "consumer_byte_rate=50000"]].concat(),
    );
    world.produce_numbered(0..40_000, 2);
    let daemon = world.daemon(&config(&world, world.kafka.bootstrap_servers(), ""));
    let delayed = |daemon: &Daemon| {
        let status = daemon.status_json().unwrap_or_default();
        let sentence = status["sentences"][0]["text"].as_str().unwrap_or_default().to_owned();
        counted(daemon, "tidegate_kafka_throttle_seconds") >= 0.1 && sentence.contains("a Kafka quota delays")
    };
    daemon.await_until("the delay is shown", PATIENCE, delayed).expect("on the page and on `/metrics`");
    tool(world.kafka, "kafka.admin.ConfigCommand", &[&quota[..], &["--delete-config", "consumer_byte_rate"]].concat());
    world.await_written(&daemon).await;
    world.assert_exact(40_000).await;
    daemon.await_until("it is over", PATIENCE, |daemon| !delayed(daemon)).expect("it is");
}

/// Without a leader, nobody can read a partition's records, and Kafka doesn't say how many it has. So nothing may claim that they
/// are written, or that the partition doesn't exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_is_named_while_the_others_flow() {
    let spec = KafkaSpec::cluster().property("default.replication.factor", "1").property("min.insync.replicas", "1");
    let kafka = Kafka::start(&spec).expect("Kafka starts");
    let world = World::on(leak(kafka), shared::postgres().expect("Postgres starts"), 3).await;
    world.sql(NUMBERED).await;
    let config = config(&world, world.kafka.bootstrap_servers(), "");
    world.produce_numbered(0..300, 3);
    let daemon = world.daemon(&config);
    world.await_written(&daemon).await;
    daemon.await_until("the lag is read", PATIENCE, lag_is_known).expect("it is read");
    world.kafka.kill(2).expect("it dies");
    let words = "it has no leader; start a broker that has a replica of it";
    let says = |daemon: &Daemon| waits(daemon) && daemon.get("/readyz").is_ok_and(|ready| ready.body.contains(words));
    if let Err(error) = daemon.await_until("it names the partition", in_tests(SEEN), says) {
        panic!("{error:#}\n{}", daemon.log_tail());
    }
    let status = daemon.status_json().expect("a status");
    assert_eq!(status["pipelines"][0]["state_words"], "waiting for a partition");
    let sentence = status["sentences"][0]["text"].as_str().expect("a sentence");
    let begin = format!("for partition {}/", world.topic);
    assert!(sentence.contains(&begin) && sentence.contains(words), "the page: {sentence}");
    let lags = |daemon: &Daemon| {
        let metrics = daemon.get("/metrics").expect("it answers").body;
        metrics.lines().filter(|line| line.starts_with("tidegate_lag_records{")).count()
    };
    assert_eq!(lags(&daemon), 2, "one lag is unknown");
    let age = counted(&daemon, "tidegate_lag_reading_age_seconds");
    assert!(age < 5.0, "the other lags are read as always: {age}");
    let lag = tidegate(&config, &["lag"]).fails(70, &[words]);
    assert!(lag.out.contains("without a leader: ") && !lag.out.contains("not in the ledger"), "{}", lag.out);
    tidegate(&config, &["check"]).fails(69, &[words]);
    tidegate(&config, &["verify"]).fails(69, &[words]);
    let led = status["pipelines"][0]["partitions"].as_array().expect("partitions");
    let led: Vec<_> =
        led.iter().map(|one| i32::try_from(one["partition"].as_i64().expect("a number")).expect("small")).collect();
    world.produce(led.iter().map(|one| tidegate_harness::Record::new(r#"{"seq":1000,"name":"more"}"#).to(*one)));
    world.await_ledger(&daemon, 302).await;
    drop(daemon);
    tidegate(&config, &["run", "--until", "now", "--give-up-after", "5s"]).fails(75, &[words]);
    world.kafka.start_again(2).expect("it starts again");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 302);
}
