//! `tidegate config`: prints the merged configuration, or its JSON Schema.

use clap::Subcommand;

use super::{Files, show};
use crate::config::{Config, json_schema, variables};
use crate::error::FatalError;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints the keys that the files and the environment set, as one TOML file without the defaults. Secrets are shown as
    /// `***`.
    Print(Files),
    /// Prints a JSON Schema of the configuration file, with which editors complete and check it.
    Schema,
}

pub(super) fn run(command: &Command) -> Result<(), FatalError> {
    match command {
        Command::Print(files) => {
            let merged = Config::merged(&files.config, variables());
            show::print(&merged.map_err(|faults| FatalError::Config(faults.to_string()))?)
        }
        Command::Schema => show::json(&json_schema()),
    }
}
