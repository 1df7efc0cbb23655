//! `fleet`: simulated vehicles on the command line.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use fleet::{
    Compression, Deliveries, DeliverySpec, Encoder, Fleet, FleetSpec, Format, Limit, Partitioning, ProduceSpec,
    Profile, Progress, Tariff, Truth, WatchSpec, WhenFull, create_topic, produce, watch_until,
};
use tokio::signal::unix::{SignalKind, signal};

/// Simulates a fleet of vehicles and sends its telemetry to Kafka.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends telemetry to a topic at a given rate, and reports how many records were acknowledged and how late they were sent.
    Produce(Box<ProduceArgs>),
    /// Shows a trip as its customer sees it in the table `customer_info`, and how old that information is.
    Watch(WatchArgs),
    /// Prints telemetry on standard output, one record per line, without Kafka.
    Print(PrintArgs),
    /// Creates a topic if it doesn't exist.
    Topic(TopicArgs),
}

#[derive(Args)]
struct FleetArgs {
    /// The number of vehicles. Each sends one record per simulated second.
    #[arg(long, default_value_t = 1_000)]
    vehicles: u32,
    /// The seed of the random numbers: with the same seed and `--start`, vehicles send the same records.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The time at which the simulation starts: an RFC 3339 time, or `now` for the time at which the first record is sent.
    #[arg(long, default_value = "now")]
    start: Start,
    /// The lengths of the shortest and the longest trip, in metres.
    #[arg(long, num_args = 2, default_values_t = [800, 6_000], value_names = ["FROM", "TO"])]
    trip_metres: Vec<u32>,
    /// How many of 1000 vehicles are in the region north.
    #[arg(long, default_value_t = 500)]
    north_permille: u32,
    /// The share of records that are sent late and out of order, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    late: f64,
    /// The share of records that are sent twice, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    repeat: f64,
    /// The form of a record: `telemetry`, or the smaller `compact` for benchmarks.
    #[arg(long, default_value = "telemetry")]
    format: Format,
    /// The partition of a record: `region` (north is 0, south is 1), or `vehicle:N` (N partitions, by the vehicle's number).
    #[arg(long, default_value = "region")]
    partitioning: Partitioning,
    /// Writes the expected results of consumers into this file. If its name ends in `.csv`, writes only the trips, as
    /// CSV; otherwise writes everything, as JSON.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Prices in cents for the fares in `--truth`: BASE,PER_KM,PER_MINUTE,PER_PAUSED_MINUTE,MINIMUM.
    #[arg(long, default_value = "250,180,35,20,600")]
    tariff: Tariff,
}

#[derive(Args)]
struct ProduceArgs {
    /// One or more brokers, each as `host:port`, separated by commas.
    #[arg(long, default_value = "localhost:9092")]
    bootstrap_servers: String,
    /// The topic, which must exist.
    #[arg(long)]
    topic: String,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Records per second; 0 means as fast as possible. Default: the number of vehicles, which is real time without `--repeat`.
    /// At a higher rate the field `ts` runs ahead of the clock. Kafka's timestamp is always the time of sending.
    #[arg(long)]
    rate: Option<f64>,
    /// Ends after this many records, repetitions included.
    #[arg(long)]
    records: Option<u64>,
    /// Ends after this many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// The rate over time: `steady`, `rush-hour:PEAK:SECONDS` or `burst:FACTOR:AFTER:SECONDS`. PEAK and FACTOR are multiples of
    /// the rate.
    #[arg(long, default_value = "steady")]
    profile: Profile,
    /// How the producer compresses: `lz4` or `none`.
    #[arg(long, default_value = "lz4")]
    compression: Compression,
    /// The size of the producer's queue, in KiB.
    #[arg(long, default_value_t = 65_536)]
    queue_kib: u32,
    /// Drops records while the producer's queue is full. By default they wait.
    #[arg(long)]
    refuse_when_full: bool,
    /// A property of librdkafka. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Prints the summary as one JSON document.
    #[arg(long)]
    json: bool,
    /// Prints no progress on standard error.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct PrintArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The number of records, repetitions included.
    #[arg(long, default_value_t = 10)]
    records: u64,
}

#[derive(Args)]
struct WatchArgs {
    /// The trip's number. A vehicle's first trip has the vehicle's number.
    #[arg(long)]
    trip: u64,
    /// Where the customer waits. Default: the middle of the vehicle's region.
    #[arg(long, value_name = "LAT,LON", value_parser = place, allow_hyphen_values = true)]
    at: Option<(i64, i64)>,
    /// The database that the pipeline `customer_info` writes to.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://postgres@127.0.0.1:5432/telemetry",
        hide_env_values = true
    )]
    database_url: String,
    /// Ends after this many new readings, or when the trip has ended.
    #[arg(long)]
    readings: Option<u64>,
    /// Ends after this many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Prints the summary as one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct TopicArgs {
    /// One or more brokers, each as `host:port`, separated by commas.
    #[arg(long, default_value = "localhost:9092")]
    bootstrap_servers: String,
    /// The topic's name.
    #[arg(long)]
    topic: String,
    /// The number of partitions.
    #[arg(long, default_value_t = 2)]
    partitions: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Produce(args) => run_produce(*args).await,
        Command::Watch(args) => run_watch(args).await,
        Command::Print(args) => print(&args),
        Command::Topic(TopicArgs { bootstrap_servers, topic, partitions }) => {
            let made = create_topic(&bootstrap_servers, &topic, partitions)
                .await
                .with_context(|| format!("could not create topic `{topic}`"))?;
            println!("topic `{topic}` {}", if made { "created" } else { "exists" });
            Ok(())
        }
    }
}

async fn run_produce(args: ProduceArgs) -> Result<()> {
    let spec = args.spec();
    let stop = Arc::new(AtomicBool::new(false));
    let line = ProgressLine { shown: !args.quiet, live: io::stderr().is_terminal() };
    let stopped = Arc::clone(&stop);
    let mut run = tokio::task::spawn_blocking(move || {
        let outcome = produce(&spec, &stopped, |progress| line.show(progress));
        line.end();
        outcome
    });
    let outcome = tokio::select! {
        outcome = &mut run => outcome,
        signal = asked_to_end() => {
            signal.context("could not listen for signals")?;
            stop.store(true, Ordering::Relaxed);
            run.await
        }
    };
    let outcome = outcome.context("the producer panicked")??;
    if let (Some(path), Some(truth)) = (&args.fleet.truth, &outcome.truth) {
        write_truth(path, truth, &args.fleet.tariff)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome.summary)?);
    } else {
        print!("{}", outcome.summary);
    }
    if outcome.summary.failed + outcome.summary.unacked > 0 {
        bail!("not every record was acknowledged");
    }
    Ok(())
}

async fn run_watch(args: WatchArgs) -> Result<()> {
    let WatchArgs { trip, at, database_url, readings, seconds, json } = args;
    let spec = WatchSpec { database_url, trip_id: trip, at, readings };
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX);
    let stop = async {
        tokio::select! {
            _ = asked_to_end() => {}
            () = tokio::time::sleep(seconds) => {}
        }
    };
    let summary = watch_until(&spec, stop, |words| if json { eprintln!("{words}") } else { println!("{words}") })
        .await
        .context("could not reach the database")?;
    if json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{summary}");
    }
    Ok(())
}

/// Waits for SIGINT (sent by Ctrl-C) or SIGTERM (sent by container runtimes).
async fn asked_to_end() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

fn print(args: &PrintArgs) -> Result<()> {
    let spec = args.fleet.spec();
    let fleet = Fleet::new(spec.clone())?;
    let mut truth = Truth::new(spec, args.fleet.partitioning);
    let (mut encoder, mut line) = (Encoder::new(args.fleet.format), Vec::new());
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for delivery in Deliveries::new(fleet, args.fleet.delivery(), Some(args.records)) {
        if args.fleet.truth.is_some() {
            truth.add(&delivery);
        }
        line.clear();
        encoder.write(&delivery.reading, &mut line);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()?;
    args.fleet.truth.as_deref().map_or(Ok(()), |path| write_truth(path, &truth, &args.fleet.tariff))
}

impl FleetArgs {
    fn spec(&self) -> FleetSpec {
        FleetSpec {
            vehicles: self.vehicles,
            seed: self.seed,
            start_ms: self.start.ms(),
            north_permille: self.north_permille,
            trip_metres: [self.trip_metres[0], self.trip_metres[1]],
            ..FleetSpec::default()
        }
    }

    fn delivery(&self) -> DeliverySpec {
        DeliverySpec { late: self.late, repeat: self.repeat }
    }
}

impl ProduceArgs {
    fn spec(&self) -> ProduceSpec {
        let when_full = if self.refuse_when_full { WhenFull::Refuse } else { WhenFull::Wait };
        ProduceSpec {
            fleet: self.fleet.spec(),
            start_now: self.fleet.start == Start::Now,
            delivery: self.fleet.delivery(),
            rate: self.rate.unwrap_or(self.fleet.vehicles.into()),
            profile: self.profile,
            limit: Limit { records: self.records, seconds: self.seconds },
            partitioning: self.fleet.partitioning,
            format: self.fleet.format,
            compression: self.compression,
            queue_kib: self.queue_kib,
            when_full,
            keep_truth: self.fleet.truth.is_some(),
            settings: self.settings.clone(),
            ..ProduceSpec::new(self.bootstrap_servers.as_str(), self.topic.as_str())
        }
    }
}

/// A progress line. On a terminal it is overwritten; elsewhere each update is a new line.
struct ProgressLine {
    shown: bool,
    live: bool,
}

impl ProgressLine {
    fn show(&self, progress: &Progress) {
        match (self.shown, self.live) {
            (false, _) => {}
            (true, true) => eprint!("\r\x1b[K{progress}"),
            (true, false) => eprintln!("{progress}"),
        }
    }

    fn end(&self) {
        if self.shown && self.live {
            eprintln!();
        }
    }
}

fn write_truth(path: &Path, truth: &Truth, tariff: &Tariff) -> Result<()> {
    let write = |file| match path.extension() {
        Some(extension) if extension == "csv" => truth.write_csv(tariff, BufWriter::new(file)),
        _ => truth.write_json(tariff, BufWriter::new(file)),
    };
    File::create(path).and_then(write).with_context(|| format!("could not write the truth to `{}`", path.display()))
}

/// When the simulated clock begins: at the current time, or at a time in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Now,
    At(i64),
}

impl Start {
    fn ms(self) -> i64 {
        match self {
            Self::Now => jiff::Timestamp::now().as_millisecond(),
            Self::At(ms) => ms,
        }
    }
}

impl FromStr for Start {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        if text == "now" { Ok(Self::Now) } else { Ok(Self::At(text.parse::<jiff::Timestamp>()?.as_millisecond())) }
    }
}

/// Reads a place such as `52.53,13.33`. Returns it in millionths of a degree.
fn place(text: &str) -> Result<(i64, i64), String> {
    let millionths = |text: &str, most: f64| {
        let degrees = text.trim().parse::<f64>().ok().filter(|degrees| degrees.abs() <= most)?;
        #[expect(clippy::cast_possible_truncation, reason = "at most 180 million")]
        Some((degrees * 1e6).round() as i64)
    };
    let place = text.split_once(',').and_then(|(lat, lon)| Some((millionths(lat, 90.0)?, millionths(lon, 180.0)?)));
    place.ok_or_else(|| format!("`{text}` is no LAT,LON in degrees"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
