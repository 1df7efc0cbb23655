//! The command line: parses the arguments and runs the command. Each command has a module of its own, except `completions`.

mod check;
mod config;
mod dead_letters;
mod lag;
mod log_position;
mod migrate;
mod offsets;
mod pipelines;
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

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{Config, LogFormat, Pipeline, unused_variables, variables};
use crate::error::{FatalError, USAGE};

/// Writes the records of Kafka topics into Postgres tables: exactly once, in batches, by binary COPY.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  tidegate schema --bootstrap-servers 127.0.0.1:9092 --topic telemetry
                                                proposes a table and a mapping for a topic
  tidegate check --config tidegate.toml         reports every fault that would stop `run`
  tidegate run --config tidegate.toml           runs the daemon until SIGTERM
  tidegate run --config base.toml --config site.toml --until now
                                                writes what is in the topics now, then ends

Environment: a variable overrides a key of the files. Its name is TIDEGATE and the parts of the key, joined by two
underscores:
  TIDEGATE__POSTGRES__URL=postgres://… TIDEGATE__PIPELINES__RIDE_HISTORY__CONSUMERS=4

Exit codes:
  0   everything is done
  64  the configuration or the command line is wrong
  69  Kafka, Postgres or the schema registry can't be reached
  70  a fault was found, or stopped a pipeline
  75  the process ended before everything was written; the next start resumes there"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon. At SIGTERM it writes what it has read, then ends. At SIGHUP it reads the configuration again and
    /// resumes stopped pipelines.
    Run(run::Arguments),
    /// Checks that the configuration, the topics and the tables fit together, and writes the newest records in transactions
    /// that are rolled back. Changes nothing.
    Check(check::Arguments),
    /// Proposes a table and a mapping from the newest records of a topic, as a configuration that `check` accepts. Changes
    /// nothing.
    Schema(schema::Arguments),
    /// Shows for each partition how many records are not written yet, and how long Kafka still keeps them.
    Lag(lag::Arguments),
    /// Shows and sets positions, and moves them to a pipeline's new name. A position is the next offset to write.
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Lists, shows, replays and purges dead letters: the stored records that could not become rows.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Lists the registered pipelines, resumes a stopped one, forgets one that is no longer used.
    #[command(subcommand)]
    Pipelines(pipelines::Command),
    /// Reads a range of the topics again, and writes it into another table, or into the same one if that is safe. Each record
    /// is written exactly once: if the command is killed, the same command resumes.
    Replay(replay::Arguments),
    /// Compares the ledger with Kafka. If the table has columns for partition and offset, also searches it for missing and
    /// repeated records.
    Verify(verify::Arguments),
    /// Creates or updates the tables of schema `tidegate`. The daemon does this at its start if its role has the rights.
    Migrate(migrate::Arguments),
    /// Prints the keys that the files and the environment set, or a JSON Schema for editors.
    #[command(subcommand)]
    Config(config::Command),
    /// Prints a script with which a shell completes commands and options. For bash: source <(tidegate completions bash)
    Completions {
        /// The shell that loads the script.
        shell: clap_complete::Shell,
    },
    /// Prints the state of the daemon that listens on `http.listen`, as its live page shows it.
    Status {
        #[command(flatten)]
        files: Files,
        /// Print the JSON document of `/api/status` instead.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Files {
    /// A configuration file. May be given several times: later files override earlier ones.
    #[arg(long = "config", value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
}

/// Arguments that most commands share.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    files: Files,
    /// Only this pipeline. Default: all pipelines of the configuration.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn load(&self) -> Result<Config, FatalError> {
        load_quietly(&self.files)
    }

    /// Returns the pipeline that `--pipeline` names, or all pipelines without it. Fails if there is no pipeline of that name.
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

    /// Returns the selected pipeline. Fails unless exactly one is selected.
    fn only<'a>(&self, config: &'a Config) -> Result<&'a Pipeline, FatalError> {
        match self.pipelines(config)?.as_slice() {
            [one] => Ok(one),
            _ => Err(FatalError::Config(format!("name the pipeline: --pipeline NAME, one of {}", names(config)))),
        }
    }
}

/// Replaces the help text of `--pipeline` in commands that handle one pipeline.
fn one_pipeline(argument: clap::Arg) -> clap::Arg {
    argument.help("The pipeline. Optional if the configuration has only one")
}

fn names(config: &Config) -> String {
    config.pipelines.iter().map(|pipeline| format!("`{}`", pipeline.name)).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Until {
    Now,
}

/// Runs the command line. Returns the process's exit code.
pub fn main() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A request for help isn't an error. If the text can't be printed, there is nothing left to do.
            let code = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return code;
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
        Command::Config(command) => config::run(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "tidegate", &mut script);
            show::print(&String::from_utf8_lossy(&script))
        }
        Command::Status { files, json } => load(files).and_then(|config| status::run(&config, *json)),
    };
    match outcome {
        Ok(()) => 0,
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

/// Loads the configuration for a command. Commands print their own results, so at most warnings and errors are logged.
fn load_quietly(files: &Files) -> Result<Config, FatalError> {
    let config = parse(files)?;
    start_command_logging(&config);
    Ok(config)
}

fn start_command_logging(config: &Config) {
    start_logging(config, LevelFilter::WARN.min(LevelFilter::from_level(config.log.level)));
}

fn start_logging(config: &Config, level: LevelFilter) {
    // Escape codes are only for terminals: in a file or a pipe they break searching and parsing.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Don't report log lines that can't be written. The report would go to standard error too, and panic if standard error is
    // closed. But a closed terminal must not stop the daemon.
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    match config.log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    for (name, meant) in unused_variables() {
        tracing::warn!("`{name}` in the environment is not used: if it is meant for a key, write {meant}");
    }
    if std::env::var_os("RUST_LOG").is_some_and(|value| !value.is_empty()) {
        tracing::warn!("`RUST_LOG` is not used: set `log.level`, or `TIDEGATE__LOG__LEVEL` in the environment");
    }
}
