//! The log, as an operator reads it. Each line about a pipeline names the pipeline. An outage has a first line and a last line.
//! Repetitions of a line are limited. Files and pipes get plain text only.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_harness::{Kafka, KafkaSpec, Proxy, Record, eventually};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::kafka_health::{self, waits, with_scram, world_behind};
use crate::support::{PATIENCE, World};

/// The beginnings of log lines that concern the process and not a pipeline.
const OF_THE_PROCESS: [&str; 5] = ["listening", "tidegate", "received", "the configuration", "draining"];

/// Checks that each line is plain text, and names the world's pipeline. Lines about the process need not name it.
fn assert_attributed(world: &World, lines: &[String]) {
    let of = format!("pipeline=\"{}\"", world.name);
    for line in lines {
        assert!(!line.contains('\u{1b}'), "an escape code: {line:?}");
        let (_, text) = line.split_once("INFO ").or_else(|| line.split_once("WARN ")).unwrap_or(("", line));
        let is_of_the_process = OF_THE_PROCESS.iter().any(|words| text.trim_start().starts_with(words));
        assert!(is_of_the_process || line.contains(&of), "no pipeline: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_attributes_each_line_and_says_when_an_outage_is_over() {
    let (kafka, proxies) = Kafka::start_behind_proxies(&KafkaSpec::single()).expect("Kafka starts");
    let world = world_behind(kafka).await;
    let postgres = Proxy::start_postgres(world.postgres.address()).expect("a proxy");
    let url = world.database.url_at(postgres.addr());
    let config = world.config_at(&url, "table.name = \"rides\"\nconsumers = 2");
    let config = config.replacen(world.kafka.bootstrap_servers(), &proxies[0].addr().to_string(), 1);
    let daemon = world.daemon(&config);
    world.produce_numbered(0..500, 2);
    world.await_written(&daemon).await;

    postgres.refuse(true);
    postgres.cut();
    world.produce_numbered(500..1_000, 2);
    daemon.await_log("waiting for Postgres", PATIENCE).expect("the log says what it waits for");
    postgres.refuse(false);
    daemon.await_log("Postgres accepts writes again", PATIENCE).expect("the log says that the outage is over");
    world.await_written(&daemon).await;

    proxies[0].refuse(true);
    proxies[0].cut();
    daemon.await_until("it waits for Kafka", PATIENCE, waits).expect("it waits");
    daemon.await_log("waiting for Kafka", PATIENCE).expect("the log says what it waits for");
    proxies[0].refuse(false);
    daemon.await_log("Kafka serves again", PATIENCE).expect("the log says that the outage is over");
    daemon.await_ready(PATIENCE).expect("it is ready");

    daemon.terminate().expect("it is told to end");
    daemon.wait_exit(PATIENCE).expect("it ends");
    let lines = daemon.log();
    assert_attributed(&world, &lines);

    // A start that has to wait says so, too.
    postgres.refuse(true);
    let next = world.daemon(&config);
    next.await_log("can't start yet", PATIENCE).expect("the log says what it waits for");
    postgres.refuse(false);
    next.await_log("the pipeline can start now", PATIENCE).expect("the log says that the wait is over");
    assert_attributed(&world, &next.log());
    let over: Vec<_> = lines.iter().filter(|line| line.contains("again") && line.contains("seconds=")).collect();
    assert!(over.len() >= 2, "how long each outage lasted: {over:?}");
}

/// Returns the text of a log line without its time and its digits. So repetitions of a line are equal.
fn gist(line: &str) -> String {
    let (_, text) = line.split_once("WARN").unwrap_or(("", line));
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_comes_again_and_again_is_said_once() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    // The server ends each connection, so librdkafka tries again and again.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address").to_string();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    std::thread::spawn(move || {
        for mut client in server.incoming().flatten() {
            client.read_exact(&mut [0]).ok();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let config = world.config("table.name = \"rides\"");
    let daemon = world.daemon(&config.replacen(world.kafka.bootstrap_servers(), &address, 1));
    eventually("it has tried 30 times", PATIENCE, || tries.load(Ordering::Relaxed) >= 30).expect("it tries");
    let lines = daemon.log();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.contains("WARN")) {
        *counts.entry(gist(line)).or_default() += 1;
    }
    assert!(!counts.is_empty(), "it says what it waits for: {lines:?}");
    // Attempts 1, 2, 4, 8 and so on are logged with their number. Any other line is logged at most once per minute, with the
    // number of repetitions.
    let counted = |line: &str| line.contains("attempt=") || line.contains("repeated=");
    let most = |line: &str| if counted(line) { 7 } else { 2 };
    let often: Vec<_> = counts.iter().filter(|(line, count)| **count > most(line)).collect();
    assert!(often.is_empty(), "{often:?} after {} tries", tries.load(Ordering::Relaxed));
    assert_attributed(&world, &lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_dead_letter_of_each_kind_is_logged_with_its_place() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    world.produce_numbered(0..2_000, 1);
    world.await_written(&daemon).await;
    let faulty = (0..100).map(|_| Record::new(r#"{"seq":"none","name":"v"}"#).to(0));
    world.produce(faulty.chain([Record::new("{").to(0)]));
    world.await_written(&daemon).await;
    let lines: Vec<_> = daemon.log().into_iter().filter(|line| line.contains("became a dead letter")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("offset=2000") && lines[0].contains("column=\"seq\""), "{lines:?}");
    assert!(lines[1].contains("offset=2100") && lines[1].contains("reason=\"invalid_json\""), "{lines:?}");
    assert_attributed(&world, &lines);
    assert!(!lines[0].contains("none"), "the log holds no value of a record: {lines:?}");
}

/// A command that succeeds logs no warning, not even for the end of a partition (`PartitionEOF`) or the login at a SASL listener.
/// With a wrong password, `lag`, `verify` and `replay` print the fault once.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_succeeds_warns_of_nothing_and_prints_a_fault_once() {
    let (kafka, proxy) = with_scram("rides", "of the test");
    let world = world_behind(kafka).await;
    world.sql("CREATE TABLE again (seq bigint, name text)").await;
    let servers = proxy.addr().to_string();
    let sasl = "\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
         \"sasl.username\" = \"rides\"\n\"sasl.password\" = \"of the test\"";
    let config = kafka_health::config(&world, &servers, sasl);
    world.produce_numbered(0..100, 2);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("WARN"), "{log}");
    let replay = ["replay", "--into", "again", "--from", "0"];
    for arguments in [&["check"][..], &["lag"], &["verify"], &replay] {
        let ran = tidegate(&config, arguments).ok();
        assert!(!ran.err.contains("WARN") && !ran.err.contains("PartitionEOF"), "{arguments:?}: {ran}");
    }
    assert_eq!(world.number("SELECT count(*) FROM again").await, 100);
    let config = config.replace("of the test", "wrong");
    tidegate(&config, &["check"]).fails(69, &["Authentication failed"]);
    for arguments in [&["lag"][..], &["verify"], &replay] {
        let ran = tidegate(&config, arguments);
        let times = ran.err.matches("Authentication failed").count();
        assert!(ran.code == 69 && times == 1, "{arguments:?}: {times} times in {ran}");
    }
}
