//! Shared by the benches that drain a backlog: starts the servers and the daemon, waits until all records are written, and
//! computes medians.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::PgConnection;
use tidegate_harness::sql::committed_records;
use tidegate_harness::{
    Daemon, DaemonSpec, Database, Kafka, KafkaSpec, Postgres, PostgresSpec, TunedFor, start_both, unique_name,
};

/// The time between two checks of the progress. It is short compared with a drain, but checks are rare enough not to
/// slow the drain.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
const DRAIN_DEADLINE: Duration = Duration::from_secs(600);
pub(crate) const END_DEADLINE: Duration = Duration::from_secs(30);

/// Starts Kafka, and Postgres with settings for bulk loads. The settings that affect durability keep their defaults.
pub(crate) fn start_servers() -> Result<(Kafka, Postgres)> {
    let postgres = PostgresSpec::default()
        .tuned_for(TunedFor::Speed)
        .setting("max_wal_size = '8GB'")
        .setting("checkpoint_timeout = '30min'")
        .setting("shared_buffers = '1GB'");
    start_both(&KafkaSpec::single().tuned_for(TunedFor::Speed), &postgres)
}

pub(crate) const THIS_BUILD: &str = env!("CARGO_BIN_EXE_tidegate");

/// Starts a daemon whose only pipeline reads `topic`. `settings` are further lines of the pipeline's TOML, and `program` is the
/// path of the daemon's binary. Returns the daemon and the pipeline's name. Each call uses a new name, which makes a new consumer
/// group.
pub(crate) fn start_daemon(
    kafka: &Kafka,
    database: &Database,
    topic: &str,
    memory: &str,
    settings: &str,
    program: &Path,
) -> Result<(Daemon, String)> {
    let name = unique_name("bench");
    let config = format!("[limits]\nmemory = \"{memory}\"\n[pipelines.{name}]\ntopics = [\"{topic}\"]\n{settings}\n");
    let spec = DaemonSpec::new(program, config).on(kafka.bootstrap_servers(), &database.url)?;
    Ok((Daemon::spawn(&spec)?, name))
}

/// Waits until the ledger counts `records` records as written. Returns the rows per second between 10 % and 90 % of the records,
/// and the times from `started` until the first and until the last record was written.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^53")]
pub(crate) async fn await_drained(
    connection: &mut PgConnection,
    daemon: &Daemon,
    pipeline: &str,
    records: u64,
    started: Instant,
) -> Result<(f64, Duration, Duration)> {
    let (mut first, mut ten, mut ninety) = (None, None, None);
    loop {
        let (seen, at) = (committed_records(connection, pipeline).await?, started.elapsed());
        if seen > 0 {
            first.get_or_insert(at);
        }
        if seen * 10 >= records {
            ten.get_or_insert((at, seen));
        }
        if seen * 10 >= records * 9 {
            ninety.get_or_insert((at, seen));
        }
        if seen >= records
            && let (Some((begun, from)), Some((ended, to))) = (ten, ninety)
        {
            let rate = (to - from) as f64 / (ended - begun).as_secs_f64();
            return Ok((rate, first.unwrap_or(at), at));
        }
        let tail = || format!("{seen} of {records} records after {at:?}; {}", daemon.log_tail());
        ensure!(at < DRAIN_DEADLINE, "the drain takes too long: {}", tail());
        ensure!(daemon.exit_status().is_none(), "the daemon ended: {}", tail());
        tokio::time::sleep(LOOK).await;
    }
}

/// Returns the median; NaN if there are no values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
