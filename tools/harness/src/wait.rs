//! Waits with a deadline. Instead of sleeping for a guessed time, each function checks a condition repeatedly, until the
//! condition is true or the deadline passes. If the deadline passes, the error contains the text
//! `what`, which describes the condition.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Blocks until `condition` returns true, for at most `deadline`.
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

/// Like [`eventually`], for a condition that must be awaited, such as a query. If the deadline passes, a running
/// condition is dropped.
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
