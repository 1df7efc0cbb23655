//! `check` and `run` agree: `run` flows if and only if `check` says that the pipeline is ready. Each case of the other files
//! `agreement_*.rs` describes an environment, in which both commands are run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use sqlx::Connection as _;
use tidegate_harness::{
    Daemon, DaemonSpec, Kafka, Postgres, PostgresSpec, Record, eventually, free_port, shared, unique_name,
};

use crate::agreement_cases::{CASES, Case};
use crate::agreement_event_triggers::EVENT_TRIGGER_CASES;
use crate::agreement_more_cases::MORE_CASES;
use crate::agreement_odd_cases::ODD_CASES;
use crate::agreement_partitions::PARTITION_CASES;
use crate::cli::tidegate;
use crate::cli_verify::transaction;
use crate::support::{PATIENCE, program};

/// The number of records in the topic. Each record is `{"id": n, "name": "v", "lat": 1.5}`. If all records become dead letters,
/// they stop the pipeline.
pub(crate) const RECORDS: i32 = 300;
const AT_ONCE: usize = 3;
const POLL: Duration = Duration::from_millis(100);
/// Texts in the log of a daemon that waits until somebody removes a fault.
const WAITS: [&str; 5] = [
    "can't start yet",
    "denies access",
    "waiting for Postgres",
    "GroupAuthorizationFailed",
    "not all members of the group offer the assignor",
];

pub(crate) struct Ground {
    pub(crate) bootstrap_servers: String,
    pub(crate) postgres: &'static Postgres,
    pub(crate) topic: String,
}

/// One environment. Its database, role and pipeline name are its own.
pub(crate) struct Environment<'g> {
    ground: &'g Ground,
    database: String,
    role: String,
    name: String,
}

impl<'g> Environment<'g> {
    async fn new(ground: &'g Ground, case: &Case) -> Self {
        let (database, role) = (unique_name("agree"), unique_name("clerk"));
        let environment = Self { ground, database, role, name: unique_name("rides") };
        let mut admin = ground.postgres.connect("postgres").await.expect("a connection");
        for sql in [
            format!("CREATE DATABASE {} {}", environment.database, case.database),
            format!("CREATE ROLE {} LOGIN", environment.role),
        ] {
            sqlx::raw_sql(&sql).execute(&mut admin).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
        environment
    }

    fn filled(&self, text: &str) -> String {
        let text = text.replace("{role}", &self.role).replace("{db}", &self.database);
        let text = text.replace("{name}", &self.name).replace("{topic}", &self.ground.topic);
        // The cases write `{NAME}` for the text `{name}` in `table.name`, because `{name}` is their placeholder for the
        // pipeline's name.
        text.replace("{NAME}", "{name}")
    }

    async fn sql(&self, case: &str, sql: &str) {
        let mut connection = self.ground.postgres.connect(&self.database).await.expect("a connection");
        let sql = self.filled(sql);
        sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap_or_else(|error| panic!("{case}: {error}: {sql}"));
        connection.close().await.expect("it closes");
    }

    /// Returns a configuration that connects as the role `user`. `name` is the pipeline's name, and `pipeline` the text below
    /// `[pipelines.NAME]`. `session` has further lines of `[postgres]`.
    fn config(&self, user: &str, name: &str, pipeline: &str, session: &str) -> String {
        let url = self.ground.postgres.url(&self.database).replacen("postgres@", &format!("{user}@"), 1);
        let listen = format!("127.0.0.1:{}", free_port().expect("a free port"));
        self.filled(&format!(
            "[kafka]\nbootstrap_servers = \"{}\"\n[postgres]\nurl = \"{url}\"\n{session}\n[http]\nlisten = \"{listen}\"\n[pipelines.{name}]\n{pipeline}\n",
            self.ground.bootstrap_servers
        ))
    }

    async fn drop(self) {
        let mut admin = self.ground.postgres.connect("postgres").await.expect("a connection");
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        sqlx::raw_sql(&sql).execute(&mut admin).await.expect("it is dropped");
    }
}

/// Runs the daemon until it has drained the topic, fails, or logs that it waits for something. Returns whether it has drained the
/// topic, and its log. With `is_ready`, a wait doesn't end the run, because a connection can fail for a moment on a busy machine.
pub(crate) fn flows(config: &str, is_ready: bool) -> (bool, String) {
    let spec = DaemonSpec::new(program(), config).arg("--until").arg("now");
    let daemon = Daemon::spawn(&spec).expect("the daemon starts");
    let waits =
        |daemon: &Daemon| !is_ready && daemon.log().iter().any(|line| WAITS.iter().any(|words| line.contains(words)));
    let told =
        daemon.await_until("it ends or says what it waits for", PATIENCE, |d| d.exit_status().is_some() || waits(d));
    let mut status = daemon.exit_status();
    if status.is_none() {
        // Even after a daemon has logged that it waits, it may end by itself, for example because a connection failed.
        status = daemon.wait_exit(Duration::from_secs(3)).ok();
    }
    let log = daemon.log().join("\n");
    (
        status.is_some_and(|status| status.success()),
        told.map_or_else(|error| format!("{error:#}\n{log}"), |()| log.clone()),
    )
}

/// Runs `check` and `run` in the environment of a case. If they disagree, the error describes the disagreement.
async fn put(ground: &Ground, case: &'static Case) -> Result<(), String> {
    let environment = Environment::new(ground, case).await;
    environment.sql(case.name, crate::agreement_cases::BASE).await;
    if let Some((user, name, pipeline)) = case.before {
        let config = environment.config(user, name, pipeline, "");
        let (flowed, log) = flows(&config, true);
        assert!(flowed, "{}: before: {log}", case.name);
    }
    environment.sql(case.name, case.sql).await;
    let config = environment.config("{role}", "{name}", case.pipeline, case.session);
    let (checked, (flowed, log)) = (tidegate(&config, &["check"]), flows(&config, case.ready));
    let told = checked.out.contains(&environment.filled(case.says));
    environment.drop().await;
    let ready = checked.code == 0;
    if ready == flowed && ready == case.ready && told {
        return Ok(());
    }
    Err(format!(
        "\n=== {}: check says {}, run {}; expected {}, {:?}\n{checked}\n--- run\n{log}",
        case.name,
        if ready { "ready" } else { "not ready" },
        if flowed { "flows" } else { "does not flow" },
        if case.ready { "ready" } else { "not ready" },
        case.says
    ))
}

/// Creates special topics: an empty one, one whose records were deleted, a compacted one, one with only tombstones, and one with
/// only an aborted transaction.
fn more_topics(kafka: &Kafka, topic: &str) {
    let make = |suffix: &str, settings: &[(&str, &str)]| {
        let topic = format!("{topic}_{suffix}");
        kafka.create_topic(&topic, 1, settings).expect("the topic is made");
        topic
    };
    let record = |n: i32| Record::new(format!(r#"{{"id":{n},"name":"v","lat":1.5}}"#)).key(format!("{}", n % 7));
    make("empty", &[]);
    let deleted = make("deleted", &[]);
    kafka.produce(&deleted, (0..RECORDS).map(record)).expect("Kafka takes the records");
    kafka.delete_records(&deleted, 0, RECORDS.into()).expect("the records are deleted");
    let compacted = make(
        "compacted",
        &[("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")],
    );
    for n in 0..3 {
        kafka.produce(&compacted, (n..n + 100).map(record)).expect("Kafka takes the records");
    }
    let tombstones = make("tombstones", &[]);
    let tombstone = |n: i32| Record::tombstone().key(format!("{n}"));
    kafka.produce(&tombstones, (0..RECORDS).map(tombstone)).expect("Kafka takes the records");
    transaction(kafka.bootstrap_servers(), &make("transactions", &[]), 50, false);
}

/// Joins a group as its only member, with the assignment strategy `range`. The member reads only the empty topic.
fn other_member(ground: &Ground) -> BaseConsumer {
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &ground.bootstrap_servers)
        .set("group.id", format!("{}_range", ground.topic))
        .set("partition.assignment.strategy", "range")
        .create()
        .expect("a consumer");
    member.subscribe(&[&format!("{}_empty", ground.topic)]).expect("it subscribes");
    eventually("the other member has joined", PATIENCE, || {
        drop(member.poll(POLL));
        member.assignment().is_ok_and(|all| all.count() > 0)
    })
    .expect("within its time");
    member
}

/// Sets the flag when this value is dropped, even by a panic.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `check` and `run` in the environment of each case. Panics if the two disagree in any environment.
fn agree(cases: &[&'static Case]) {
    let kafka = shared::kafka().expect("Kafka starts");
    let topic = unique_name("agree");
    kafka.create_topic(&topic, 2, &[]).expect("the topic is made");
    let record = |n| Record::new(format!(r#"{{"id":{n},"name":"v","lat":1.5}}"#)).to(n % 2);
    kafka.produce(&topic, (0..RECORDS).map(record)).expect("Kafka takes the records");
    more_topics(kafka, &topic);
    let bootstrap_servers = kafka.bootstrap_servers().to_owned();
    let postgres = shared::postgres().expect("Postgres starts");
    let ground = Ground { bootstrap_servers, postgres, topic };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Handle::current();
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(words) = runtime.block_on(put(&ground, case)) {
                wrong.lock().expect("no panic").push((case.name, words));
            }
        }
    };
    let (member, is_over) = (other_member(&ground), AtomicBool::new(false));
    let stay = || {
        while !is_over.load(Ordering::Relaxed) {
            drop(member.poll(POLL));
        }
    };
    tokio::task::block_in_place(|| {
        std::thread::scope(|all| {
            let _over = Sets(&is_over);
            all.spawn(stay);
            std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
        });
    });
    let wrong = wrong.into_inner().expect("no panic");
    // The names come last, because a truncated log often keeps only its end.
    let names: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
    let words: String = wrong.iter().map(|(_, words)| words.as_str()).collect();
    assert!(wrong.is_empty(), "{words}\n{} of {} environments disagree: {names:?}", wrong.len(), cases.len());
    println!("{} environments, no disagreement", cases.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn run_flows_if_and_only_if_check_says_ready() {
    agree(&CASES.iter().chain(MORE_CASES).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn run_flows_if_and_only_if_check_says_ready_in_odd_environments() {
    agree(&ODD_CASES.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn run_flows_if_and_only_if_check_says_ready_where_event_triggers_refuse() {
    agree(&EVENT_TRIGGER_CASES.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn run_flows_if_and_only_if_check_says_ready_where_partitions_are_refused() {
    agree(&PARTITION_CASES.iter().collect::<Vec<_>>());
}

/// A standby accepts no writes, and `run` waits until the standby is promoted. If a URL names several servers, the one that
/// accepts writes is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_is_named_by_check_and_run_does_not_flow() {
    let kafka = shared::kafka().expect("Kafka starts");
    let topic = unique_name("standby");
    kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
    kafka.produce(&topic, [Record::new(r#"{"id":1,"name":"v","lat":1.5}"#)]).expect("Kafka takes it");
    let bootstrap_servers = kafka.bootstrap_servers().to_owned();
    let primary = Box::leak(Box::new(Postgres::start(&PostgresSpec::default()).expect("the primary starts")));
    let ground = Ground { bootstrap_servers, postgres: primary, topic };
    let environment = Environment::new(&ground, &CASES[0]).await;
    environment.sql("standby", crate::agreement_cases::BASE).await;
    let replica = primary.start_replica(&PostgresSpec::default()).expect("the replica starts");
    let config = environment.config("{role}", "{name}", crate::agreement_cases::APPEND, "");
    let both = format!("{},{}", replica.address(), primary.address());
    for (servers, parameters, ready) in [
        (replica.address(), "", false),
        (replica.address(), "?target_session_attrs=read-write", false),
        (both.clone(), "?target_session_attrs=read-write", true),
        (both, "", true),
    ] {
        let url = format!("{}{parameters}\"", environment.database);
        let config = config.replace(&primary.address(), &servers).replace(&format!("{}\"", environment.database), &url);
        let (checked, (flowed, log)) =
            tokio::task::block_in_place(|| (tidegate(&config, &["check"]), flows(&config, ready)));
        assert_eq!((checked.code == 0, flowed), (ready, ready), "{servers}{parameters}: {checked}\n--- run\n{log}");
        assert!(ready || format!("{}{}", checked.out, checked.err).contains("standby"), "{checked}");
    }
}

/// The server waits for a standby before it answers a COMMIT, but it has no standby. So every write would wait without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_waits_for_a_standby_that_is_away_is_named_by_check() {
    let kafka = shared::kafka().expect("Kafka starts");
    let topic = unique_name("standbyless");
    kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
    kafka.produce(&topic, [Record::new(r#"{"id":1,"name":"v","lat":1.5}"#)]).expect("Kafka takes it");
    let bootstrap_servers = kafka.bootstrap_servers().to_owned();
    let postgres = Box::leak(Box::new(Postgres::start(&PostgresSpec::default()).expect("Postgres starts")));
    let ground = Ground { bootstrap_servers, postgres, topic };
    let environment = Environment::new(&ground, &CASES[0]).await;
    environment.sql("standbyless", crate::agreement_cases::BASE).await;
    let config = environment.config("{role}", "{name}", crate::agreement_cases::APPEND, "");
    for (standbys, ready) in [("nobody", false), ("", true)] {
        let alter = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
        for sql in [alter.as_str(), "SELECT pg_reload_conf()"] {
            let mut admin = postgres.connect("postgres").await.expect("a connection");
            sqlx::raw_sql("SET synchronous_commit = local").execute(&mut admin).await.expect("it is set");
            sqlx::raw_sql(sql).execute(&mut admin).await.expect("it is done");
        }
        let is_seen = async || {
            let mut admin = postgres.connect("postgres").await.expect("a connection");
            let now: String =
                sqlx::query_scalar("SHOW synchronous_standby_names").fetch_one(&mut admin).await.expect("it is");
            now == standbys
        };
        tidegate_harness::eventually_async("the server has read it", PATIENCE, is_seen).await.expect("it has");
        let checked = tokio::task::block_in_place(|| tidegate(&config, &["check"]));
        assert_eq!(checked.code == 0, ready, "{checked}");
        assert!(ready || checked.out.contains("`synchronous_standby_names` is 'nobody'"), "{checked}");
    }
    let (flowed, log) = tokio::task::block_in_place(|| flows(&config, true));
    assert!(flowed, "{log}");
}

/// The daemon can't listen on the address of another machine, or on a port that another program uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_where_no_daemon_can_listen_is_named_by_check() {
    let kafka = shared::kafka().expect("Kafka starts");
    let topic = unique_name("listen");
    kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
    kafka.produce(&topic, [Record::new(r#"{"id":1,"name":"v","lat":1.5}"#)]).expect("Kafka takes it");
    let bootstrap_servers = kafka.bootstrap_servers().to_owned();
    let ground = Ground { bootstrap_servers, postgres: shared::postgres().expect("Postgres starts"), topic };
    let environment = Environment::new(&ground, &CASES[0]).await;
    environment.sql("listen", crate::agreement_cases::BASE).await;
    let config = environment.config("{role}", "{name}", crate::agreement_cases::APPEND, "");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("it has an address").to_string();
    let (_, free) = config.split_once("listen = \"").expect("it listens");
    let free = free.split_once('"').expect("the address ends").0.to_owned();
    for (listen, says) in [(taken.as_str(), "http.listen"), ("192.0.2.1:9464", "http.listen"), (&free, "ready")] {
        let config = config.replace(&format!("listen = \"{free}\""), &format!("listen = \"{listen}\""));
        let (checked, (flowed, log)) =
            tokio::task::block_in_place(|| (tidegate(&config, &["check"]), flows(&config, says == "ready")));
        assert_eq!(
            (checked.code == 0, flowed),
            (says == "ready", says == "ready"),
            "{listen}: {checked}\n--- run\n{log}"
        );
        assert!(checked.out.contains(says), "{checked}");
    }
}

/// Adds an ACL for the brokers' anonymous user. `kind` is `--allow-principal` or `--deny-principal`.
fn rule(bootstrap_servers: &str, kind: &str, arguments: &[&str]) {
    let jars = tidegate_harness::fetch::kafka().expect("Kafka is here");
    let run = std::process::Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-cp", &jars.classpath(), "org.apache.kafka.tools.AclCommand"])
        .args(["--bootstrap-server", bootstrap_servers, "--add", kind, "User:ANONYMOUS"])
        .args(arguments)
        .output()
        .expect("java runs");
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_brokers_deny_is_named_by_check_and_run_does_not_flow() {
    let spec = tidegate_harness::KafkaSpec::single().acls();
    let kafka = Kafka::start(&spec).expect("Kafka starts");
    let names = ["open", "unseen", "unread", "unread_and_empty"];
    for name in names {
        kafka.create_topic(name, 1, &[]).expect("the topic is made");
        if name != "unread_and_empty" {
            kafka.produce(name, [Record::new(r#"{"id":1,"name":"v","lat":1.5}"#)]).expect("Kafka takes it");
        }
    }
    let servers = kafka.bootstrap_servers().to_owned();
    tokio::task::block_in_place(|| {
        let unread = ["--topic", "unread", "--topic", "unread_and_empty"];
        rule(&servers, "--deny-principal", &["--operation", "Describe", "--topic", "unseen"]);
        // Once a resource has any ACL, only users whom an ACL allows may access it.
        rule(&servers, "--allow-principal", &[&["--operation", "Describe"], &unread[..]].concat());
        rule(&servers, "--deny-principal", &[&["--operation", "Read", "--group", "closed"], &unread[..]].concat());
    });
    let postgres = shared::postgres().expect("Postgres starts");
    let ground = Ground { bootstrap_servers: servers, postgres, topic: String::new() };
    for (topic, group, says) in [
        ("open", "a", "ready"),
        ("open", "closed", "--operation Read --group 'closed'"),
        ("unseen", "b", "Kafka denies access to the topic (topic `unseen`)"),
        ("unread", "c", "--operation Read --topic 'unread'"),
        ("unread_and_empty", "d", "the records of topic `unread_and_empty`"),
    ] {
        let environment = Environment::new(&ground, &CASES[0]).await;
        environment.sql(topic, crate::agreement_cases::BASE).await;
        let pipeline = format!("topics = [\"{topic}\"]\ngroup = \"{group}\"\ntable.name = \"rides\"");
        let config = environment.config("{role}", "{name}", &pipeline, "");
        let checked = tokio::task::block_in_place(|| tidegate(&config, &["check"]));
        assert_eq!(checked.code == 0, says == "ready", "{topic} {group}: {checked}");
        assert!(checked.out.contains(says), "{topic} {group}: no {says:?} in {checked}");
        // A bounded run of an empty topic reads no record, so it succeeds even without the right to read.
        if topic != "unread_and_empty" {
            let (flowed, log) = tokio::task::block_in_place(|| flows(&config, says == "ready"));
            assert_eq!(flowed, says == "ready", "{topic} {group}: {log}");
        }
        environment.drop().await;
    }
}
