//! Which message to act on, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;

/// A message to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The client runs a statement whose text contains this: a simple query, or a prepared statement each time that it is
    /// bound. sqlx sends BEGIN, COMMIT and ROLLBACK as simple queries, and COPY too.
    FrontendQueryContains(String),
    /// The client sends the nth message of data of a COPY, counted from 1.
    CopyData(u64),
    /// The client sends the message with which the data of a COPY reaches this many bytes.
    CopyBytes(u64),
    /// The server says that a statement is done, and its tag, such as `COMMIT` or `COPY 42`, contains this.
    BackendCommandComplete(String),
}

/// How to treat the message and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Close the connection; the message doesn't arrive.
    Cut,
    /// Let the message arrive, and close the connection at once.
    CutAfterForward,
    /// Keep the message back, and all that follow it in its direction, until [`Armed::release`].
    Hold,
    /// Let the message arrive and be carried out, drop the server's reply, and close the connection: the client can't
    /// know what became of it. For a message of the server the same as [`Action::Cut`].
    DropReplyAndCut,
}

/// State of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    Statement(&'a str),
    CopyData { nth: u64, bytes_before: u64, bytes_after: u64 },
    CommandComplete(&'a str),
}

/// A trigger as the connections hold it.
#[derive(Debug)]
pub(super) struct Watched {
    trigger: Trigger,
    pub(super) action: Action,
    left: AtomicU64,
    fired: watch::Sender<u64>,
    released: watch::Sender<bool>,
}

impl Watched {
    /// Returns whether this is a message to act on. Each such message counts as one of the times for which it was
    /// armed.
    pub(super) fn takes(&self, seen: Seen<'_>) -> bool {
        let matches = match (&self.trigger, seen) {
            (Trigger::FrontendQueryContains(text), Seen::Statement(statement)) => statement.contains(text.as_str()),
            (Trigger::CopyData(wanted), Seen::CopyData { nth, .. }) => nth == *wanted,
            (Trigger::CopyBytes(wanted), Seen::CopyData { bytes_before, bytes_after, .. }) => {
                bytes_before < *wanted && bytes_after >= *wanted
            }
            (Trigger::BackendCommandComplete(text), Seen::CommandComplete(tag)) => tag.contains(text.as_str()),
            (
                Trigger::FrontendQueryContains(_)
                | Trigger::CopyData(_)
                | Trigger::CopyBytes(_)
                | Trigger::BackendCommandComplete(_),
                Seen::Statement(_) | Seen::CopyData { .. } | Seen::CommandComplete(_),
            ) => false,
        };
        matches && self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    pub(super) fn tell_fired(&self) {
        self.fired.send_modify(|times| *times += 1);
    }

    pub(super) async fn await_release(&self) {
        // The sender is `self`'s own, so the wait can't fail.
        drop(self.released.subscribe().wait_for(|released| *released).await);
    }
}

/// A trigger as the test holds it. It stays armed when this is dropped.
#[derive(Debug)]
pub struct Armed {
    watched: Arc<Watched>,
}

pub(super) fn arm(trigger: Trigger, action: Action, times: u64) -> (Arc<Watched>, Armed) {
    let watched = Arc::new(Watched {
        trigger,
        action,
        left: AtomicU64::new(times),
        fired: watch::Sender::new(0),
        released: watch::Sender::new(false),
    });
    (Arc::clone(&watched), Armed { watched })
}

impl Armed {
    /// Waits until it has acted at least once; for [`Action::DropReplyAndCut`] that is when the reply was dropped.
    ///
    /// # Errors
    /// When `deadline` passes first.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn fired(&self, deadline: Duration) -> Result<()> {
        self.fired_times(1, deadline).await
    }

    /// Waits until it has acted at least `times` times.
    ///
    /// # Errors
    /// When `deadline` passes first.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn fired_times(&self, times: u64, deadline: Duration) -> Result<()> {
        let mut fired = self.watched.fired.subscribe();
        let waited = tokio::time::timeout(deadline, fired.wait_for(|fired| *fired >= times)).await;
        if waited.is_err() {
            bail!("{:?}: fired {} of {times} times within {deadline:?}", self.watched.trigger, self.count());
        }
        Ok(())
    }

    /// Returns how often it has acted.
    pub fn count(&self) -> u64 {
        *self.watched.fired.borrow()
    }

    /// Lets go of what [`Action::Hold`] keeps back, and of what it would.
    pub fn release(&self) {
        self.watched.released.send_replace(true);
    }

    pub fn disarm(&self) {
        self.watched.left.store(0, Ordering::Release);
    }
}
