//! Describes on which message the proxy acts, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The client runs a statement whose text contains this string. A prepared statement counts each time that it is bound. sqlx
    /// sends BEGIN, COMMIT, ROLLBACK and COPY as simple queries.
    FrontendQueryContains(String),
    /// The client sends the nth data message (CopyData) of a COPY, counted from 1.
    CopyData(u64),
    /// The client sends the data message that brings a COPY's data to at least this many bytes.
    CopyBytes(u64),
    /// The server reports that a statement is complete (CommandComplete), with a tag that contains this text. For example, the
    /// tag is `COMMIT` or `COPY 42`.
    BackendCommandComplete(String),
}

/// The proxy's action on a message that a [`Trigger`] describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Closes the connection. The message doesn't arrive.
    Cut,
    /// Forwards the message, and closes the connection at once.
    CutAfterForward,
    /// Holds back the message and all later ones in its direction, until [`Armed::release`].
    Hold,
    /// Forwards the message, drops the server's reply to it, and closes the connection. The server executes the statement, but
    /// the client can't know the outcome. For a message from the server, this is the same as [`Action::Cut`].
    DropReplyAndCut,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    Statement(&'a str),
    CopyData { nth: u64, bytes_before: u64, bytes_after: u64 },
    CommandComplete(&'a str),
}

/// A trigger, shared by the proxy's connections and the test ([`Armed`]). The proxy still has to act on `left` messages, and has
/// acted on `fired` messages. `released` ends [`Action::Hold`].
#[derive(Debug)]
pub(super) struct TriggerState {
    trigger: Trigger,
    pub(super) action: Action,
    left: AtomicU64,
    fired: watch::Sender<u64>,
    released: watch::Sender<bool>,
}

impl TriggerState {
    /// Returns whether the proxy must act on this message. If so, decrements `left`.
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
        // `self` owns the sender, so waiting can't fail.
        drop(self.released.subscribe().wait_for(|released| *released).await);
    }
}

/// A trigger, as the test sees it. The trigger stays armed when this value is dropped.
#[derive(Debug)]
pub struct Armed {
    watched: Arc<TriggerState>,
}

pub(super) fn arm(trigger: Trigger, action: Action, times: u64) -> (Arc<TriggerState>, Armed) {
    let watched = Arc::new(TriggerState {
        trigger,
        action,
        left: AtomicU64::new(times),
        fired: watch::Sender::new(0),
        released: watch::Sender::new(false),
    });
    (Arc::clone(&watched), Armed { watched })
}

impl Armed {
    /// Waits until the proxy has acted at least once. [`Action::DropReplyAndCut`] counts when the reply was dropped.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn fired(&self, deadline: Duration) -> Result<()> {
        self.fired_times(1, deadline).await
    }

    /// Waits until the proxy has acted at least `times` times.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn fired_times(&self, times: u64, deadline: Duration) -> Result<()> {
        let mut fired = self.watched.fired.subscribe();
        let waited = tokio::time::timeout(deadline, fired.wait_for(|fired| *fired >= times)).await;
        if waited.is_err() {
            bail!("{:?}: fired {} of {times} times within {deadline:?}", self.watched.trigger, self.count());
        }
        Ok(())
    }

    pub fn count(&self) -> u64 {
        *self.watched.fired.borrow()
    }

    /// Forwards the messages that [`Action::Hold`] has held back. From now on, this trigger holds no message back.
    pub fn release(&self) {
        self.watched.released.send_replace(true);
    }

    pub fn disarm(&self) {
        self.watched.left.store(0, Ordering::Release);
    }
}
