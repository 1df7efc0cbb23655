//! The last rung of the ladder: the daemon with its ledger writes the same rows as the other rungs, from JSON in Kafka.

use std::num::NonZeroU16;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleet::{FleetSpec, Limit, Partitioning, ProduceSpec};
use tidegate_harness::sql::committed_records;
use tidegate_harness::{unique_name, usage};

use super::Sample;
use crate::stage::{Stage, wal_position};

const TOPIC: &str = "ladder";
const PARTITIONS: NonZeroU16 = NonZeroU16::new(2).expect("two is not zero");
const LOOK: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(60);

/// Fills the topic. Every run of this rung reads the topic from the beginning.
pub(super) fn load(stage: &Stage, fleet: FleetSpec, records: u64) -> Result<()> {
    stage.kafka.create_topic(TOPIC, PARTITIONS.get().into(), &[])?;
    let mut spec = ProduceSpec::new(stage.kafka.bootstrap_servers(), TOPIC);
    spec.fleet = fleet;
    spec.rate = 0.0;
    spec.partitioning = Partitioning::ByVehicle(PARTITIONS);
    spec.limit = Limit { records: Some(records), seconds: None };
    let outcome = fleet::produce(&spec, &AtomicBool::new(false), |_| {})?;
    ensure!(outcome.summary.acked == records, "Kafka took {} of {records} records", outcome.summary.acked);
    Ok(())
}

/// Measures a drain from the first commit to the first commit after `run`, or to the commit of the last record. The rate excludes
/// the start of the daemon and the records of the first commit. The costs (CPU time and WAL) include them. If the first commit
/// has all records, the drain is measured from the start of the daemon.
pub(super) async fn measure(stage: &Stage, records: u64, run: Duration) -> Result<Sample> {
    let mut watcher = stage.fresh_table().await?;
    let wal = wal_position(&mut watcher).await?;
    let (postgres, kafka) = (stage.postgres_pid().context("Postgres is stopped")?, stage.kafka.pid(0)?);
    let (database_before, kafka_before) = (usage::cpu_time(postgres, true)?, usage::cpu_time(kafka, true)?);
    let daemon = stage.daemon(TOPIC, &unique_name("ladder"))?;
    let started = Instant::now();
    let (mut first, mut before) = (None, 0);
    // Measure from one commit to another, so that uncommitted records count at neither end.
    let (first_rows, began, rows, last) = loop {
        let (rows, now) = (committed_records(&mut watcher, "ride").await?, Instant::now());
        if rows > before {
            match first {
                None if rows < records => first = Some((rows, now)),
                None => break (0, started, rows, now),
                Some((first_rows, began)) if rows >= records || now.duration_since(began) >= run => {
                    break (first_rows, began, rows, now);
                }
                Some(_) => {}
            }
        }
        before = rows;
        ensure!(started.elapsed() < DEADLINE, "too little was drained within {DEADLINE:?}; {}", daemon.log_tail());
        ensure!(daemon.exit_status().is_none(), "the daemon ended; {}", daemon.log_tail());
        tokio::time::sleep(LOOK).await;
    };
    let client_cpu = usage::cpu_time(daemon.pid(), true)?.as_secs_f64();
    let database = usage::cpu_time(postgres, true)?.saturating_sub(database_before);
    let kafka = usage::cpu_time(kafka, true)?.saturating_sub(kafka_before);
    let wal_bytes = wal_position(&mut watcher).await? - wal;
    // Killing the daemon rolls back its open transaction. The next run has its own table and group.
    daemon.kill()?;
    Ok(Sample {
        rows: rows - first_rows,
        seconds: last.duration_since(began).as_secs_f64(),
        database_cpu: database.as_secs_f64(),
        client_cpu,
        kafka_cpu: kafka.as_secs_f64(),
        wal_bytes,
        rows_of_costs: rows,
    })
}
