//! A real PostgreSQL, which tests can configure, crash, and restore to an earlier state.
//!
//! By default, it accepts every connection from this machine as user `postgres` without a password, over TCP on 127.0.0.1 and
//! over a socket in its folder. Postgres refuses to run as root, so a process that is root starts it as `nobody`.

mod cluster;
mod spec;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, PgConnection};

use self::cluster::{copy, initialize, install_certificate, make_folder_for, nobody, says_ready, write_settings};
pub use self::spec::PostgresSpec;
use crate::process::{Output, Process, Program, Run, Signal};
use crate::tls::{Authority, Identity};
use crate::{fetch, free_port, unique_name, usage};

/// The longest time for a start. It is long, because a build may use all cores, and recovery after a crash takes time.
const START_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How many times a start of Postgres is tried. A start fails if another process has just taken the port.
const START_ATTEMPTS: usize = 3;

/// A running Postgres. If this process has started it, dropping it ends its processes and removes its data.
#[derive(Debug)]
pub struct Postgres {
    /// The connection URL in two parts: before the database's name, and after it.
    url: (String, String),
    own: Option<Own>,
}

/// The state of a Postgres that this process has started. The process has a lock, because several threads may use the same
/// Postgres.
#[derive(Debug)]
struct Own {
    run: Arc<Run>,
    program: Program,
    data: PathBuf,
    process: Mutex<Option<Process>>,
}

#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub url: String,
}

impl Database {
    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url).await.with_context(|| format!("could not connect to database `{}`", self.name))
    }

    /// Returns the connection string of the database at another address (`host:port`), for example that of a proxy.
    pub fn url_at(&self, address: impl std::fmt::Display) -> String {
        let (scheme_and_user, rest) = self.url.rsplit_once('@').unwrap_or(("postgres://postgres", &self.url));
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        format!("{scheme_and_user}@{address}/{path}")
    }
}

impl Postgres {
    pub fn start(spec: &PostgresSpec) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(spec) {
                Err(error) if attempt < START_ATTEMPTS && format!("{error:#}").contains("Address already in use") => {
                    attempt += 1;
                }
                outcome => return outcome.context("could not start Postgres"),
            }
        }
    }

    /// Starts a streaming replica on a copy of this Postgres' data. This Postgres is stopped for the copy and started again.
    /// Replication is asynchronous: a replica that is promoted lacks the transactions that it hasn't received.
    ///
    /// # Errors
    /// If one of the two servers doesn't start, or if this Postgres is external.
    pub fn start_replica(&self, spec: &PostgresSpec) -> Result<Self> {
        let own = self.own()?;
        let address = self.address();
        let (host, port) = address.rsplit_once(':').context("the primary has no port")?;
        let follow = format!("primary_conninfo = 'host={host} port={port} user=postgres'");
        let prepare = |data: &Path| -> Result<()> {
            self.stop()?;
            let copied = copy(&own.data, data);
            self.start_again()?;
            copied?;
            Ok(fs::write(data.join("standby.signal"), "")?)
        };
        Self::start_on(&spec.clone().setting(&follow), prepare).context("could not start a replica")
    }

    /// Promotes this replica to primary, and waits until the promotion is complete.
    pub async fn promote(&self) -> Result<()> {
        let mut connection = self.connect("postgres").await?;
        let promoted: bool = sqlx::query_scalar("SELECT pg_promote()").fetch_one(&mut connection).await?;
        ensure!(promoted, "the replica was not promoted within a minute");
        Ok(())
    }

    fn try_start(spec: &PostgresSpec) -> Result<Self> {
        let binaries = fetch::postgres()?.join("bin");
        Self::start_on(spec, |data| {
            let user = if rustix::process::geteuid().is_root() { Some(nobody()?) } else { None };
            initialize(&binaries, data, user)
        })
    }

    /// Starts a server. `prepare` creates the data folder at the given path.
    fn start_on(spec: &PostgresSpec, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let binaries = fetch::postgres()?.join("bin");
        let run = Run::start("postgres")?;
        let user = if rustix::process::geteuid().is_root() { Some(nobody()?) } else { None };
        let home = run.folder().join("pg");
        make_folder_for(user, &home)?;
        let data = home.join("data");
        prepare(&data)?;
        let port = free_port()?;
        write_settings(spec, &data, &home, port)?;
        if let Some((authority, identity)) = &spec.tls {
            install_certificate(authority, identity, &data, user)?;
        }
        let program = Program {
            binary: binaries.join("postgres").into(),
            args: vec!["-D".into(), (&data).into()],
            env: vec![("LC_ALL".to_owned(), "C".to_owned())],
            user,
            output: Output::Log(run.folder().join("postgres.log")),
            end_signal: Signal::QUIT,
        };
        let url = (format!("postgres://postgres@127.0.0.1:{port}/"), String::new());
        let own = Own { run, program, data, process: Mutex::new(None) };
        own.start()?;
        Ok(Self { url, own: Some(own) })
    }

    /// Returns a Postgres that something else has started. Databases can be created in it, but it can't be stopped.
    pub fn external(url: &str) -> Result<Self> {
        let (base, parameters) = match url.find('?') {
            Some(at) => url.split_at(at),
            None => (url, ""),
        };
        let authority = base.find("://").map(|at| at + "://".len());
        let Some(authority) = authority else { bail!("the connection string has no `://`") };
        let end = base[authority..].find('/').map_or(base.len(), |slash| authority + slash);
        Ok(Self { url: (format!("{}/", &base[..end]), parameters.to_owned()), own: None })
    }

    pub fn url(&self, database: &str) -> String {
        let (before, after) = &self.url;
        format!("{before}{database}{after}")
    }

    /// Returns whether something else has started this Postgres, so that it can't be stopped or killed.
    pub fn is_external(&self) -> bool {
        self.own.is_none()
    }

    /// Returns the address (`host:port`) of the server.
    pub fn address(&self) -> String {
        const DEFAULT_PORT: u16 = 5432;
        let before = &self.url.0;
        let authority = before.rsplit_once('@').or_else(|| before.split_once("://")).map_or("", |(_, rest)| rest);
        let host = authority.trim_end_matches('/');
        if host.contains(':') { host.to_owned() } else { format!("{host}:{DEFAULT_PORT}") }
    }

    pub async fn create_database(&self) -> Result<Database> {
        let name = unique_name("test");
        let mut connection = self.connect("postgres").await?;
        let statement = format!("CREATE DATABASE {name}");
        sqlx::query(&statement).execute(&mut connection).await.context("could not make a database")?;
        connection.close().await?;
        Ok(Database { url: self.url(&name), name })
    }

    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        let connected = PgConnection::connect(&self.url(database)).await;
        connected.with_context(|| format!("could not connect to database `{database}`"))
    }

    /// Shuts the server down in the mode "fast", which doesn't wait for clients. Fails if that takes longer than a minute. Like
    /// every method about processes and data, this one fails if this Postgres is external.
    pub fn stop(&self) -> Result<()> {
        let mut process = self.own()?.process();
        let running = process.as_ref().context(NOT_RUNNING)?;
        running.signal(Signal::INT)?;
        running.await_exit(STOP_DEADLINE)?;
        *process = None;
        Ok(())
    }

    /// Kills the server with all its children (SIGKILL), as in a crash. Committed data must survive this.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.own()?.process();
        process.as_ref().context(NOT_RUNNING)?.kill()?;
        *process = None;
        Ok(())
    }

    /// Starts the server after [`Postgres::stop`] or [`Postgres::kill`], on the same port and with the same data, and waits
    /// until it serves.
    pub fn start_again(&self) -> Result<()> {
        self.own()?.start().context("could not start Postgres again")
    }

    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Suspends the server and its children (SIGSTOP). Connections stay open, but the server doesn't answer.
    pub fn pause(&self) -> Result<()> {
        self.own()?.process().as_ref().context(NOT_RUNNING)?.pause()
    }

    pub fn resume(&self) -> Result<()> {
        self.own()?.process().as_ref().context(NOT_RUNNING)?.resume()
    }

    /// Returns the process id of the postmaster.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.own()?.process().as_ref().context(NOT_RUNNING)?.pid())
    }

    pub fn backend_pids(&self) -> Result<Vec<u32>> {
        Ok(usage::descendants(self.pid()?))
    }

    pub fn data_dir(&self) -> Result<&Path> {
        Ok(&self.own()?.data)
    }

    pub fn socket_dir(&self) -> Result<&Path> {
        self.own()?.data.parent().context("its data has no parent folder")
    }

    /// Replaces the certificate of a server that was started with [`PostgresSpec::tls`]. The server uses the new certificate from
    /// its next start on.
    pub fn set_certificate(&self, authority: &Authority, identity: &Identity) -> Result<()> {
        let own = self.own()?;
        install_certificate(authority, identity, &own.data, own.program.user)
    }

    /// Copies the server's data to a new folder at `path`, as a backup. The server must be stopped.
    pub fn copy_data_dir_to(&self, path: &Path) -> Result<()> {
        let own = self.own()?;
        let process = own.process();
        ensure!(process.is_none(), STOP_FIRST);
        copy(&own.data, path)
    }

    /// Replaces the server's data with a backup that [`Postgres::copy_data_dir_to`] made. The server must be stopped.
    pub fn restore_data_dir_from(&self, path: &Path) -> Result<()> {
        let own = self.own()?;
        let process = own.process();
        ensure!(process.is_none(), STOP_FIRST);
        fs::remove_dir_all(&own.data).context("could not remove the data")?;
        copy(path, &own.data)
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this Postgres is the one that `DATABASE_URL` names; it is not ours to stop or start")
    }
}

const NOT_RUNNING: &str = "Postgres is not running";
const STOP_FIRST: &str = "Postgres is running; stop it first";

impl Own {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "Postgres is running already");
        let started = Process::start(&self.run, &self.program)?;
        let pid = started.pid();
        started.await_ready("Postgres", START_DEADLINE, || says_ready(&self.data, pid))?;
        *process = Some(started);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn an_external_one_names_other_databases_by_the_same_credentials_and_parameters() {
        let postgres = Postgres::external("postgres://me:secret@db.example:6000/mine?sslmode=disable").unwrap();
        assert_eq!(postgres.url("test"), "postgres://me:secret@db.example:6000/test?sslmode=disable");
        assert_eq!(postgres.address(), "db.example:6000");
        assert!(postgres.stop().unwrap_err().to_string().contains("DATABASE_URL"));
    }

    #[test]
    fn an_external_one_may_leave_out_what_has_a_default() {
        let postgres = Postgres::external("postgres://localhost").unwrap();
        assert_eq!(postgres.url("test"), "postgres://localhost/test");
        assert_eq!(postgres.address(), "localhost:5432");
    }
}
