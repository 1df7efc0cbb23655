//! `tidegate pipelines resume NAME`: resumes a stopped pipeline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::{Files, names, parse, reach, show, start_command_logging};
use crate::error::FatalError;
use crate::postgres::resume;

/// How long the command waits for an instance that reports the pipeline as stopped. Instances update their rows in
/// `tidegate.instance` every 3 s.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(250);

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
    if let Err(unregistered) = reach::registered(&mut connection, name).await {
        // A request to resume is stored in the registration. If a pipeline has no registration, no request can be stored for it,
        // so only SIGHUP or a restart of the daemon resumes it.
        let failed = |error| reach::failed("can't read the ledger in schema `tidegate`", error);
        let is_stopped = reach::has_ledger(&mut connection).await.map_err(failed)?
            && reach::instances(&mut connection, name).await?.iter().any(|instance| instance.stopped.is_some());
        return Err(if is_stopped {
            FatalError::Config(format!(
                "`{name}` is not registered, so a request for it can't be stored: send SIGHUP to its daemon, which starts it as a new pipeline"
            ))
        } else {
            unregistered
        });
    }
    // Store the request only after an instance says that the pipeline has stopped. An instance ignores requests from before the
    // stop.
    let deadline = Instant::now() + PATIENCE;
    let stopped = loop {
        let instances = reach::instances(&mut connection, name).await?;
        let (stopped, running): (Vec<_>, Vec<_>) =
            instances.into_iter().partition(|instance| instance.stopped.is_some());
        if !stopped.is_empty() {
            break stopped;
        }
        if Instant::now() >= deadline {
            let ids = running.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>().join(", ");
            let why = match running.len() {
                0 => format!("no daemon runs `{name}`: start one with `tidegate run`"),
                _ => format!("`{name}` runs already, on {ids}: there is nothing to resume"),
            };
            return Err(FatalError::Config(why));
        }
        sleep(LOOK).await;
    };
    let asked = resume::request(&mut connection, name).await;
    if !asked.map_err(|error| reach::failed("can't store the request in schema `tidegate`", error))? {
        return Err(FatalError::Config(format!(
            "pipeline `{name}` was forgotten meanwhile: start it with `tidegate run`"
        )));
    }
    show::print(&format!(
        "requested on {}: `{name}` starts again within seconds, with the configuration that the daemon has already read; SIGHUP makes the daemon read the file again, and also resumes the pipeline. `tidegate status` shows the result",
        stopped.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>().join(", ")
    ))
}
