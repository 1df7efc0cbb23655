//! A steady flow. Measures the time from a record's timestamp to its commit, and the resources that the daemon uses meanwhile.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fleet::Limit;
use sqlx::Executor;
use tidegate_harness::{Daemon, usage};

use crate::shared::{END_DEADLINE, start_daemon, start_servers};
use crate::stage::produce_spec;

const TOPIC: &str = "steady";
const PARTITIONS: NonZeroU16 = NonZeroU16::new(4).expect("four is not zero");
/// The time before the measurement starts, in which consumers join and JIT compilers warm up.
const WARM_UP: Duration = Duration::from_secs(10);

/// Produces `rate` records per second during the warm-up and then for `length`. Prints latency and CPU use, measured after the
/// warm-up and without the last second. Also prints the daemon's peak memory since its start.
pub(crate) async fn run(rate: f64, length: Duration, pipeline: &str, program: &Path) -> Result<()> {
    let (kafka, postgres) = start_servers()?;
    kafka.create_topic(TOPIC, i32::from(PARTITIONS.get()), &[])?;
    let database = postgres.create_database().await?;
    let mut connection = database.connect().await?;
    connection
        .execute(sqlx::raw_sql(
            "CREATE TABLE tele (vehicle_id bigint, ts timestamptz, lat float8, lon float8, speed_kmh real, state text, trip_id bigint,
                 kafka_ts timestamptz)",
        ))
        .await?;
    // The latency comes from the buckets of the daemon's metric. `track_commit_timestamp` would show the latency of
    // each row, but would add work for the database.
    let settings = format!("table.name = \"tele\"\n{pipeline}");
    let (daemon, _) = start_daemon(&kafka, &database, TOPIC, "256MiB", &settings, program)?;
    daemon.await_ready(Duration::from_secs(60))?;
    let mut spec = produce_spec(&kafka, TOPIC, PARTITIONS, false);
    spec.rate = rate;
    spec.limit = Limit { records: None, seconds: Some((WARM_UP + length).as_secs_f64()) };
    let producer = std::thread::spawn(move || fleet::produce(&spec, &AtomicBool::new(false), |_| {}));
    tokio::time::sleep(WARM_UP).await;
    let broker_before = usage::cpu_time(kafka.pid(0)?, true)?;
    let (before, cpu_before, started) = (buckets(&daemon)?, usage::cpu_time(daemon.pid(), true)?, Instant::now());
    tokio::time::sleep(length.saturating_sub(Duration::from_secs(1))).await;
    let (after, cpu_after, took) = (buckets(&daemon)?, usage::cpu_time(daemon.pid(), true)?, started.elapsed());
    let broker = usage::cpu_time(kafka.pid(0)?, true)?.saturating_sub(broker_before);
    let rss = usage::peak_rss_bytes(daemon.pid())?;
    let summary = producer.join().map_err(|_| anyhow::anyhow!("the producer panicked"))??.summary;
    ensure!(summary.failed == 0, "{} records failed", summary.failed);
    let counts: Vec<(f64, f64)> = after.iter().zip(&before).map(|((le, a), (_, b))| (*le, a - b)).collect();
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    println!(
        "steady {rate:.0} records/s for {took:.0?}: {total:.0} records, sent late by {:?} ms",
        summary.send_delay_ms
    );
    for share in [0.5, 0.9, 0.99, 0.999] {
        let bound = counts.iter().find(|(_, count)| *count >= total * share).map_or(f64::INFINITY, |(le, _)| *le);
        println!("  {:>5.1} % committed within {:>4.0} ms of their timestamp", share * 100.0, bound * 1000.0);
    }
    let percent = |cpu: Duration| cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!(
        "  daemon: {:.2} % of a core, peak RSS {:.0} MiB; broker: {:.1} % of a core",
        percent(cpu_after.saturating_sub(cpu_before)),
        rss as f64 / f64::from(1 << 20),
        percent(broker)
    );
    daemon.drain(END_DEADLINE)
}

/// Returns the buckets of the latency histogram. Each has its upper bound in seconds, and the number of records whose latency
/// isn't above it.
fn buckets(daemon: &Daemon) -> Result<Vec<(f64, f64)>> {
    let text = daemon.get("/metrics")?.body;
    let lines = text.lines().filter(|line| line.starts_with("tidegate_end_to_end_latency_seconds_bucket"));
    let parsed = lines.filter_map(|line| {
        let (_, rest) = line.split_once("le=\"")?;
        let (le, rest) = rest.split_once('"')?;
        let (_, count) = rest.rsplit_once(' ')?;
        Some((le.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
    });
    let buckets: Vec<(f64, f64)> = parsed.collect();
    ensure!(!buckets.is_empty(), "no latency in /metrics");
    Ok(buckets)
}
