//! The servers on which everything runs, and the daemons.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection, Executor, PgConnection};
use tidegate_harness::sql::number;
use tidegate_harness::{Daemon, DaemonSpec, Database, Kafka, KafkaSpec, Postgres, PostgresSpec, TunedFor, start_both};

use crate::rows;

/// The configuration of the daemon that the experiments measure.
const MEASURED: &str = include_str!("../../../config/demo.toml");

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) database: Database,
    pub(crate) tidegate: PathBuf,
    /// The postmaster's process id; 0 while it is stopped.
    postgres_pid: AtomicU32,
}

/// Settings of Postgres in addition to those of [`TunedFor::Speed`]. The report shows them. `fsync` and `synchronous_commit` keep
/// their defaults.
pub(crate) const POSTGRES_SETTINGS: [&str; 3] =
    ["max_wal_size = '4GB'", "checkpoint_timeout = '30min'", "track_commit_timestamp = on"];

impl Stage {
    /// Starts Kafka and Postgres, and creates the database. Without a path, the daemon's program is the file `tidegate` beside
    /// this program.
    ///
    /// # Errors
    /// If a server doesn't start, or the database can't be created.
    pub(crate) async fn set(tidegate: Option<PathBuf>) -> Result<Self> {
        let spec = PostgresSpec::default().tuned_for(TunedFor::Speed);
        let spec = POSTGRES_SETTINGS.iter().fold(spec, |spec, line| spec.setting(line));
        let (kafka, postgres) = start_both(&KafkaSpec::single().tuned_for(TunedFor::Speed), &spec)?;
        let database = postgres.create_database().await?;
        let tidegate = match tidegate {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("tidegate"),
        };
        let postgres_pid = AtomicU32::new(postgres.pid()?);
        Ok(Self { kafka, postgres, database, tidegate, postgres_pid })
    }

    /// Returns the postmaster's process id; `None` while Postgres is stopped.
    pub(crate) fn postgres_pid(&self) -> Option<u32> {
        Some(self.postgres_pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Shuts the database down cleanly, and starts it again after `how_long`. Blocks. Calls `told` before and after that.
    pub(crate) fn stop_database(&self, how_long: Duration, told: impl Fn(&'static str)) -> Result<()> {
        self.postgres_pid.store(0, Ordering::Relaxed);
        told("database stopped");
        let until = std::time::Instant::now() + how_long;
        self.postgres.stop()?;
        std::thread::sleep(until.saturating_duration_since(std::time::Instant::now()));
        self.postgres.start_again()?;
        self.postgres_pid.store(self.postgres.pid()?, Ordering::Relaxed);
        told("database back");
        Ok(())
    }

    /// Recreates the table, empty and with its indexes. Also drops Tidegate's schema, which has the ledger of an earlier run.
    /// Returns the connection that did this.
    pub(crate) async fn fresh_table(&self) -> Result<PgConnection> {
        let mut connection = self.database.connect().await?;
        connection.execute("SET client_min_messages = warning").await?;
        connection.execute(rows::FRESH_TABLE).await?;
        connection.execute("DROP SCHEMA IF EXISTS tidegate CASCADE").await?;
        Ok(connection)
    }

    pub(crate) fn daemon(&self, topic: &str, group: &str) -> Result<Daemon> {
        let spec = DaemonSpec::new(&self.tidegate, MEASURED)
            .env("TIDEGATE__PIPELINES__RIDE__TOPICS", topic)
            .env("TIDEGATE__PIPELINES__RIDE__GROUP", group)
            .on(self.kafka.bootstrap_servers(), &self.database.url)?;
        Daemon::spawn(&spec)
    }

    /// Returns the size of a topic's log on the broker's disk, in bytes.
    pub(crate) fn log_bytes(&self, topic: &str) -> Result<u64> {
        let mut bytes = 0;
        for folder in std::fs::read_dir(self.kafka.data_dir(0)?)?.flatten() {
            let name = folder.file_name();
            let is_ours = name.to_str().and_then(|name| name.rsplit_once('-')).is_some_and(|(of, _)| of == topic);
            if is_ours {
                let files = std::fs::read_dir(folder.path())?.flatten();
                let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
                bytes += logs.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum::<u64>();
            }
        }
        Ok(bytes)
    }
}

/// Returns the position up to which the write-ahead log is written, in bytes.
pub(crate) async fn wal_position(connection: &mut PgConnection) -> Result<i64> {
    number(connection, "SELECT (pg_current_wal_lsn() - '0/0')::int8").await
}

/// A connection that is opened again after a failure.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    url: String,
    connection: Option<PgConnection>,
}

impl Reconnecting {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), connection: None }
    }

    /// Returns the number that a query returns; `None` if the database is unavailable or the query fails.
    pub(crate) async fn number(&mut self, sql: &str) -> Option<i64> {
        if self.connection.is_none() {
            self.connection = PgConnection::connect(&self.url).await.ok();
        }
        let found = number(self.connection.as_mut()?, sql).await;
        if found.is_err() {
            self.connection = None;
        }
        found.ok()
    }
}
