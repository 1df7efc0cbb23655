//! Describes on which message the proxy acts, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The client runs a statement whose text contains this string. The statement may be a simple query, or a prepared
    /// statement, which counts each time that it is bound. sqlx sends BEGIN, COMMIT, ROLLBACK and COPY as simple queries.
    FrontendQueryContains(String),
    /// The client sends the nth data message (CopyData) of a COPY, counted from 1.
    CopyData(u64),
    /// The client sends the data message with which the data of a COPY reaches this many bytes.
    CopyBytes(u64),
    /// The server says that a statement is complete (CommandComplete), with a tag that contains this text. Examples of
    /// tags are `COMMIT` and `COPY 42`.
    BackendCommandComplete(String),
}

/// How the proxy treats a message that a [`Trigger`] describes, and the connection of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Closes the connection. The message doesn't arrive.
    Cut,
    /// Forwards the message, and closes the connection at once.
    CutAfterForward,
    /// Holds the message back, and all later ones in its direction, until [`Armed::release`].
    Hold,
    /// Forwards the message, drops the server's reply to it, and closes the connection. So the server executes the
    /// statement, and the client can't know its outcome. For a message from the server, this is the same as
    /// [`Action::Cut`].
    DropReplyAndCut,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    Statement(&'a str),
    CopyData { nth: u64, bytes_before: u64, bytes_after: u64 },
    CommandComplete(&'a str),
}

/// A trigger, shared by the proxy's connections and the test that has armed it ([`Armed`]). `left` is the number of messages on
/// which the proxy still has to act. `fired` is the number of those on which it has acted. `released` ends [`Action::Hold`].
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
    /// Waits until the proxy has acted at least once. For [`Action::DropReplyAndCut`], that is when the reply was dropped.
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

    /// Forwards the messages that [`Action::Hold`] has held back. This trigger holds no later message back.
    pub fn release(&self) {
        self.watched.released.send_replace(true);
    }

    pub fn disarm(&self) {
        self.watched.left.store(0, Ordering::Release);
    }
}
