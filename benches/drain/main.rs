//! The drain bench: the daemon, with an ordinary configuration, drains a backlog from Kafka into Postgres, in turns with a bare
//! `COPY … BINARY` of the same rows. Both share the machine with broker and database, so only the ratios are meaningful.
//!
//! ```text
//! cargo bench --bench drain                                        # 4 M records, 5 turns, plain table and indexed table
//! cargo bench --bench drain -- --records 2000000 --turns 3 --table plain
//! cargo bench --bench drain -- --versus 'python3 diy.py binary'    # another sink, run as: COMMAND TOPIC GROUP
//! cargo bench --bench drain -- --steady 20000 --seconds 60         # latency and cost at a steady rate
//! ```
//! Another sink gets `BOOTSTRAP` and `DSN` (libpq form) in its environment, writes into table `tele`, and exits at the end.

mod measure;
#[path = "../shared/mod.rs"]
mod shared;
mod stage;
mod steady;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use measure::Figures;
use shared::median;
use stage::{Stage, TableKind};

#[derive(Debug, Parser)]
struct Arguments {
    /// How many records the backlog has.
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// How many turns each contender has.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Only this kind of table.
    #[arg(long)]
    table: Option<TableKind>,
    /// Another sink, run as `COMMAND TOPIC GROUP`.
    #[arg(long, value_name = "COMMAND")]
    versus: Option<String>,
    /// Further configuration of the pipeline, in TOML.
    #[arg(long, default_value = "consumers = 2")]
    pipeline: String,
    /// `limits.memory`
    #[arg(long, default_value = "256MiB")]
    memory: String,
    /// Records per second of a steady flow, instead of a backlog.
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
        match arguments.steady {
            Some(rate) => steady::run(rate, Duration::from_secs(arguments.seconds), &arguments.pipeline).await,
            None => drain(&arguments).await,
        }
    })
}

async fn drain(arguments: &Arguments) -> Result<()> {
    eprintln!("starting Kafka and Postgres, loading {} records into 4 partitions", arguments.records);
    let stage = Stage::set(arguments.records).await?;
    let tables = arguments.table.map_or(vec![TableKind::Plain, TableKind::Indexed], |table| vec![table]);
    for table in tables {
        let mut tidegate = Vec::new();
        let mut versus = Vec::new();
        let mut bare = [Vec::new(), Vec::new()];
        for turn in 0..arguments.turns {
            let figures = stage.drain(table, &arguments.pipeline, &arguments.memory, turn).await?;
            eprintln!("  {table} turn {turn}: tidegate {figures}");
            tidegate.push(figures);
            if let Some(command) = &arguments.versus {
                let figures = stage.versus(table, command, turn).await?;
                eprintln!("  {table} turn {turn}: versus {figures}");
                versus.push(figures);
            }
            for (connections, list) in [1, 2].into_iter().zip(&mut bare) {
                let figures = stage.bare_copy(table, connections).await?;
                eprintln!("  {table} turn {turn}: bare COPY, {connections} connection(s) {figures}");
                list.push(figures);
            }
        }
        report(table, &tidegate, &bare, &versus);
    }
    Ok(())
}

fn report(table: TableKind, tidegate: &[Figures], bare: &[Vec<Figures>; 2], versus: &[Figures]) {
    let ratio = |other: &[Figures]| {
        median(tidegate.iter().zip(other).map(|(ours, theirs)| ours.rows_per_second / theirs.rows_per_second))
    };
    println!("\n{table} table, medians of {} turns", tidegate.len());
    println!(
        "  {:<28}{:>12}{:>12}{:>14}{:>14}{:>12}",
        "", "rows/s", "whole run", "CPU-s/M rows", "PG CPU-s/M", "peak RSS"
    );
    let row = |name: &str, list: &[Figures]| {
        if list.is_empty() {
            return;
        }
        let of = |field: fn(&Figures) -> f64| median(list.iter().map(field));
        println!(
            "  {name:<28}{:>12.0}{:>12.0}{:>14.2}{:>14.2}{:>8.0} MiB",
            of(|f| f.rows_per_second),
            of(|f| f.rows_per_second_whole),
            of(|f| f.cpu_per_million),
            of(|f| f.postgres_cpu_per_million),
            of(|f| f.peak_rss_mib),
        );
    };
    row("tidegate, 10-90 %", tidegate);
    row("bare COPY, 1 connection", &bare[0]);
    row("bare COPY, 2 connections", &bare[1]);
    row("versus", versus);
    println!("  tidegate / bare COPY on 1 connection: {:.2}; on 2: {:.2}", ratio(&bare[0]), ratio(&bare[1]));
    if !versus.is_empty() {
        let cpu =
            median(tidegate.iter().zip(versus).map(|(ours, theirs)| ours.cpu_per_million / theirs.cpu_per_million));
        println!("  tidegate / versus: rows/s {:.2}, CPU {:.2}", ratio(versus), cpu);
    }
}
