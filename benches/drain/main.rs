//! The drain bench. The daemon, with an ordinary configuration, drains a backlog from Kafka into Postgres. It takes turns with a
//! bare `COPY … BINARY` of the same rows. Both contenders share the machine with the broker and the database, so only the ratios
//! are meaningful.
//!
//! ```text
//! cargo bench --bench drain                                        # 4 M records, 5 turns, plain table and indexed table
//! cargo bench --bench drain -- --records 2000000 --turns 3 --table plain
//! cargo bench --bench drain -- --versus 'python3 diy.py binary'    # another sink, run as: COMMAND TOPIC GROUP
//! cargo bench --bench drain -- --other old/tidegate                # another build of the daemon, in turns with this one
//! cargo bench --bench drain -- --table plain --partitions 4,100,1000 --lz4
//! cargo bench --bench drain -- --steady 20000 --seconds 60         # latency and cost at a steady rate
//! ```
//! Another sink gets `BOOTSTRAP` and `DSN` (libpq form) in its environment, writes into table `tele`, and exits when it
//! has written all records.

mod measure;
#[path = "../shared/mod.rs"]
mod shared;
mod stage;
mod steady;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use measure::Figures;
use shared::{THIS_BUILD, median};
use stage::{DaemonTurn, Stage, TableKind};

#[derive(Debug, Parser)]
struct Arguments {
    /// How many records the backlog has.
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// How many turns each contender has.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Measures only this kind of table.
    #[arg(long)]
    table: Option<TableKind>,
    /// Another sink, run as `COMMAND TOPIC GROUP`. It reads the topic of the first number in `--partitions`.
    #[arg(long, value_name = "COMMAND")]
    versus: Option<String>,
    /// Further configuration of the pipeline, in TOML.
    #[arg(long, default_value = "consumers = 2")]
    pipeline: String,
    /// The value of `limits.memory`.
    #[arg(long, default_value = "256MiB")]
    memory: String,
    /// Another build of the daemon, which takes turns with this one. With `--steady`, it runs instead of this one.
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
    /// The numbers of partitions to compare. Each number has a topic and turns of its own.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    partitions: Vec<NonZeroU16>,
    /// Compresses the records with LZ4.
    #[arg(long)]
    lz4: bool,
    /// Measures a steady flow of this many records per second, instead of a backlog. Of the other options, only `--seconds`,
    /// `--pipeline` and `--other` then have an effect.
    #[arg(long, value_name = "RATE")]
    steady: Option<f64>,
    /// How many seconds the steady flow lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let Some(rate) = arguments.steady else { return drain(&arguments).await };
        let program = arguments.other.as_deref().unwrap_or(Path::new(THIS_BUILD));
        steady::run(rate, Duration::from_secs(arguments.seconds), &arguments.pipeline, program).await
    })
}

async fn drain(arguments: &Arguments) -> Result<()> {
    eprintln!("starting Kafka and Postgres, loading {} records into each topic", arguments.records);
    let stage = Stage::set(arguments.records, &arguments.partitions, arguments.lz4).await?;
    let tables = arguments.table.map_or(vec![TableKind::Plain, TableKind::Indexed], |table| vec![table]);
    for table in tables {
        let mut daemons: Vec<Contender> = Vec::new();
        for partitions in &arguments.partitions {
            daemons.push(Contender::new("tidegate", Path::new(THIS_BUILD), *partitions));
            daemons
                .extend(arguments.other.as_deref().map(|program| Contender::new("other build", program, *partitions)));
        }
        let mut versus = Vec::new();
        let mut bare = [Vec::new(), Vec::new()];
        for turn in 0..arguments.turns {
            // A daemon that is the first of a turn is slower by some percent. So every second turn has the reverse order.
            let mut order: Vec<&mut Contender> = daemons.iter_mut().collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for Contender { name, program, partitions, figures } in order {
                let (partitions, pipeline) = (*partitions, &*arguments.pipeline);
                let turn_of = DaemonTurn { program, partitions, pipeline, memory: &arguments.memory };
                let measured = stage.drain(table, &turn_of).await?;
                eprintln!("  {table} turn {turn}: {name} {measured}");
                figures.push(measured);
            }
            if let Some(command) = &arguments.versus {
                let figures = stage.versus(table, command, arguments.partitions[0], turn).await?;
                eprintln!("  {table} turn {turn}: versus {figures}");
                versus.push(figures);
            }
            for (connections, list) in [1, 2].into_iter().zip(&mut bare) {
                let figures = stage.bare_copy(table, connections).await?;
                eprintln!("  {table} turn {turn}: bare COPY, {connections} connection(s) {figures}");
                list.push(figures);
            }
        }
        report(table, &daemons, &bare, &versus);
    }
    Ok(())
}

struct Contender {
    name: String,
    program: PathBuf,
    partitions: NonZeroU16,
    figures: Vec<Figures>,
}

impl Contender {
    fn new(build: &str, program: &Path, partitions: NonZeroU16) -> Self {
        let name = format!("{build}, {partitions} partitions");
        Self { name, program: program.to_owned(), partitions, figures: Vec::new() }
    }
}

/// Prints the medians of each contender's turns. Also prints the median ratio of the first contender to each of the others.
fn report(table: TableKind, daemons: &[Contender], bare: &[Vec<Figures>; 2], versus: &[Figures]) {
    let tidegate = &daemons[0].figures;
    let ratio = |other: &[Figures], of: fn(&Figures) -> f64| {
        median(tidegate.iter().zip(other).map(|(ours, theirs)| of(ours) / of(theirs)))
    };
    println!("\n{table} table, medians of {} turns", tidegate.len());
    println!(
        "  {:<28}{:>12}{:>12}{:>12}{:>14}{:>14}{:>12}",
        "", "rows/s", "whole run", "first row", "CPU-s/M rows", "PG CPU-s/M", "peak RSS"
    );
    let row = |name: &str, list: &[Figures]| {
        if list.is_empty() {
            return;
        }
        let of = |field: fn(&Figures) -> f64| median(list.iter().map(field));
        println!(
            "  {name:<28}{:>12.0}{:>12.0}{:>10.2} s{:>14.2}{:>14.2}{:>8.0} MiB",
            of(|f| f.rows_per_second),
            of(|f| f.rows_per_second_whole),
            of(|f| f.first_row),
            of(|f| f.cpu_per_million),
            of(|f| f.postgres_cpu_per_million),
            of(|f| f.peak_rss_mib),
        );
    };
    for daemon in daemons {
        row(&daemon.name, &daemon.figures);
    }
    row("bare COPY, 1 connection", &bare[0]);
    row("bare COPY, 2 connections", &bare[1]);
    row("versus", versus);
    let rate: fn(&Figures) -> f64 = |f| f.rows_per_second;
    println!(
        "  tidegate / bare COPY on 1 connection: {:.2}; on 2: {:.2}",
        ratio(&bare[0], rate),
        ratio(&bare[1], rate)
    );
    let others = daemons[1..].iter().map(|daemon| (&*daemon.name, &*daemon.figures));
    for (name, list) in others.chain((!versus.is_empty()).then_some(("versus", versus))) {
        println!("  tidegate / {name}: rows/s {:.2}, CPU {:.2}", ratio(list, rate), ratio(list, |f| f.cpu_per_million));
    }
}
