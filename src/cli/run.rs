//! `tidegate run`: runs the daemon until a signal ends it. With `--until now`, the daemon also ends when the records that were in
//! the topics at the start are written.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Files, Until, load};
use crate::config::units::{parse_duration, show_duration};
use crate::daemon::{self, Control};
use crate::error::FatalError;
use crate::metrics;

/// The exit code after a second SIGINT or SIGTERM: the code with which a shell reports SIGINT.
const INTERRUPTED: i32 = 130;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Write the records that are in the topics at the start, then end. The exit code is 0 only if all of them are written.
    #[arg(long, value_name = "now")]
    until: Option<Until>,
    /// With --until: end after this time (such as 10m) even if records are left. The log names them by partition, and the exit
    /// code is 75. The time counts from the start; the shutdown takes up to limits.drain_timeout more.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "until")]
    give_up_after: Option<Duration>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = load(&arguments.files)?;
    let ours = |error: &dyn std::fmt::Display| FatalError::Stopped(format!("can't start: {error}"));
    let prometheus = metrics::install().map_err(|error| ours(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| ours(&error))?;
    let outcome = runtime.block_on(async {
        let told = CancellationToken::new();
        // The channel holds one request, which suffices for all signals that arrive during a reload.
        let (asked, reloads) = mpsc::channel(1);
        let mut watch = JoinSet::new();
        watch.spawn(signals(told.clone(), asked).map_err(|error| ours(&error))?);
        if let Some(limit) = arguments.give_up_after {
            watch.spawn(give_up(limit, told.clone()));
        }
        let files = arguments.files.clone();
        let control =
            Control { shutdown: told.cancelled_owned(), reloads, load: Box::new(move || parse_again(&files)) };
        let until = if arguments.until.is_some() { daemon::Until::Now } else { daemon::Until::Told };
        daemon::run(config, prometheus, until, control).await
    });
    // If Kafka is down, a request to it blocks for seconds. Nothing depends on its answer any more, so don't wait for the
    // request.
    runtime.shutdown_background();
    outcome
}

fn parse_again(files: &Files) -> Result<crate::config::Config, crate::config::Faults> {
    crate::config::Config::load(&files.config, crate::config::variables())
}

async fn give_up(limit: Duration, told: CancellationToken) {
    sleep(limit).await;
    if !told.is_cancelled() {
        warn!("the run is not complete after {} (`--give-up-after`): ending it", show_duration(limit));
        told.cancel();
    }
}

/// Returns a task that handles signals. The first SIGINT or SIGTERM cancels `told`, and a second one ends the process at once.
/// SIGHUP requests a reload, and never ends the process.
fn signals(told: CancellationToken, reload: mpsc::Sender<()>) -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut signals = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {
                    info!("SIGHUP: reading the configuration again");
                    // If the channel is full, a reload is already waiting. That reload will read the files as they are then, so
                    // another request isn't needed.
                    let _waits = reload.try_send(()).is_err();
                    continue;
                }
            }
            signals += 1;
            if signals > 1 {
                warn!("second signal: ending at once; records that aren't written are read again at the next start");
                std::process::exit(INTERRUPTED);
            }
            told.cancel();
        }
    })
}
