//! `make demo`: a fleet sends telemetry into the real Kafka, the daemon drains it into the real Postgres, and the verdict holds
//! what is in the table against what was sent.

mod progress;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use fleet::{Limit, ProduceSpec};
use tidegate_harness::{Daemon, DaemonSpec, Kafka, KafkaSpec, Postgres, PostgresSpec, TunedFor, free_port};

use progress::Screen;
use verdict::Verdict;

const TOPIC: &str = "telemetry";
/// How long everything may take to be written once the fleet has ended.
const DRAIN: Duration = Duration::from_secs(120);

/// A fleet, Kafka, Tidegate, Postgres: watch the rows land.
#[derive(Debug, Parser)]
struct Arguments {
    /// Vehicles; each sends once a second of its own clock.
    #[arg(long, default_value_t = 50_000)]
    vehicles: u32,
    /// Records a second.
    #[arg(long, default_value_t = 100_000.0)]
    rate: f64,
    /// How long the fleet drives, in seconds.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// What the fleet's randomness starts from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Goes on until Ctrl-C.
    #[arg(long, env = "KEEP", value_parser = |text: &str| Ok::<_, String>(!matches!(text, "" | "0" | "false")), default_value = "0")]
    keep: bool,
    /// The daemon; by default the one beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|rt| rt.block_on(demo(&Arguments::parse())));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo can't go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it; whether the verdict is good.
async fn demo(arguments: &Arguments) -> Result<bool> {
    let mut screen = Screen::new();
    screen.say("starting the real Kafka 4.2 (KRaft) and the real PostgreSQL 18; the first time they are fetched");
    let kafka = Kafka::start(&KafkaSpec::single().tuned_for(TunedFor::Speed))?;
    let postgres =
        Postgres::start(&PostgresSpec::default().tuned_for(TunedFor::Speed).setting("max_wal_size = '4GB'"))?;
    kafka.create_topic(TOPIC, 2, &[])?;
    let database = postgres.create_database().await?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let daemon = start_daemon(arguments, &kafka, &database.url, &listen)?;
    daemon.await_ready(Duration::from_secs(60))?;
    screen.say(&format!(
        "Kafka {}   Postgres {}   live page http://{listen}/",
        kafka.bootstrap_servers(),
        database.url
    ));

    let ended = Arc::new(AtomicBool::new(false));
    let producer = produce(arguments, kafka.bootstrap_servers(), Arc::clone(&ended));
    let started = Instant::now();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut drain_since = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut interrupt, if !ended.load(Ordering::Relaxed) => ended.store(true, Ordering::Relaxed),
        }
        let sent: i64 = kafka.end_offsets(TOPIC)?.iter().sum();
        let look = progress::Look::at(&daemon, sent, started.elapsed())?;
        screen.draw(&look);
        if producer.is_finished() {
            let since = *drain_since.get_or_insert_with(Instant::now);
            if look.written >= sent || since.elapsed() > DRAIN {
                break;
            }
        }
    }
    let peak_rss = tidegate_harness::usage::peak_rss_bytes(daemon.pid())?;
    let cpu = tidegate_harness::usage::cpu_time(daemon.pid(), true)?;
    daemon.terminate()?;
    daemon.wait_exit(Duration::from_secs(60)).context("the daemon's drain")?;
    let outcome = producer.join().map_err(|_| anyhow::anyhow!("the fleet panicked"))??;
    screen.say("the fleet has parked; holding the table against what was sent");
    let verdict = Verdict::reach(&database, &kafka.end_offsets(TOPIC)?, &outcome).await?;
    Ok(verdict.print(&screen, peak_rss, cpu))
}

fn start_daemon(arguments: &Arguments, kafka: &Kafka, url: &str, listen: &str) -> Result<Daemon> {
    let binary = match &arguments.tidegate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    let spec = DaemonSpec::new(binary, include_str!("../../config/demo.toml"))
        .http_address(listen)
        .env("TIDEGATE__KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap_servers())
        .env("TIDEGATE__POSTGRES__URL", url)
        .env("TIDEGATE__HTTP__LISTEN", listen);
    Daemon::spawn(&spec)
}

fn produce(
    arguments: &Arguments,
    servers: impl Into<String>,
    ended: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Result<fleet::Outcome, fleet::ProduceError>> {
    let mut spec = ProduceSpec::new(servers, TOPIC);
    spec.fleet.vehicles = arguments.vehicles;
    spec.fleet.seed = arguments.seed;
    spec.delivery.late = 0.01;
    spec.delivery.repeat = 0.01;
    spec.rate = arguments.rate;
    spec.keep_truth = true;
    spec.limit = Limit { records: None, seconds: (!arguments.keep).then_some(arguments.seconds) };
    std::thread::spawn(move || fleet::produce(&spec, &ended, |_| {}))
}
