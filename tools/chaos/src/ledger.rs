//! Measures the cost of the ledger while a session holds a snapshot open, as a long report does. Meanwhile Postgres must keep
//! every version of every ledger row: with a thousand partitions and five batches per second, five thousand versions per second.
//!
//! The scenario uses no Kafka. Batches are written by [`PgStore`], as in the daemon. Each batch is a COPY of one row per
//! partition, the update of the ledger, and a COMMIT.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use sqlx::{Executor, PgConnection, Row};
use tidegate::config::Config;
use tidegate::metrics::WriterMetrics;
use tidegate::plan::PlanSource;
use tidegate::postgres::connect::Connector;
use tidegate::postgres::{PgStore, claims, register, schema};
use tidegate_harness::{Database, Postgres, PostgresSpec};
use tidegate_protocol::batch::{Batch, Incoming, Trigger};
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::store::{Planner, Transaction, WriteError};
use tokio::time::interval;

use crate::output::Output;

const EVERY: Duration = Duration::from_millis(200);
/// How long batches are measured before the snapshot is taken, and again after the snapshot is released.
const BESIDE: Duration = Duration::from_secs(60);
const REPORT: Duration = Duration::from_secs(30);
/// The limit for the cost of a batch: if a batch takes 10 ms before the snapshot, it may take 15 ms at the snapshot's end.
const FLAT: f64 = 1.5;

const CONFIG: &str = "[kafka]\nbootstrap_servers = \"127.0.0.1:9\"\n[postgres]\nurl = \"URL\"\n\
    [pipelines.rides]\ntopics = [\"t\"]\n[pipelines.rides.table]\nname = \"rides\"\n";

struct Bench {
    store: PgStore,
    claims: Vec<(TopicPartition, Claim)>,
    next: i64,
    looker: PgConnection,
}

/// The durations that were measured since the last report: of each update of the ledger (`move_`), and of each whole transaction.
#[derive(Default)]
struct Times {
    move_: Vec<Duration>,
    whole: Vec<Duration>,
}

/// Runs the scenario with this many partitions, and holds the snapshot for `minutes`. Returns whether the cost of a batch stayed
/// within the limit [`FLAT`].
pub(crate) async fn run(output: &Output, minutes: f64, partitions: i32) -> Result<bool> {
    let postgres = Postgres::start(&PostgresSpec::default().without_fsync())?;
    let database = postgres.create_database().await?;
    let mut bench = Bench::new(&database, partitions).await?;
    output.say(format!(
        "  {:>8}  {:<10}{:>12}{:>12}{:>12}{:>12}{:>14}{:>14}",
        "", "snapshot", "batch", "95 %", "ledger", "95 %", "ledger table", "its indexes"
    ));
    let started = Instant::now();
    let before = bench.measure(output, started, BESIDE, "none").await?;
    let mut report = database.connect().await?;
    report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM rides").await?;
    let during = bench.measure(output, started, Duration::from_secs_f64(minutes * 60.0), "held").await?;
    report.execute("COMMIT").await?;
    let after = bench.measure(output, started, BESIDE, "gone").await?;
    let ratio = during.as_secs_f64() / before.as_secs_f64();
    let flat = ratio <= FLAT;
    output.say(format!(
        "  a batch before {before:.1?}, at the end of the snapshot {during:.1?} ({ratio:.2} times), afterwards {after:.1?}\n  {} the cost of a batch {}",
        if flat { "✔" } else { "✘" },
        if flat { "stays flat" } else { "grows with the snapshot's age" }
    ));
    Ok(flat)
}

impl Bench {
    async fn new(database: &Database, partitions: i32) -> Result<Self> {
        let mut connection = database.connect().await?;
        connection.execute("CREATE TABLE rides (seq bigint)").await?;
        schema::migrate(&mut connection).await?;
        let config = Config::parse("ledger.toml", &CONFIG.replace("URL", &database.url));
        let config = config.map_err(|faults| anyhow!("{faults}"))?;
        let pipeline = &config.pipelines[0];
        connection
            .execute(
                "INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, version)
                 VALUES ('rides', '', '', '', 0, '')",
            )
            .await?;
        let sources: Vec<TopicPartition> = (0..partitions).map(|n| TopicPartition::new("t", n)).collect();
        let starts: Vec<_> = sources.iter().map(|source| (source.clone(), Offset::ZERO)).collect();
        register::insert_lost_rows(&mut connection, "rides", &starts).await?;
        let claimed = claims::claim(&mut connection, "rides", "the bench", &sources).await?;
        let claims = claimed.into_iter().map(|claimed| (claimed.source, claimed.claim)).collect();
        let plans = PlanSource::load(pipeline, &mut connection).await.map_err(|error| anyhow!("{error:?}"))?;
        let connector = Connector::new(Arc::new(config.postgres.clone()), Some("rides"));
        let store = PgStore::new("rides".into(), connector, Arc::new(plans), WriterMetrics::new(&"rides".into()));
        Ok(Self { store, claims, next: 0, looker: database.connect().await? })
    }

    /// Writes batches at a constant rate for `length`, and reports their cost. `origin` is the start of the scenario, and
    /// `snapshot` is a word for the state of the snapshot. The reports show both. Returns the median cost of a batch in the last
    /// report.
    async fn measure(
        &mut self,
        output: &Output,
        origin: Instant,
        length: Duration,
        snapshot: &str,
    ) -> Result<Duration> {
        let (started, mut reported, mut last) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut times = Times::default();
        let mut ticks = interval(EVERY);
        while started.elapsed() < length {
            ticks.tick().await;
            let (move_, whole) = self.write().await.map_err(|error| anyhow!("{error}"))?;
            times.move_.push(move_);
            times.whole.push(whole);
            if reported.elapsed() >= REPORT.min(length) {
                reported = Instant::now();
                let Times { mut move_, mut whole } = std::mem::take(&mut times);
                move_.sort();
                whole.sort();
                last = at(&whole, 50);
                let sql = "SELECT pg_relation_size('tidegate.ledger'), pg_indexes_size('tidegate.ledger')";
                let row = sqlx::query(sql).fetch_one(&mut self.looker).await?;
                let (table, indexes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                output.say(format!(
                    "  {:>6.0} s  {snapshot:<10}{:>12.1?}{:>12.1?}{:>12.1?}{:>12.1?}{:>10} KiB{:>10} KiB",
                    origin.elapsed().as_secs_f64(),
                    last,
                    at(&whole, 95),
                    at(&move_, 50),
                    at(&move_, 95),
                    table >> 10,
                    indexes >> 10
                ));
            }
        }
        Ok(last)
    }

    /// Writes one batch with one record per partition. Returns how long the update of the ledger took, and how long
    /// the whole transaction took.
    async fn write(&mut self) -> Result<(Duration, Duration), WriteError> {
        let mut batch = Batch::new();
        batch.plan_version = self.store.newest_plan();
        let value = format!("{{\"seq\":{}}}", self.next);
        for (source, claim) in &self.claims {
            let from = Offset::new(self.next);
            let segment = batch.open_segment(source.clone(), *claim, from);
            let incoming =
                Incoming { offset: from, timestamp_ms: Some(self.next), key: None, value: Some(value.as_bytes()) };
            let store = &mut self.store;
            batch.push(segment, &incoming, Instant::now(), |_| (), |record, rows| store.encode(record, rows));
        }
        batch.seal(Trigger::Age);
        self.next += 1;
        let all = 0..batch.len();
        let spans = batch.spans(all.clone());
        let started = Instant::now();
        self.store.begin().await?;
        self.store.copy(&batch, all).await?;
        let moving = Instant::now();
        let moved = self.store.advance(&spans).await?;
        let moving = moving.elapsed();
        assert!(moved.iter().all(|moved| *moved), "each row is ours and stands where we left it");
        self.store.commit().await?;
        Ok((moving, started.elapsed()))
    }
}

fn at(sorted: &[Duration], per_cent: usize) -> Duration {
    sorted.get(sorted.len() * per_cent / 100).copied().unwrap_or_default()
}
