//! The commands, one file each.

mod check;
mod dead_letters;
mod lag;
mod migrate;
mod offsets;
mod pipelines;
mod place;
mod progress;
mod reach;
mod rehearsal;
mod replay;
mod run;
mod schema;
mod show;
mod status;
mod verify;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{Config, LogFormat, Pipeline, variables};
use crate::error::{FatalError, USAGE};

/// Drains Kafka into Postgres: exactly once, in batches, each with one binary COPY.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  tidegate schema --bootstrap-servers 127.0.0.1:9092 --topic telemetry
                                                proposes a table and a mapping from the newest records
  tidegate check --config tidegate.toml         says what keeps `run` from running, and changes nothing
  tidegate run --config tidegate.toml           drains until SIGTERM
  tidegate run --config base.toml --config site.toml --until now
                                                overlays two files, and drains to the present ends

Environment: TIDEGATE__ and a key's parts, joined by two underscores, stand over the files:
  TIDEGATE__POSTGRES__URL=postgres://… TIDEGATE__PIPELINES__RIDE_HISTORY__CONSUMERS=4

Exit codes: 0 done, 64 bad configuration or usage, 69 a service can't be reached, 70 a fault, 75 ended before all was written."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon. SIGTERM drains and ends it; SIGHUP reads the configuration again and resumes stopped pipelines.
    Run(run::Arguments),
    /// Reaches Kafka and Postgres, holds the mapping against the table, and tries the newest records in a transaction that is
    /// rolled back. Changes nothing.
    Check(check::Arguments),
    /// Proposes a table and a mapping from the newest records of a topic, as a configuration that `check` accepts. Changes
    /// nothing.
    Schema(schema::Arguments),
    /// Shows by partition how far behind the ledger is.
    Lag(lag::Arguments),
    /// Shows, sets and copies the ledger's positions.
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Lists, shows, replays and purges records that became no rows.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Lists the pipelines that the database knows, resumes one that stopped, forgets one that is gone.
    #[command(subcommand)]
    Pipelines(pipelines::Command),
    /// Reads a stretch of the topics again, by offset or time, into the same table where that comes to the same, or into another.
    /// Exactly once: killed, it goes on where it was when it is run again.
    Replay(replay::Arguments),
    /// Holds the ledger against Kafka, and the table against both where it has columns for partition and offset.
    Verify(verify::Arguments),
    /// Creates or updates the tables of schema `tidegate`. The daemon does so by itself where its role has the rights.
    Migrate(migrate::Arguments),
    /// Prints what the live page shows, from a running daemon.
    Status {
        #[command(flatten)]
        files: Files,
        /// The document of `/api/status` as it is.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Files {
    /// The configuration; several overlay each other, the later wins.
    #[arg(long = "config", value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
}

/// What every command but `run` takes.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    files: Files,
    /// Only this pipeline; all of the configuration without it.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// One JSON document on standard output, for programs.
    #[arg(long)]
    json: bool,
}

impl Common {
    /// The configuration, checked.
    fn load(&self) -> Result<Config, FatalError> {
        load_quietly(&self.files)
    }

    /// The pipelines that are meant.
    fn pipelines<'a>(&self, config: &'a Config) -> Result<Vec<&'a Pipeline>, FatalError> {
        let Some(name) = &self.pipeline else { return Ok(config.pipelines.iter().collect()) };
        match config.pipelines.iter().find(|pipeline| pipeline.name == *name) {
            Some(pipeline) => Ok(vec![pipeline]),
            None => Err(FatalError::Config(format!(
                "--pipeline: the configuration has no pipeline `{name}`; it has {}",
                names(config)
            ))),
        }
    }

    /// The one pipeline that is meant.
    fn only<'a>(&self, config: &'a Config) -> Result<&'a Pipeline, FatalError> {
        match self.pipelines(config)?.as_slice() {
            [one] => Ok(one),
            _ => Err(FatalError::Config(format!("say which pipeline: --pipeline NAME, one of {}", names(config)))),
        }
    }
}

fn names(config: &Config) -> String {
    config.pipelines.iter().map(|pipeline| format!("`{}`", pipeline.name)).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Until {
    Now,
}

/// Runs the command line to the process's exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Asking for help is no error; where the terminal is gone there is nobody to tell.
            let code = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let outcome = match &arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => reach::block_on(check::run(arguments)),
        Command::Schema(arguments) => reach::block_on(schema::run(arguments)),
        Command::Lag(arguments) => reach::block_on(lag::run(arguments)),
        Command::Offsets(command) => reach::block_on(offsets::run(command)),
        Command::Pipelines(command) => reach::block_on(pipelines::run(command)),
        Command::DeadLetters(command) => reach::block_on(dead_letters::run(command)),
        Command::Replay(arguments) => reach::block_on(replay::run(arguments)),
        Command::Verify(arguments) => reach::block_on(verify::run(arguments)),
        Command::Migrate(arguments) => reach::block_on(migrate::run(arguments)),
        Command::Status { files, json } => load(files).and_then(|config| status::run(&config, *json)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

fn parse(files: &Files) -> Result<Config, FatalError> {
    Config::load(&files.config, variables()).map_err(|faults| FatalError::Config(faults.to_string()))
}

fn load(files: &Files) -> Result<Config, FatalError> {
    let config = parse(files)?;
    start_logging(&config, LevelFilter::from_level(config.log.level));
    Ok(config)
}

/// What a command has to say it says itself; librdkafka's and our own warnings come beside it.
fn load_quietly(files: &Files) -> Result<Config, FatalError> {
    let config = parse(files)?;
    start_command_logging(&config);
    Ok(config)
}

fn start_command_logging(config: &Config) {
    start_logging(config, LevelFilter::WARN.min(LevelFilter::from_level(config.log.level)));
}

fn start_logging(config: &Config, level: LevelFilter) {
    // Escape codes are for terminals only: in a file or a pipe they break searching and parsing.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A line that can't be written is lost. To say so would be a panic, since it is standard error that is gone: a closed
    // terminal must not end the flow.
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    match config.log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    if std::env::var_os("RUST_LOG").is_some_and(|value| !value.is_empty()) {
        tracing::warn!("`RUST_LOG` is not used: set `log.level`, or `TIDEGATE__LOG__LEVEL` in the environment");
    }
}
