//! `tidegate pipelines resume NAME`: resumes a stopped pipeline.

use crate::cli::{Files, names, parse, reach, show, start_command_logging};
use crate::error::FatalError;
use crate::postgres::resume;

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// The pipeline's name.
    name: String,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let Arguments { files, name } = arguments;
    let config = parse(files)?;
    start_command_logging(&config);
    if !config.pipelines.iter().any(|pipeline| pipeline.name == *name) {
        return Err(FatalError::Config(format!(
            "the configuration has no pipeline `{name}`; it has {}",
            names(&config)
        )));
    }
    let mut connection = reach::open(&reach::connector(&config)).await?;
    reach::registered(&mut connection, name).await?;
    let asked = resume::request(&mut connection, name).await;
    if !asked.map_err(|error| reach::failed("can't ask for it in schema `tidegate`", error))? {
        return Err(FatalError::Config(format!(
            "pipeline `{name}` was forgotten meanwhile: start it with `tidegate run`"
        )));
    }
    show::print(&format!(
        "asked: instances where `{name}` has stopped start it again within seconds; `tidegate status` shows it"
    ))
}
