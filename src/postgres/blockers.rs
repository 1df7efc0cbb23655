//! Finds the sessions that hold locks for which we wait. If such a session belongs to this pipeline and its client sends
//! nothing, the client's process is probably suspended in the middle of a transaction. So the session is ended. Sessions of
//! others are only named in the log.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::connect::Connector;

/// How long a wait lasts before its blockers are looked up. Most waits are shorter.
const PATIENCE: Duration = Duration::from_secs(1);
/// The time between two checks. A blocker counts as suspended if its backend waited
/// for its client at two checks in a row, without a change of state between them.
const INTERVAL: Duration = Duration::from_millis(500);

/// A session, or a prepared transaction, that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The pid of the session's backend; 0 for a prepared transaction.
    pub pid: i32,
    application_name: String,
    state: String,
    /// Whether the session's backend waits for its client; false if the role may not see it.
    client_idle: bool,
    /// Since when the backend has been in its present state, as text; empty if the role may not see it.
    state_change: String,
    open_for_secs: i64,
}

/// Selects the sessions that block a backend. The state of another role's session is NULL if our role isn't a member of
/// `pg_read_all_stats`.
const BLOCKERS: &str = "
SELECT pid, coalesce(application_name, ''), coalesce(state, 'state not visible'), coalesce(wait_event_type = 'Client', false),
    coalesce(state_change::text, ''), coalesce(extract(epoch FROM now() - xact_start)::int8, 0)
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))";

/// Returns the sessions that block the backend `pid`.
///
/// # Errors
/// The error of the query.
pub async fn blockers(connection: &mut PgConnection, pid: i32) -> Result<Vec<Blocker>, sqlx::Error> {
    let rows = sqlx::query(BLOCKERS).bind(pid).fetch_all(connection).await?;
    rows.iter().map(Blocker::of).collect()
}

/// Selects the sessions that hold a lock of one of two tables in a transaction of at least a given age, in milliseconds. Also
/// selects sessions whose age isn't visible to our role, and prepared transactions, whose locks have no pid.
const HOLDERS: &str = "
SELECT coalesce(l.pid, 0), coalesce(a.application_name, ''),
    coalesce(a.state, CASE WHEN l.pid IS NULL THEN 'prepared transaction' ELSE 'state not visible' END), false, '',
    coalesce(extract(epoch FROM now() - a.xact_start)::int8, 0)
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.relation IN (to_regclass($1), to_regclass($2))
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND coalesce(a.xact_start <= clock_timestamp() - $3 * interval '1 ms', true)
GROUP BY l.pid, a.application_name, a.state, a.xact_start ORDER BY a.xact_start";

/// Describes the sessions that hold locks of the tables `parent` or `partition`, in transactions that are at least `since` old. A
/// transaction whose age our role may not see counts as old enough. Both names are quoted. The text is empty if there is no such
/// session any more.
///
/// # Errors
/// The error of the query.
pub async fn holders(
    connection: &mut PgConnection,
    parent: &str,
    partition: &str,
    since: Duration,
) -> Result<String, sqlx::Error> {
    let millis = i32::try_from(since.as_millis()).unwrap_or(i32::MAX);
    let rows = sqlx::query(HOLDERS).bind(parent).bind(partition).bind(millis).fetch_all(connection).await?;
    let texts = rows.iter().map(|row| Blocker::of(row).map(|holder| holder.describe()));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join(", "))
}

impl Blocker {
    /// Reads a row of [`BLOCKERS`] or [`HOLDERS`].
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            pid: row.try_get(0)?,
            application_name: row.try_get(1)?,
            state: row.try_get(2)?,
            client_idle: row.try_get(3)?,
            state_change: row.try_get(4)?,
            open_for_secs: row.try_get(5)?,
        })
    }

    fn describe(&self) -> String {
        let Self { pid, application_name, state, open_for_secs, .. } = self;
        format!("pid {pid} ({application_name:?}, {state}, transaction open for {open_for_secs} s)")
    }
}

/// Runs `work`, whose statements run in the backend `pid` and may wait for locks. If the work takes longer than a second, ends
/// blocking sessions of this pipeline whose client sends nothing. Also returns a description of the blockers that were seen
/// last; `None` if none were seen.
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

/// Looks for sessions that block the backend `pid`, until the future is dropped. Ends those of this pipeline whose
/// client sends nothing.
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
                    debug!(pipeline = connector.pipeline(), %error, "can't read which sessions hold the lock");
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
                    warn!(
                        pipeline,
                        blocker,
                        "ending the transaction of a Tidegate process that no longer answers, because it holds a lock that is needed"
                    );
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
