//! `make demo`: runs two experiments and three services on a real Kafka and a real Postgres.
//!
//! ```text
//! stage ──► ladder (A: batching) ──► flood (B: four arrangements) ──► services (three consumer groups) ──► verdict
//!              │                        │                                │
//!              └────────────────────────┴── raw CSV files + run.json ────┴──► draw, report: read them back
//! ```
//!
//! All plots and texts are made from the raw files. `demo --redraw` makes them again from the same files.

mod bind;
mod draw;
mod flood;
mod ladder;
mod machine;
mod numbers;
mod raw;
mod report;
mod rows;
mod screen;
mod services;
mod stage;
mod ways;

#[cfg(test)]
mod redraw_tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use report::Report;
use screen::Screen;
use services::Services;
use stage::Stage;
use tidegate_harness::free_port;

/// Runs a fleet, Kafka, Tidegate and Postgres, and shows what batching gains, what Kafka gains, and what they cost.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The seed of the two experiments. The fleets of the three services have fixed seeds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Multiplies the planned length of every experiment, for trials: 0.2 is a fifth. Published figures need 1.
    #[arg(long, env = "DEMO_SCALE", default_value_t = 1.0)]
    scale: f64,
    /// Keeps the services running after the experiments, until Ctrl-C.
    #[arg(long, env = "KEEP", value_parser = |text: &str| Ok::<_, String>(!matches!(text, "" | "0" | "false")), default_value = "0")]
    keep: bool,
    /// The folder for the report, the plots and the raw files.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
    /// Runs no experiment: recreates the plots and the report from the raw files.
    #[arg(long)]
    redraw: bool,
    /// Runs no experiment: recreates the plots and the report, copies the raw files and the plots into this folder, and writes
    /// the run's figures into the README.
    #[arg(long, value_name = "FOLDER")]
    publish: Option<PathBuf>,
    /// The README whose figures `--publish` replaces.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
    /// The path of the daemon's program. Default: the file `tidegate` beside this program.
    #[arg(long)]
    tidegate: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A program that writes into Postgres without Kafka. Experiment B, the flood, starts and kills such programs.
    #[command(hide = true)]
    Writer(flood::writer::WriterArguments),
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let run = async {
        match arguments.command.take() {
            Some(Command::Writer(arguments)) => flood::writer::run(arguments).await.map(|()| true),
            None => demo(&arguments).await,
        }
    };
    let outcome = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        let outcome = runtime.block_on(run);
        // Don't wait for the runtime's blocking tasks: a writer's task that reads its input may never end.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo can't go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo, or redraws an earlier run. Returns whether the verdict is good: no promise of Tidegate was broken.
async fn demo(arguments: &Arguments) -> Result<bool> {
    let Arguments { seed, scale, out, .. } = arguments;
    let screen = Screen::new();
    if arguments.redraw || arguments.publish.is_some() {
        let is_good = tell(&screen, out)?;
        if let Some(folder) = &arguments.publish {
            publish(&screen, out, folder, &arguments.readme)?;
        }
        return Ok(is_good);
    }
    std::fs::create_dir_all(out)?;
    let began = jiff::Timestamp::now();
    let listen = format!("127.0.0.1:{}", free_port()?);
    screen.head(&format!("the live page will be at http://{listen}/"));
    screen.say("starting the real Kafka (KRaft) and the real PostgreSQL; the first time they are fetched");
    let stage = Arc::new(Stage::set(arguments.tidegate.clone()).await?);
    let mut services = Services::start(&stage, listen).await?;
    screen.say(&format!("Kafka {}   Postgres {}", stage.kafka.bootstrap_servers(), stage.database.url));
    screen.head(&format!("three services read one topic: http://{}/", services.listen));
    services.warm_up(&screen, *scale).await?;
    screen.head("A  the ladder: what batching is worth; the same rows into the same table by each way");
    let ladder = ladder::climb(&stage, &screen, out, *seed, *scale).await?;
    screen.head("B  the flood: open loop, each vehicle at its time, whatever became of the others");
    flood::flood(&stage, &screen, &ladder, out, *seed, *scale).await?;
    screen
        .head(&format!("the story: a burst, a consumer more, one killed, a table locked: http://{}/", services.listen));
    services.story(&screen, out, *scale).await?;
    if arguments.keep {
        screen.head(&format!("on and on, until Ctrl-C: http://{}/", services.listen));
        services.keep(&screen).await?;
    }
    services.check(out).await?;
    machine::save(&stage, out, *seed, *scale, began).await?;
    tell(&screen, out)
}

/// Draws the plots, writes the report, and prints the report's sentences. Returns whether the verdict is good.
fn tell(screen: &Screen, out: &Path) -> Result<bool> {
    let plots = draw::draw(out)?;
    let report = Report::read(out)?;
    report.save(out)?;
    screen.head("the verdict, all of it from the raw files");
    for sentence in report.sentences() {
        screen.say(&format!("{} {}", sentence.sign(), sentence.text));
    }
    let is_good = report.is_good();
    screen.head(if is_good { "✔ every promise was kept" } else { "✘ a promise was broken" });
    screen.say(&format!("{} with {} and the raw files beside it", out.join("report.html").display(), plots.join(", ")));
    Ok(is_good)
}

/// Copies the raw files and plots of a run into `folder`, and writes the run's figures into the README.
fn publish(screen: &Screen, out: &Path, folder: &Path, readme: &Path) -> Result<()> {
    let text = std::fs::read_to_string(readme).with_context(|| format!("could not read `{}`", readme.display()))?;
    let text = report::readme::with_figures(&text, &Report::read(out)?)?;
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(out)?.flatten() {
        let path = entry.path();
        let is_raw = path.extension().is_some_and(|kind| kind == "csv" || kind == "svg" || kind == "json");
        if is_raw {
            std::fs::copy(&path, folder.join(entry.file_name()))?;
        }
    }
    std::fs::write(readme, text)?;
    screen.say(&format!("{} and the figures in {} are those of this run", folder.display(), readme.display()));
    Ok(())
}
