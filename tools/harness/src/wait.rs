//! Bounded waits. Nothing here sleeps for a time that someone guessed: a condition is asked again until it holds or its
//! deadline passes, and a wait that fails says what it waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Blocks until `condition` holds, for at most `deadline`.
///
/// # Errors
/// When the deadline passes; the error names `what`.
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        std::thread::sleep(PAUSE_BETWEEN_LOOKS);
    }
    Ok(())
}

/// [`eventually`] for a condition that has to be awaited, such as a query.
///
/// # Errors
/// When the deadline passes; the error names `what`. A condition that is still being awaited then is dropped.
pub async fn eventually_async(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let looks = async {
        while !condition().await {
            tokio::time::sleep(PAUSE_BETWEEN_LOOKS).await;
        }
    };
    match tokio::time::timeout(deadline, looks).await {
        Ok(()) => Ok(()),
        Err(_) => bail!("{what}: not within {deadline:?}"),
    }
}
