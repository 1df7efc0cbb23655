//! A topic, a database and a daemon for one test.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::{PgConnection, Row};
use tidegate_harness::{
    Daemon, DaemonSpec, Database, Kafka, Postgres, Record, eventually, free_port, shared, unique_name,
};

/// The longest wait for anything that normally takes moments. It is long because the tests share few cores with three servers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Returns how long a test waits for what the daemon promises to do within `promised`. A build that `TIDEGATE_PROGRAM` names must
/// keep the promise exactly. The build of the test suite has five times as long, because it shares few cores with many servers.
/// That still reveals a wait for a session timeout. `make chaos` and `make restarts` measure the promises.
pub(crate) fn in_tests(promised: Duration) -> Duration {
    if std::env::var_os(PROGRAM).is_some() { promised } else { 5 * promised }
}

/// The environment variable with the path of another build of the daemon.
pub(crate) const PROGRAM: &str = "TIDEGATE_PROGRAM";

/// A test's own topic, database and pipeline. `name` is the name of the pipeline, and of its consumer group.
pub(crate) struct World {
    pub(crate) kafka: &'static Kafka,
    pub(crate) postgres: &'static Postgres,
    pub(crate) topic: String,
    pub(crate) database: Database,
    pub(crate) name: String,
}

impl World {
    /// Creates the topic and an empty database on the shared servers.
    pub(crate) async fn new(partitions: i32) -> Self {
        Self::on(shared::kafka().expect("Kafka starts"), shared::postgres().expect("Postgres starts"), partitions).await
    }

    pub(crate) async fn on(kafka: &'static Kafka, postgres: &'static Postgres, partitions: i32) -> Self {
        let topic = unique_name("telemetry");
        kafka.create_topic(&topic, partitions, &[]).expect("the topic is made");
        let database = postgres.create_database().await.expect("the database is made");
        Self { kafka, postgres, topic, database, name: unique_name("rides") }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&mut self.connect().await).await.expect("the statement runs");
    }

    /// Makes `rides` refuse every INSERT and COPY. Waiting doesn't help: trigger `refuse` raises `closed for today`.
    pub(crate) async fn refuse_writes(&self) {
        self.sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE 'closed for today' USING ERRCODE = 'ZZ001'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON rides FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
        )
        .await;
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = sqlx::query(sql).fetch_one(&mut self.connect().await).await.expect("the query runs");
        row.try_get::<i64, _>(0).expect("one bigint")
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        let row = sqlx::query(sql).fetch_one(&mut self.connect().await).await.expect("the query runs");
        row.try_get::<String, _>(0).expect("one text")
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        self.database.connect().await.expect("Postgres takes a connection")
    }

    /// Returns a configuration. `pipeline` is the part below `[pipelines.NAME]`, after `topics`.
    pub(crate) fn config(&self, pipeline: &str) -> String {
        self.config_at(&self.database.url, pipeline)
    }

    /// Returns the same configuration as [`Self::config`], but with another URL of the database.
    pub(crate) fn config_at(&self, url: &str, pipeline: &str) -> String {
        format!(
            "[kafka]\nbootstrap_servers = \"{}\"\n[postgres]\nurl = \"{url}\"\n[http]\nlisten = \"127.0.0.1:{}\"\n\
             [pipelines.{}]\ntopics = [\"{}\"]\n{pipeline}\n",
            self.kafka.bootstrap_servers(),
            free_port().expect("a free port"),
            self.name,
            self.topic,
        )
    }

    pub(crate) fn daemon(&self, config: &str) -> Daemon {
        Daemon::spawn(&spec(config)).expect("the daemon starts")
    }

    /// Runs `tidegate run --until now` until it ends. Returns its exit code and its log.
    pub(crate) fn drain(&self, config: &str) -> (Option<i32>, String) {
        let daemon = Daemon::spawn(&spec(config).arg("--until").arg("now")).expect("the daemon starts");
        let status =
            daemon.wait_exit(PATIENCE).unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log().join("\n")));
        (status.code(), daemon.log().join("\n"))
    }

    /// Deletes the topic and creates it again. Then waits until the broker shows the new, empty logs. Records that are sent
    /// before that might go to the old logs.
    pub(crate) fn recreate(&self, partitions: i32) {
        self.kafka.delete_topic(&self.topic).expect("the topic is deleted");
        eventually("the name is free again", PATIENCE, || {
            self.kafka.create_topic(&self.topic, partitions, &[]).is_ok()
        })
        .expect("the topic is made again");
        eventually("the new logs are empty", PATIENCE, || {
            self.kafka.end_offsets(&self.topic).is_ok_and(|ends| ends.iter().all(|end| *end == 0))
        })
        .expect("the broker shows the new logs");
    }

    pub(crate) fn produce(&self, records: impl IntoIterator<Item = Record>) {
        self.kafka.produce(&self.topic, records).expect("Kafka takes the records");
    }
}

/// Returns the path of the daemon's program: the one in `TIDEGATE_PROGRAM`, or else the one that was built with the tests.
pub(crate) fn program() -> PathBuf {
    std::env::var_os(PROGRAM).map_or_else(|| env!("CARGO_BIN_EXE_tidegate").into(), PathBuf::from)
}

pub(crate) fn spec(config: &str) -> DaemonSpec {
    let (_, listen) = config.split_once("listen = \"").expect("the configuration says where to listen");
    let (address, _) = listen.split_once('"').expect("the address ends");
    DaemonSpec::new(program(), config).http_address(address)
}
