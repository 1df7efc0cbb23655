//! Opens connections: address, user, settings and deadlines.
//!
//! There is no pool on the write path: each writer has its own connection, and closes it if an error leaves the connection's
//! state unknown.

use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Executor, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Cause, WriteError};
use tidegate_rows::catalog::{LONGEST_NAME, shortened};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::pooler::{self, Pooling};
use super::remedy;
use crate::config::postgres_url::{self, Server, Servers};
use crate::config::{Postgres, PostgresUrl, Secret, url_parameters};
use crate::credentials;

/// Settings that have only one correct value for us, as name, value and version. The version is that of the first server that has
/// the setting; 0 if all supported servers have it.
pub(crate) const FIXED: &[(&str, &str, u32)] = &[
    // A claim must see what was committed while it waited for a lock.
    ("default_transaction_isolation", "read committed", 0),
    ("default_transaction_deferrable", "off", 0),
    // With `off`, every statement would fail on a target with row-level security. With `on`, its policies apply.
    ("row_security", "on", 0),
    // With `on`, the server would end the session at each refused row.
    ("exit_on_error", "off", 0),
    // With `on`, `format_type` would quote the names of types, and our comparisons of these names would fail.
    ("quote_all_identifiers", "off", 0),
    ("standard_conforming_strings", "on", 0),
    // Our own deadlines limit every wait. This setting and the next would only end healthy connections.
    ("idle_session_timeout", "0", 140_000),
    ("transaction_timeout", "0", 170_000),
];

/// How long a server may take before the next one is tried in parallel.
const HEAD_START: Duration = Duration::from_millis(250);

/// Opens connections to Postgres, for a pipeline, for the daemon itself or for a command. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<Postgres>,
    application_name: Arc<str>,
    pipeline: Arc<str>,
    learned: Arc<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    /// The index, in the order of the URL, of the server that was used last. The next connection tries this server first.
    server: AtomicUsize,
    must_write: AtomicBool,
    /// Whether an earlier connection has shown that each connection has its own session. Later connections then skip the search
    /// for a pooler.
    has_sessions: AtomicBool,
    /// A password from `password_command`, and the time until which it is used. The lock is held while the program runs. So
    /// connections that open at the same time share the password.
    password: Mutex<Option<(Secret, Instant)>>,
}

struct Refused {
    server: String,
    cause: Cause,
}

impl Connector {
    /// Makes a connector. The connections' `application_name` contains the name of `pipeline`, so that commands find the running
    /// pipelines. `None` is for the connections of the daemon itself, of commands and of stopped pipelines.
    pub fn new(config: Arc<Postgres>, pipeline: Option<&str>) -> Self {
        let name = pipeline.map_or_else(|| "tidegate".to_owned(), |pipeline| format!("tidegate {pipeline}"));
        // The server would replace characters outside of ASCII, and truncate a long name. Then the name would match no session,
        // or two pipelines would have the same name.
        let application_name = shortened(&name.escape_default().to_string(), LONGEST_NAME).into();
        let pipeline = pipeline.unwrap_or("tidegate").into();
        Self { config, application_name, pipeline, learned: Arc::default() }
    }

    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Returns the pipeline's name for log lines; `tidegate` if the connections belong to no pipeline.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    pub fn write_deadline(&self) -> Duration {
        self.config.write_timeout
    }

    /// Returns whether only servers that accept writes are used. The URL's `target_session_attrs` decides this. Without this
    /// parameter, the result is true if the URL names several servers. It is false before the first connection.
    pub fn must_write(&self) -> bool {
        self.learned.must_write.load(Ordering::Relaxed)
    }

    /// Opens a connection, and returns it with the pid of its backend. If the URL names several servers, uses the first that
    /// answers and accepts writes. With `target_session_attrs=any`, the server need not accept writes. The servers are tried in
    /// the order of the URL, beginning with the server that was used last. If a server hasn't answered after a quarter of a
    /// second, the next one is tried in parallel.
    ///
    /// # Errors
    /// The error always has [`Stage::Connect`]. Its text never contains the URL, which may have
    /// a password. If none of several servers can be used, the text names each with its error.
    pub async fn open(&self) -> Result<(PgConnection, i32), WriteError> {
        let refused = |cause| WriteError { stage: Stage::Connect, cause };
        let deadline = Instant::now() + self.config.connect_timeout;
        let (servers, password) = match timeout_at(deadline, self.target()).await {
            Ok(target) => target.map_err(|why| refused(Cause::NotContacted(why)))?,
            Err(_) => return Err(refused(Cause::Deadline(self.config.connect_timeout, None))),
        };
        self.learned.must_write.store(servers.must_write, Ordering::Relaxed);
        let count = servers.all.len();
        let first = self.learned.server.load(Ordering::Relaxed).min(count - 1);
        let mut waiting = (0..count).map(|n| (first + n) % count);
        let mut trying = JoinSet::new();
        let mut failures = Vec::new();
        loop {
            let next = waiting.next();
            if let Some(at) = next {
                let server = &servers.all[at];
                let options = self.options(&servers, server, password.as_ref());
                let options = options.map_err(|why| refused(Cause::NotContacted(why)))?;
                let (this, name) = (self.clone(), server.name.clone());
                let must_write = servers.must_write;
                trying.spawn(async move {
                    let tried = timeout_at(deadline, this.try_server(&options, must_write)).await;
                    let tried = tried.unwrap_or(Err(Cause::Deadline(this.config.connect_timeout, None)));
                    tried.map(|open| (at, open)).map_err(|cause| Refused { server: name, cause })
                });
            }
            tokio::select! {
                ended = trying.join_next() => match ended {
                    Some(Ok(Ok((at, open)))) => {
                        self.learned.server.store(at, Ordering::Relaxed);
                        return Ok(open);
                    }
                    Some(Ok(Err(failure))) => {
                        if matches!(&failure.cause, Cause::Postgres(error) if error.sqlstate.starts_with("28")) {
                            *self.learned.password.lock().await = None;
                        }
                        failures.push(failure);
                    }
                    Some(Err(panic)) => return Err(refused(Cause::Connection(panic.to_string()))),
                    None => return Err(refused(together(failures))),
                },
                () = sleep(HEAD_START), if next.is_some() => {}
            }
        }
    }

    /// Returns the servers that the URL names, and the password of `password_command` or `password_file`. The password is `None`
    /// if neither is configured.
    async fn target(&self) -> Result<(Servers, Option<Secret>), String> {
        let url = match &self.config.url {
            PostgresUrl::Inline(url) => url.expose().to_owned(),
            PostgresUrl::File(path) => secret_file("postgres.url_file", path)?,
        };
        let named = |why| format!("the connection URL can't be used: {why}");
        if let Some(why) = url_parameters::fault(&url) {
            return Err(named(why));
        }
        let servers = postgres_url::parse(&url).map_err(named)?;
        let password = match (&self.config.password_command, &self.config.password_file) {
            (Some(command), _) => Some(self.ask_for_password(command).await?),
            (None, Some(path)) => Some(Secret::new(secret_file("postgres.password_file", path)?)),
            (None, None) => None,
        };
        Ok((servers, password))
    }

    /// Returns the password that `password_command` prints. Reuses a password until four fifths of its lifetime have passed, or a
    /// server has refused it.
    async fn ask_for_password(&self, command: &[String]) -> Result<Secret, String> {
        let mut known = self.learned.password.lock().await;
        if let Some((password, _)) = known.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Ok(password.clone());
        }
        *known = None;
        let asked_at = Instant::now();
        let issued = credentials::run("postgres.password_command", command).await?;
        // Use the password only for a part of its lifetime, so that it is still valid during the login, and if clocks differ.
        let until = issued.lifetime.and_then(|lifetime| asked_at.checked_add(lifetime.mul_f64(0.8)));
        *known = until.map(|until| (issued.secret.clone(), until));
        Ok(issued.secret)
    }

    fn options(
        &self,
        servers: &Servers,
        server: &Server,
        password: Option<&Secret>,
    ) -> Result<PgConnectOptions, String> {
        // The parser's own message may quote the URL.
        let options = PgConnectOptions::from_str(server.url.expose())
            .map_err(|_| format!("the connection URL can't be used; {}", postgres_url::FORM))?;
        let options = password.into_iter().fold(options, |options, password| options.password(password.expose()));
        let options = match options.get_ssl_mode() {
            _ if server.is_socket => options.ssl_mode(PgSslMode::Disable),
            // As in libpq: if the URL names certificate authorities, `sslmode=require` verifies the certificate too.
            PgSslMode::Require if servers.has_authorities => options.ssl_mode(PgSslMode::VerifyCa),
            _ => options,
        };
        // Poolers refuse this startup parameter, which sqlx sends by default.
        let options = options.extra_float_digits(None);
        Ok(options.application_name(&self.application_name).disable_statement_logging())
    }

    /// Opens a connection to one server. Fails if a pooler gives each transaction another session, or if `must_write` is set and
    /// the server refuses writes.
    async fn try_server(&self, options: &PgConnectOptions, must_write: bool) -> Result<(PgConnection, i32), Cause> {
        let work = async {
            let mut connection = options.connect().await?;
            let version = connection.server_version_num().unwrap_or(0);
            connection.execute(self.settings(version).as_str()).await?;
            let row = connection.fetch_one(ABOUT_SESSION).await?;
            let (pid, is_read_only): (i32, bool) = (row.try_get(0)?, row.try_get(1)?);
            let pooling = if self.learned.has_sessions.load(Ordering::Relaxed) {
                None
            } else {
                pooler::look(&mut connection, options).await?
            };
            Ok::<_, sqlx::Error>((connection, pid, is_read_only, pooling))
        };
        let (connection, pid, is_read_only, pooling) = work.await.map_err(|error| {
            let mut cause = super::error::cause(error);
            remedy::add(&mut cause);
            cause
        })?;
        match pooling {
            Some(Pooling::Transaction) => return Err(Cause::Connection(pooler::words())),
            Some(Pooling::Session) => self.learned.has_sessions.store(true, Ordering::Relaxed),
            None => {}
        }
        if must_write && is_read_only {
            return Err(Cause::Connection("accepts no writes: it is a standby, or set to read-only".to_owned()));
        }
        Ok((connection, pid))
    }

    /// Returns the statements that set every setting on which our SQL relies, so that a setting of the role or the
    /// database can't change what our SQL means. The statements use `SET`, because poolers refuse startup options.
    /// `version` is the server's, as in `server_version_num`.
    ///
    /// Three settings stay as the role or the database has them:
    /// - `search_path`: the user's triggers and defaults may rely on it. Our own statements name their schemas.
    /// - `default_transaction_read_only`: administrators may set it to stop all writes to a server.
    /// - `session_replication_role`: not every role may set it. The ledger's triggers fire under each of its values.
    fn settings(&self, version: u32) -> String {
        let Postgres { statement_timeout, lock_timeout, idle_in_transaction_timeout, session, .. } = &*self.config;
        let mut sql = String::new();
        let ours = [
            ("statement_timeout", statement_timeout.as_millis().to_string()),
            ("lock_timeout", lock_timeout.as_millis().to_string()),
            // Ends our session if this process is suspended or gone in the middle of a
            // transaction. The transaction's locks would otherwise block other sessions.
            ("idle_in_transaction_session_timeout", idle_in_transaction_timeout.as_millis().to_string()),
            ("client_min_messages", "warning".to_owned()),
        ];
        let fixed = FIXED.iter().filter(|(_, _, since)| version >= *since);
        let ours = ours.into_iter().chain(fixed.map(|(name, value, _)| (*name, (*value).to_owned())));
        let theirs = session.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in ours.chain(theirs) {
            // Writing to a String can't fail; config checks the names.
            let _infallible = write!(sql, "SET {name} = '{}';", value.replace('\'', "''"));
        }
        sql
    }
}

/// Selects the backend's pid, and whether the server refuses writes. The query is sent without a prepared statement, so that it
/// works through any pooler.
const ABOUT_SESSION: &str = "SELECT pg_backend_pid(), current_setting('transaction_read_only')::bool";

/// Combines the errors of all servers into one. If there is only one server, its error keeps its SQLSTATE, and the server's name
/// is added.
fn together(mut failures: Vec<Refused>) -> Cause {
    if failures.len() == 1 {
        let Refused { server, mut cause } = failures.remove(0);
        let of_server = |note: &Option<String>| {
            let note = note.as_ref().map(|note| format!("{note}; ")).unwrap_or_default();
            Some(format!("{note}the server is {server}"))
        };
        match &mut cause {
            Cause::Connection(text) => *text = format!("{server}: {text}"),
            Cause::Deadline(_, note) => *note = of_server(note),
            Cause::Postgres(error) => error.note = of_server(&error.note),
            Cause::NotContacted(_) | Cause::NoPartition(_) | Cause::Conflict(_) => {}
        }
        return cause;
    }
    let each = failures
        .into_iter()
        .map(|Refused { server, cause }| format!("{server}: {}", WriteError { stage: Stage::Connect, cause }));
    Cause::Connection(format!("none of the servers can be used: {}", each.collect::<Vec<_>>().join("; ")))
}

/// Runs the work of a stage, with a time limit.
///
/// # Errors
/// The error of the work, or a timeout. After a timeout, the connection on which the work ran is useless.
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

/// Waits for the advisory lock with this name, for work that only one instance may do at a time. The lock is released when the
/// connection is closed, so the caller uses the connection for this work only.
///
/// # Errors
/// The error of the statement: 55P03 after `lock_timeout`.
pub(crate) async fn lock_for_session(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))").bind(name).execute(connection).await.map(drop)
}

/// Reads a secret from a file. Called for each connection, so that a rotated secret is picked up.
fn secret_file(key: &str, path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("can't read `{key}` {}: {error}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_pipeline_has_an_application_name_that_postgres_keeps() {
        let toml = "[kafka]\nbootstrap_servers = \"127.0.0.1\"\n[postgres]\nurl = \"postgres://tidegate@127.0.0.1/t\"\n\
                    [pipelines.rides]\ntopics = [\"t\"]\ntable = { name = \"rides\" }\n";
        let config = Arc::new(Config::parse("test.toml", toml).expect("a configuration").postgres);
        let application_name = |pipeline: &str| {
            let connector = Connector::new(Arc::clone(&config), Some(pipeline));
            assert_eq!(connector.pipeline(), pipeline, "log lines have the whole name");
            connector.application_name().to_owned()
        };
        assert_eq!(application_name("rides"), "tidegate rides");
        let long = "a-pipeline-of-one-fleet-whose-name-is-as-long-as-is-allowed-";
        let names =
            [format!("{long}in1"), format!("{long}in2"), "rides replay é".to_owned(), "rides replay è".to_owned()];
        let names = names.map(|name| application_name(&name));
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() <= 63 && name.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}");
            assert!(!names[..at].contains(name), "{name} belongs to two pipelines");
        }
    }
}
