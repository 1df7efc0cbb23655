//! `make chaos`: a fleet produces, several daemons drain, and a seeded schedule hurts everything between. At the end every
//! record is held against the table.
//!
//! A seed gives the same faults in the same order; what they meet depends on the clock, as in life.

mod fault;
mod stage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

use fault::Fault;
use stage::Stage;

#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults go on.
    #[arg(long, env = "MINUTES", default_value_t = 5.0)]
    minutes: f64,
    /// What the schedule is drawn from; by default the clock's.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Records a second.
    #[arg(long, env = "RATE", default_value_t = 4000.0)]
    rate: f64,
    /// Daemons at the start.
    #[arg(long, default_value_t = 3)]
    daemons: usize,
    /// The daemon; by default the one beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        let arguments = Arguments::parse();
        runtime.block_on(campaign(&arguments))
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the campaign can't go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How often each kind came, and how long until the first commit after it was over.
#[derive(Debug, Default)]
struct Tally {
    count: usize,
    recoveries: Vec<Duration>,
}

async fn campaign(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut random = fastrand::Rng::with_seed(seed);
    println!("seed {seed}, {} minutes, {} records/s, {} daemons", arguments.minutes, arguments.rate, arguments.daemons);
    let binary = match &arguments.tidegate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    let mut stage = Stage::set(binary, arguments.rate, arguments.daemons, seed).await?;
    let mut tally: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let started = Instant::now();
    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    while started.elapsed() < length {
        let fault = Fault::draw(&mut random);
        println!("{:>6.1} s  {fault}", started.elapsed().as_secs_f64());
        stage.strike(&fault).await?;
        let recovery = stage.await_progress().await?;
        let entry = tally.entry(fault.kind()).or_default();
        entry.count += 1;
        entry.recoveries.push(recovery);
        // Some faults meet a flow at rest, most one that has just begun to flow again.
        tokio::time::sleep(Duration::from_millis(random.u64(200..3000))).await;
    }
    let books = stage.reconcile().await?;
    report(&tally);
    println!("\n  records produced   {:>10}", books.produced);
    println!("  in the table       {:>10}", books.rows);
    println!("  dead letters       {:>10}", books.dead_letters);
    println!("  missing            {:>10}", books.missing);
    println!("  twice              {:>10}", books.twice);
    println!("  damaged            {:>10}", books.damaged);
    let good = books.missing == 0 && books.twice == 0 && books.dead_letters == 0 && books.damaged == 0;
    println!("\n  {}", if good { "✔ every record is in the table once" } else { "✘ the books don't balance" });
    println!("  the same faults again: make chaos SEED={seed} MINUTES={}", arguments.minutes);
    Ok(good)
}

fn report(tally: &BTreeMap<&'static str, Tally>) {
    println!("\n  {:<34}{:>7}{:>16}{:>16}", "fault", "times", "recovery median", "longest");
    for (kind, tally) in tally {
        let mut sorted = tally.recoveries.clone();
        sorted.sort();
        let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        println!("  {kind:<34}{:>7}{:>14.1} s{:>14.1} s", tally.count, median.as_secs_f64(), longest.as_secs_f64());
    }
    println!("  {:<34}{:>7}", "all", tally.values().map(|tally| tally.count).sum::<usize>());
}
