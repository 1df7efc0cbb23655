//! Opens connections: where to, as whom, with which settings and deadlines.
//!
//! There is no pool on the write path: a writer owns its connection, and drops it when in doubt. The deadlines and their order
//! stand in `config`.

use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Cause, WriteError};
use tokio::time::timeout;

use crate::config::{Postgres, PostgresUrl};

/// Opens connections for one pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<Postgres>,
    application_name: Arc<str>,
}

impl Connector {
    /// For a pipeline; `None` is for the daemon itself.
    pub fn new(config: Arc<Postgres>, pipeline: Option<&str>) -> Self {
        let name = pipeline.map_or_else(|| "tidegate".to_owned(), |pipeline| format!("tidegate {pipeline}"));
        // The server cuts names at 63 bytes.
        let name = name.get(..63).unwrap_or(&name);
        Self { config, application_name: name.into() }
    }

    /// `application_name` of every connection.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Our own deadline for an answer.
    pub fn write_deadline(&self) -> Duration {
        self.config.write_timeout
    }

    /// Opens a connection, and says its backend's pid.
    ///
    /// # Errors
    /// At [`Stage::Connect`], whatever the reason; the URL, which may hold a password, is in no text.
    pub async fn open(&self) -> Result<(PgConnection, i32), WriteError> {
        let refused = |why| WriteError { stage: Stage::Connect, cause: Cause::Connection(why) };
        let options = self.options().map_err(refused)?;
        let settings = self.settings();
        let work = async {
            let mut connection = options.connect().await?;
            connection.execute(settings.as_str()).await?;
            let pid = sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut connection).await?.try_get(0)?;
            Ok((connection, pid))
        };
        within(self.config.connect_timeout, Stage::Connect, work).await
    }

    fn options(&self) -> Result<PgConnectOptions, String> {
        let url = match &self.config.url {
            PostgresUrl::Inline(url) => url.expose().to_owned(),
            PostgresUrl::File(path) => secret_file("postgres.url_file", path)?,
        };
        // The parser's own message may quote the URL.
        let options = PgConnectOptions::from_str(&url).map_err(|_| {
            "the connection URL is not of the form postgres://user:password@host:port/database".to_owned()
        })?;
        let options = match &self.config.password_file {
            Some(path) => options.password(&secret_file("postgres.password_file", path)?),
            None => options,
        };
        Ok(options.application_name(&self.application_name).disable_statement_logging())
    }

    /// `SET` rather than startup options, which poolers refuse.
    fn settings(&self) -> String {
        let Postgres { statement_timeout, lock_timeout, idle_in_transaction_timeout, session, .. } = &*self.config;
        let mut sql = String::new();
        let ours = [
            ("statement_timeout", statement_timeout.as_millis().to_string()),
            ("lock_timeout", lock_timeout.as_millis().to_string()),
            // Ends a transaction of ours whose process is stopped or gone, so that its locks don't outlive it.
            ("idle_in_transaction_session_timeout", idle_in_transaction_timeout.as_millis().to_string()),
            ("client_min_messages", "warning".to_owned()),
        ];
        let theirs = session.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in ours.into_iter().chain(theirs) {
            // Writing to a String can't fail; config checks the names.
            let _infallible = write!(sql, "SET {name} = '{}';", value.replace('\'', "''"));
        }
        sql
    }
}

/// What work of a stage comes to, for which Postgres has so long.
///
/// # Errors
/// As the work fails, and where the time is up: then its connection is of no use any more.
pub(crate) async fn within<T>(
    limit: Duration,
    stage: Stage,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, WriteError> {
    let cause = match timeout(limit, work).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => super::error::cause(error),
        Err(_) => Cause::Deadline(limit, None),
    };
    Err(WriteError { stage, cause })
}

/// Waits for the lock of this name, for work that one instance does at a time. It ends with the connection, which is for that
/// work alone.
///
/// # Errors
/// As the statement fails: with 55P03 after `lock_timeout`.
pub(crate) async fn lock_for_session(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))").bind(name).execute(connection).await.map(drop)
}

/// Read on each connection, so that a rotated secret is picked up.
fn secret_file(key: &str, path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("can't read `{key}` {}: {error}", path.display()))?;
    Ok(text.trim_end().to_owned())
}
