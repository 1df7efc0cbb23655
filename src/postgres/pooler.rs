//! Finds out whether a pooler between us and Postgres assigns a session per transaction, and not per connection.
//!
//! Our settings, prepared statements, session locks and staging tables belong to a session. A pooler in transaction mode
//! may give the session to other clients between two of our transactions. Those clients then run under our settings, and
//! our next transaction may run in a session without these settings. A pooler in session mode does no harm.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};
use tokio::time::timeout;

/// The longest time for opening a second connection, and then for its BEGIN. A pooler
/// without free sessions keeps that connection waiting.
const SECOND_DEADLINE: Duration = Duration::from_secs(1);

/// How a pooler assigns sessions: each connection has its own session, or each transaction may run in another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Session,
    Transaction,
}

/// Finds out how sessions are assigned, from the backends of two connections. The result is [`Pooling::Transaction`] if a
/// transaction on the second connection runs in the backend of the first, or if the first connection then has another backend
/// than before. Uses no prepared statement, because the pooler may refuse one. Returns `None` if the second connection can't be
/// opened or used.
pub(super) async fn look(first: &mut PgConnection, options: &PgConnectOptions) -> Result<Option<Pooling>, sqlx::Error> {
    let pid = backend(first).await?;
    let Ok(Ok(mut second)) = timeout(SECOND_DEADLINE, options.connect()).await else { return Ok(None) };
    let pooling = match timeout(SECOND_DEADLINE, second.execute("BEGIN")).await {
        Err(_) => return Ok(None),
        // A pooler in statement mode refuses transactions.
        Ok(Err(sqlx::Error::Database(_))) => Pooling::Transaction,
        Ok(Err(_)) => return Ok(None),
        Ok(Ok(_)) => {
            // The second connection has none of our settings, so a short timeout of the role may end it.
            let Ok(other) = backend(&mut second).await else { return Ok(None) };
            let after = backend(first).await?;
            if other == pid || after != pid { Pooling::Transaction } else { Pooling::Session }
        }
    };
    drop(second.close().await);
    Ok(Some(pooling))
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one("SELECT pg_backend_pid()").await?.try_get(0)
}

pub(super) fn words() -> String {
    "a pooler gives each transaction another session (pgbouncer: pool_mode = transaction or statement), and Tidegate needs one \
     of its own: connect to the server without the pooler, or set pool_mode = session for this user or database"
        .to_owned()
}
