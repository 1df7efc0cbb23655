//! Observes a consumer group: what each member owns, whether records keep flowing, and whether all records arrive.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tidegate_harness::{Daemon, Kafka, Record, eventually_async};

use crate::support::{PATIENCE, World};

/// Creates a table that shows missing, duplicate and late records: it has each record's number, partition and offset, and the
/// time at which the row was written.
pub(crate) const TABLE: &str =
    "CREATE TABLE rides (id bigint, part int, src bigint, at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// Settings with which a pipeline fills [`TABLE`].
pub(crate) const COLUMNS: &str = "table.name = \"rides\"\nbatch = { max_age = \"50ms\" }\n\
     columns = { id = \"id\", part = { meta = \"partition\" }, src = { meta = \"offset\" } }";

pub(crate) const PROTOCOLS: [&str; 3] = ["cooperative", "eager", "consumer"];

/// Returns the settings of a pipeline with this group protocol. With the classic protocols, a killed member loses its partitions
/// after six seconds. With `consumer`, settings of the broker decide.
pub(crate) fn pipeline(protocol: &str) -> String {
    let session = if protocol == "consumer" { "" } else { "kafka = { \"session.timeout.ms\" = \"6000\" }\n" };
    format!("group_protocol = \"{protocol}\"\n{session}{COLUMNS}")
}

/// Returns how many partitions of a pipeline each consumer of a daemon owns. `None` while a consumer isn't a member of the group
/// yet, or a partition isn't claimed yet.
pub(crate) fn shares(daemon: &Daemon, pipeline: &str) -> Option<Vec<usize>> {
    let status = daemon.status_json().ok()?;
    consumers(&status, pipeline)?.iter().map(owned).collect()
}

/// Returns how many claimed partitions of a pipeline a daemon owns, or 0 while its assignment isn't complete.
pub(crate) fn owned_by(daemon: &Daemon, pipeline: &str) -> usize {
    shares(daemon, pipeline).map_or(0, |shares| shares.iter().sum())
}

fn consumers<'a>(status: &'a Value, pipeline: &str) -> Option<&'a Vec<Value>> {
    let pipelines = status["pipelines"].as_array()?;
    pipelines.iter().find(|view| view["name"] == pipeline)?["consumers"].as_array()
}

fn owned(consumer: &Value) -> Option<usize> {
    let partitions = consumer["partitions"].as_array()?;
    let settled = consumer["joined"] == true && partitions.iter().all(|partition| partition["state"] == "owned");
    settled.then_some(partitions.len())
}

/// Waits until the consumers of `daemons` own the numbers of partitions in `expected`. There is one number per consumer, in
/// descending order. The ledger must show the same numbers.
pub(crate) async fn await_shares(world: &World, pipeline: &str, daemons: &[&Daemon], expected: &[usize]) {
    let (mut seen, mut named) = (Vec::new(), Vec::new());
    // The ledger has no row for a consumer without partitions.
    let owning: Vec<usize> = expected.iter().copied().filter(|&share| share > 0).collect();
    let mut ledger = world.connect().await;
    let settled = eventually_async("the group shares out", PATIENCE, async || {
        seen = daemons.iter().filter_map(|daemon| shares(daemon, pipeline)).flatten().collect();
        seen.sort_unstable_by(|a: &usize, b| b.cmp(a));
        named = owners(&mut ledger, pipeline).await;
        seen == expected && named == owning
    });
    let settled = settled.await;
    assert!(settled.is_ok(), "shares are {seen:?}, by the ledger {named:?}, not {expected:?}\n{}", logs(daemons));
}

/// Returns how many partitions each consumer owns according to the ledger, in descending order.
async fn owners(ledger: &mut PgConnection, pipeline: &str) -> Vec<usize> {
    let sql =
        "SELECT count(*) FROM tidegate.ledger WHERE pipeline = $1 AND owner IS NOT NULL GROUP BY owner ORDER BY 1 DESC";
    let counts: Vec<i64> = sqlx::query_scalar(sql).bind(pipeline).fetch_all(ledger).await.unwrap_or_default();
    counts.into_iter().map(|count| usize::try_from(count).expect("a count is not negative")).collect()
}

pub(crate) fn logs(daemons: &[&Daemon]) -> String {
    daemons.iter().map(|daemon| daemon.log_tail()).collect::<Vec<_>>().join("\n----\n")
}

/// Returns records that are numbered from `first`: `per_partition` records for each of `partitions` partitions.
pub(crate) fn numbered(first: i64, partitions: i32, per_partition: i64) -> impl Iterator<Item = Record> {
    (0..i64::from(partitions) * per_partition).map(move |n| {
        let partition = i32::try_from(n % i64::from(partitions)).expect("a remainder of an i32 is one");
        Record::new(format!(r#"{{"id":{}}}"#, first + n)).to(partition)
    })
}

/// Waits until each of `total` numbered records is in the table exactly once, and the ledger is at the end of each log.
pub(crate) async fn await_exact(world: &World, total: i64, daemons: &[&Daemon]) {
    let mut connection = world.connect().await;
    let ends: i64 = world.kafka.end_offsets(&world.topic).expect("Kafka knows its ends").iter().sum();
    assert_eq!(ends, total, "all records are in Kafka");
    let mut seen = (0, 0);
    let arrived = eventually_async("all records arrive", PATIENCE, async || {
        let rows = sqlx::query_scalar("SELECT count(*) FROM rides").fetch_one(&mut connection).await;
        let ledger = sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger")
            .fetch_one(&mut connection)
            .await;
        // Before the first daemon has created the ledger, the query fails.
        seen = (rows.expect("the table is there"), ledger.unwrap_or(0));
        seen.0 >= total && seen.1 >= total
    });
    let arrived = arrived.await;
    assert!(arrived.is_ok(), "{seen:?} rows and ledger of {total}\n{}", logs(daemons));
    assert_eq!(seen, (total, total), "rows and the ledger's sum\n{}", logs(daemons));
    let distinct = world.number("SELECT count(DISTINCT id) FROM rides").await;
    let (low, high) =
        (world.number("SELECT min(id) FROM rides").await, world.number("SELECT max(id) FROM rides").await);
    assert_eq!((distinct, low, high), (total, 0, total - 1), "numbers without a gap\n{}", logs(daemons));
}

/// A thread that produces numbered records into all partitions of a topic, until [`Flow::stop`].
pub(crate) struct Flow {
    stop: Sender<()>,
    thread: JoinHandle<i64>,
}

impl Flow {
    /// Starts to produce records: 5 per partition, about every 50 ms.
    pub(crate) fn start(kafka: &'static Kafka, topic: &str, partitions: i32) -> Self {
        Self::start_from(kafka, topic, partitions, 0)
    }

    /// Starts a flow like [`Flow::start`], but numbers the records from `first` on. The records below `first` were sent before,
    /// and [`Flow::stop`] counts them too.
    pub(crate) fn start_from(kafka: &'static Kafka, topic: &str, partitions: i32, first: i64) -> Self {
        let (stop, stopped) = channel();
        let topic = topic.to_owned();
        let thread = std::thread::spawn(move || {
            let mut sent = first;
            while stopped.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
                kafka.produce(&topic, numbered(sent, partitions, 5)).expect("Kafka takes the records");
                sent += i64::from(partitions) * 5;
            }
            sent
        });
        Self { stop, thread }
    }

    /// Stops the flow. Returns how many records were sent, including those below `first` in [`Flow::start_from`].
    pub(crate) fn stop(self) -> i64 {
        drop(self.stop);
        self.thread.join().expect("the flow ends in order")
    }
}

/// A session of another client, which holds a lock until this value is released or dropped.
pub(crate) struct Intruder {
    connection: PgConnection,
}

impl Intruder {
    pub(crate) const NAME: &str = "nightly_report";

    /// Opens a transaction, runs `sql` in it, and leaves the transaction open.
    pub(crate) async fn hold(world: &World, sql: &str) -> Self {
        let mut connection = world.connect().await;
        let all = format!("SET application_name = '{}'; BEGIN; {sql}", Self::NAME);
        sqlx::raw_sql(&all).execute(&mut connection).await.expect("the lock is taken");
        Self { connection }
    }

    pub(crate) async fn release(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await.expect("the transaction ends");
        self.connection.close().await.expect("the session ends");
    }
}
