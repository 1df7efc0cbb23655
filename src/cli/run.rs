//! `tidegate run`

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::error::FatalError;
use crate::{daemon, metrics};

/// Exit code of a process that was told twice to end, as a shell reports SIGINT.
const INTERRUPTED: i32 = 130;

pub(super) fn run(config: Config, until_now: bool) -> Result<(), FatalError> {
    let ours = |error: &dyn std::fmt::Display| FatalError::Stopped(format!("can't start: {error}"));
    let prometheus = metrics::install().map_err(|error| ours(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| ours(&error))?;
    let outcome = runtime.block_on(async {
        let told = CancellationToken::new();
        let mut watch = JoinSet::new();
        watch.spawn(signals(told.clone()).map_err(|error| ours(&error))?);
        daemon::run(config, prometheus, until_now, told.cancelled_owned()).await
    });
    // Questions to a Kafka that is away block for seconds; nothing depends on their answers any more.
    runtime.shutdown_background();
    outcome
}

/// Tells of the first SIGINT or SIGTERM; a second one ends the process at once.
fn signals(told: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told.is_cancelled() {
                warn!("told again to end: ending at once, what isn't written is read again at the next start");
                std::process::exit(INTERRUPTED);
            }
            told.cancel();
        }
    })
}
