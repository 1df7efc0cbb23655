//! `make chaos`: a producer sends records, and several daemons write them to the table. Meanwhile faults break the daemons, the
//! servers and the networks between them. At the end, every record is compared with the table.
//!
//! The same seed gives the same faults in the same order. The clock determines which work a fault interrupts.
//!
//! Three scenarios measure something else. `SCENARIO=outage` stops the database once, for long, at full input. `SCENARIO=ledger`
//! measures the ledger's cost with a thousand partitions while a session holds a snapshot open. `SCENARIO=restarts` measures how
//! long partitions make no progress when a daemon ends and starts.

mod accounting;
mod campaign;
mod fault;
mod ledger;
mod load;
mod outage;
mod output;
mod restarts;
mod stage;
mod strike;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use output::Output;
use stage::{Stage, StageSpec};

#[derive(Debug, Parser)]
struct Arguments {
    /// The scenario.
    #[arg(long, env = "SCENARIO", default_value = "campaign")]
    scenario: Scenario,
    /// In the scenario `campaign`, how many minutes faults are injected; in `outage`, how many minutes the database is
    /// unavailable; in `ledger`, how many minutes the snapshot is held.
    #[arg(long, env = "MINUTES", default_value_t = 5.0)]
    minutes: f64,
    /// The seed of the schedule of faults; by default random.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Records per second. Default: 20000 in the scenario `outage`, 2000 in the scenario `campaign`.
    #[arg(long, env = "RATE")]
    rate: Option<f64>,
    /// In the scenario `campaign`, the limit in seconds for the first commit after the database was unavailable. The
    /// documentation promises the default value, for a machine that isn't overloaded.
    #[arg(long, env = "RECOVERY", default_value_t = 2.0)]
    recovery: f64,
    /// `group_protocol` of the daemons: cooperative, eager or consumer. The scenario `restarts` accepts
    /// several, separated by commas.
    #[arg(long, env = "PROTOCOL", default_value = "cooperative")]
    protocol: String,
    /// The number of partitions in the scenario `ledger`.
    #[arg(long, env = "PARTITIONS", default_value_t = 1000)]
    partitions: i32,
    /// The number of daemons at the start of the scenario `campaign`.
    #[arg(long, env = "DAEMONS", default_value_t = 3)]
    daemons: usize,
    /// How many times the scenario `restarts` repeats a measurement. The rolling restart is measured once.
    #[arg(long, env = "ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// How daemons get their names in the scenario `restarts`: `derived` (from host and port), `set` (in the
    /// configuration), or both.
    #[arg(long, env = "NAMES", default_value = "derived,set")]
    names: String,
    /// The path of the daemon's program. Default: the file `tidegate` beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Faults of all kinds, one after another.
    Campaign,
    /// The database is unavailable for `MINUTES`, at full input.
    Outage,
    /// A session holds a snapshot open for `MINUTES`, while batches update the ledger of `PARTITIONS` partitions.
    Ledger,
    /// Daemons are stopped and started, and the time without progress is measured.
    Restarts,
}

fn main() -> ExitCode {
    let outcome = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        let arguments = Arguments::parse();
        runtime.block_on(run(&arguments))
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

async fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { scenario, minutes, protocol, daemons, .. } = arguments;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let binary = match &arguments.tidegate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let output = Output::new(&format!("{name}-{seed}"))?;
    let cast = match scenario {
        Scenario::Ledger => return ledger::run(&output, *minutes, arguments.partitions).await,
        Scenario::Restarts => {
            let plan = restarts::Plan {
                binary: &binary,
                protocols: protocol.split(',').collect(),
                names: arguments.names.split(',').collect(),
                rounds: arguments.rounds,
            };
            return restarts::run(&output, &plan).await;
        }
        Scenario::Campaign => StageSpec {
            binary,
            daemons: *daemons,
            consumers: 2,
            partitions: 6,
            protocol: protocol.clone(),
            rate: arguments.rate.unwrap_or(2000.0),
            memory: "256MiB".to_owned(),
            batch: "{ max_rows = 2000, max_age = \"200ms\" }".to_owned(),
            topic: Vec::new(),
        },
        Scenario::Outage => StageSpec {
            binary,
            daemons: 1,
            consumers: 2,
            partitions: 4,
            protocol: protocol.clone(),
            rate: arguments.rate.unwrap_or(20_000.0),
            memory: "128MiB".to_owned(),
            batch: "{ max_rows = 20_000, max_age = \"500ms\" }".to_owned(),
            // Without a finite retention, there would be no headroom to measure.
            topic: vec![("retention.ms", "14400000".to_owned())],
        },
    };
    let rate = cast.rate;
    output
        .say(format!("{name}: seed {seed}, {minutes} minutes, {rate} records/s, {} daemons, {protocol}", cast.daemons));
    let mut stage = Stage::set(cast, output).await?;
    let outcome = match scenario {
        Scenario::Campaign => {
            let soon = Duration::from_secs_f64(arguments.recovery);
            campaign::run(&mut stage, *minutes, soon, &mut fastrand::Rng::with_seed(seed)).await
        }
        Scenario::Outage => outage::run(&mut stage, *minutes).await,
        Scenario::Ledger | Scenario::Restarts => unreachable!("it has no stage"),
    };
    if let Err(error) = &outcome {
        stage.output.say(format!("\n  ✘ {error:#}"));
    }
    stage.output.say(format!(
        "  the same again: make chaos SCENARIO={name} SEED={seed} MINUTES={minutes} RATE={rate} PROTOCOL={protocol}\n  all of this, and what the daemons wrote: {}",
        stage.output.folder().display()
    ));
    outcome.context("it ended before its time")
}
