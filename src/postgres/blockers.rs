//! Finds the sessions that hold locks for which we wait. If such a session belongs to this pipeline and its client
//! sends nothing, the client's process is suspended in the middle of a transaction, and the session is ended. Other
//! sessions are only named in the log.

use std::future::Future;
use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::connect::Connector;

/// How long a wait lasts before its blockers are looked up. Most waits are shorter.
const PATIENCE: Duration = Duration::from_secs(1);
/// The time between two checks. A blocker counts as suspended if its backend waited for its client at both.
const INTERVAL: Duration = Duration::from_millis(500);

/// A session that holds a lock for which another one waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The pid of the session's backend.
    pub pid: i32,
    application_name: String,
    state: String,
    /// Whether the session's backend waits for the session's client.
    client_idle: bool,
    /// Since when the backend has been in its present state.
    state_change: String,
    open_for_secs: i64,
}

const BLOCKERS: &str = "
SELECT pid, coalesce(application_name, ''), coalesce(state, 'prepared'), coalesce(wait_event_type = 'Client', false),
    coalesce(state_change::text, ''), coalesce(extract(epoch FROM now() - xact_start)::int8, 0)
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))";

/// Returns the sessions that block the backend `pid`.
///
/// # Errors
/// The error of the query.
pub async fn blockers(connection: &mut PgConnection, pid: i32) -> Result<Vec<Blocker>, sqlx::Error> {
    let rows = sqlx::query(BLOCKERS).bind(pid).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Blocker {
                pid: row.try_get(0)?,
                application_name: row.try_get(1)?,
                state: row.try_get(2)?,
                client_idle: row.try_get(3)?,
                state_change: row.try_get(4)?,
                open_for_secs: row.try_get(5)?,
            })
        })
        .collect()
}

impl Blocker {
    fn describe(&self) -> String {
        let Self { pid, application_name, state, open_for_secs, .. } = self;
        format!("pid {pid} ({application_name:?}, {state}, transaction open for {open_for_secs} s)")
    }
}

/// Runs `work`, which may wait for locks on the backend `pid`. If it takes long, ends blocking sessions of this
/// pipeline whose client sends nothing. Also returns a description of the blockers that were seen last.
pub async fn watch<T>(connector: &Connector, pid: i32, work: impl Future<Output = T>) -> (T, Option<String>) {
    let mut note = None;
    let result = tokio::select! {
        // Poll the work first: if both are ready, there is nothing left to watch.
        biased;
        result = work => result,
        never = look(connector, pid, &mut note) => match never {},
    };
    (result, note)
}

/// Looks for blockers of the backend `pid`, and ends suspended ones, until the future is dropped.
async fn look(connector: &Connector, pid: i32, note: &mut Option<String>) -> std::convert::Infallible {
    sleep(PATIENCE).await;
    let mut connection = None;
    let mut before: Vec<Blocker> = Vec::new();
    loop {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match connector.open().await {
                Ok((open, _)) => open,
                Err(error) => {
                    debug!(pipeline = connector.pipeline(), %error, "can't look for blockers");
                    sleep(INTERVAL).await;
                    continue;
                }
            },
        };
        if let Ok(now) = blockers(&mut open, pid).await {
            for blocker in &now {
                let ours = blocker.application_name == connector.application_name();
                let silent = blocker.client_idle
                    && before
                        .iter()
                        .any(|b| b.pid == blocker.pid && b.state_change == blocker.state_change && b.client_idle);
                if ours && silent {
                    let blocker_pid = blocker.pid;
                    let (pipeline, blocker) = (connector.pipeline(), blocker.describe());
                    warn!(pipeline, blocker, "ending a transaction of our own whose process is silent");
                    drop(sqlx::query("SELECT pg_terminate_backend($1)").bind(blocker_pid).execute(&mut open).await);
                } else if note.is_none() && !ours {
                    warn!(pipeline = connector.pipeline(), blocker = blocker.describe(), "waiting for a lock");
                }
            }
            if !now.is_empty() {
                let words: Vec<String> = now.iter().map(Blocker::describe).collect();
                *note = Some(format!("the lock is held by {}", words.join(", ")));
            }
            before = now;
            connection = Some(open);
        }
        sleep(INTERVAL).await;
    }
}
