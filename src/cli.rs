//! The commands, one file each.

mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, LogFormat, variables};
use crate::error::{FatalError, USAGE};

/// Drains Kafka into Postgres: exactly once, in batches, each with one binary COPY.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon.
    Run {
        #[command(flatten)]
        files: Files,
        /// Drain to the logs' present ends, then exit.
        #[arg(long, value_name = "now")]
        until: Option<Until>,
    },
    /// Prints what the live page shows, from a running daemon.
    Status {
        #[command(flatten)]
        files: Files,
        /// The document of `/api/status` as it is.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Files {
    /// The configuration; several overlay each other, the later wins.
    #[arg(long = "config", value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
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
    let outcome = match arguments.command {
        Command::Run { files, until } => load(&files).and_then(|config| run::run(config, until.is_some())),
        Command::Status { files, json } => load(&files).and_then(|config| status::run(&config, json)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

fn load(files: &Files) -> Result<Config, FatalError> {
    let config = Config::load(&files.config, variables()).map_err(|faults| FatalError::Config(faults.to_string()))?;
    start_logging(&config);
    Ok(config)
}

fn start_logging(config: &Config) {
    use tracing_subscriber::filter::LevelFilter;
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(config.log.level))
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
