//! Whether a pooler stands between us and Postgres that gives each transaction another session.
//!
//! Our settings, prepared statements, session locks and staging tables are a session's. A pooler in transaction mode hands
//! the session to others between two transactions, so that none of them would hold, and ours would hold for others. With a
//! pooler in session mode a connection is as good as a direct one.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};
use tokio::time::timeout;

/// The longest that a second connection may take. A pooler whose sessions are all taken lets it wait.
const SECOND_DEADLINE: Duration = Duration::from_secs(1);

/// What a pooler does with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Each connection has its own.
    Session,
    /// Each transaction gets any.
    Transaction,
}

/// Finds out by a second connection: a transaction there must not run in the session of the first, and the first must be in
/// the same one afterwards. Uses no prepared statement, which the pooler may refuse. `None` if there is no second connection to
/// be had.
pub(super) async fn look(first: &mut PgConnection, options: &PgConnectOptions) -> Result<Option<Pooling>, sqlx::Error> {
    let pid = backend(first).await?;
    let Ok(Ok(mut second)) = timeout(SECOND_DEADLINE, options.connect()).await else { return Ok(None) };
    let pooling = match timeout(SECOND_DEADLINE, second.execute("BEGIN")).await {
        Err(_) => return Ok(None),
        // A pooler in statement mode refuses transactions.
        Ok(Err(sqlx::Error::Database(_))) => Pooling::Transaction,
        Ok(Err(_)) => return Ok(None),
        Ok(Ok(_)) => {
            let other = backend(&mut second).await?;
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

/// What to tell the user of one that is of no use.
pub(super) fn words() -> String {
    "a pooler gives each transaction another session (pgbouncer: pool_mode = transaction or statement), and tidegate needs one \
     of its own: connect past the pooler, or set pool_mode = session for this user or database"
        .to_owned()
}
