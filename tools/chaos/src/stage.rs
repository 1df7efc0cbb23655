//! The stage of a campaign: three brokers, a database, daemons and a producer. The networks between them can be made to fail.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sqlx::{Executor, PgConnection};
use tempfile::TempDir;
use tidegate_harness::proxy::Proxy;
use tidegate_harness::{Daemon, DaemonSpec, Database, Kafka, KafkaSpec, Postgres, PostgresSpec};

use crate::load::Load;
use crate::output::Output;
use crate::watch::Watch;

pub(crate) const TOPIC: &str = "chaos";
const END_DEADLINE: Duration = Duration::from_secs(90);

/// The parameters of a stage. `rate` is the number of records per second. `protocol` and `batch` are the pipeline's settings
/// `group_protocol` and `batch`. `memory` is the daemons' `limits.memory`. `topic` has the settings of the topic.
#[derive(Clone, Debug)]
pub(crate) struct StageSpec {
    pub(crate) binary: PathBuf,
    pub(crate) daemons: usize,
    /// The number of consumers of each daemon. A daemon that `Fault::ChangeDaemons` adds has 1 to 3 consumers instead.
    pub(crate) consumers: usize,
    pub(crate) partitions: i32,
    pub(crate) protocol: String,
    pub(crate) rate: f64,
    pub(crate) memory: String,
    pub(crate) batch: String,
    pub(crate) topic: Vec<(&'static str, String)>,
}

/// A daemon with its own proxy to the database.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) daemon: Daemon,
    pub(crate) network: Proxy,
    number: usize,
}

pub(crate) struct Stage {
    pub(crate) cast: StageSpec,
    pub(crate) kafka: Kafka,
    pub(crate) brokers: Vec<Proxy>,
    pub(crate) postgres: Postgres,
    pub(crate) database: Database,
    pub(crate) members: Vec<Member>,
    pub(crate) partitions: i32,
    /// Contains the copy of the database that the next restore uses.
    folder: TempDir,
    pub(crate) load: Load,
    pub(crate) watch: Watch,
    pub(crate) output: Output,
    started: usize,
}

impl Stage {
    pub(crate) async fn set(cast: StageSpec, output: Output) -> Result<Self> {
        let (kafka, brokers) = Kafka::start_behind_proxies(&KafkaSpec::cluster())?;
        // Keep little of the write-ahead log, because each restore copies it. `fsync` isn't needed, because only
        // processes crash here, never the machine.
        let postgres = Postgres::start(
            &PostgresSpec::default().setting("max_wal_size = 192MB").setting("min_wal_size = 64MB").without_fsync(),
        )?;
        let topic: Vec<(&str, &str)> = cast.topic.iter().map(|(name, value)| (*name, value.as_str())).collect();
        kafka.create_topic(TOPIC, cast.partitions, &topic)?;
        let database = postgres.create_database().await?;
        let table = "CREATE TABLE rides (seq bigint, text text, reading float8, checksum bigint, kafka_partition int,
            kafka_offset bigint)";
        database.connect().await?.execute(table).await?;
        let load = Load::start(kafka.bootstrap_servers(), TOPIC, cast.rate)?;
        let mut stage = Self {
            partitions: cast.partitions,
            kafka,
            brokers,
            postgres,
            watch: Watch::start(&database),
            database,
            members: Vec::new(),
            folder: TempDir::new()?,
            load,
            output,
            started: 0,
            cast,
        };
        for _ in 0..stage.cast.daemons {
            stage.add_daemon(stage.cast.consumers)?;
        }
        stage.members[0].daemon.await_ready(Duration::from_secs(120))?;
        Ok(stage)
    }

    pub(crate) fn add_daemon(&mut self, consumers: usize) -> Result<()> {
        let network = Proxy::start_postgres(self.postgres.address())?;
        let servers: Vec<String> = self.brokers.iter().map(|proxy| proxy.addr().to_string()).collect();
        let StageSpec { protocol, memory, batch, .. } = &self.cast;
        // Under KIP-848, the session timeout is a setting of the broker.
        let session = if protocol == "consumer" { "" } else { "\"session.timeout.ms\" = 6000\n" };
        let config = format!(
            "[kafka.properties]\n{session}[postgres]\nlock_timeout = \"2s\"\n[limits]\nmemory = \"{memory}\"\n\
             [pipelines.rides]\ntopics = [\"{TOPIC}\"]\nconsumers = {consumers}\ngroup_protocol = \"{protocol}\"\n\
             batch = {batch}\n[pipelines.rides.table]\nname = \"rides\"\n\
             [pipelines.rides.columns]\nseq = \"seq\"\ntext = \"text\"\nreading = \"reading\"\nchecksum = \"checksum\"\n\
             kafka_partition = {{ meta = \"partition\" }}\nkafka_offset = {{ meta = \"offset\" }}\n"
        );
        let spec = DaemonSpec::new(&self.cast.binary, config);
        let daemon = Daemon::spawn(&spec.on(&servers.join(","), &self.database.url_at(network.addr()))?)?;
        self.started += 1;
        self.members.push(Member { daemon, network, number: self.started });
        Ok(())
    }

    /// Removes a daemon, and stores its log in the output folder. Kills the daemon if it still runs.
    pub(crate) fn remove(&mut self, index: usize) {
        let member = self.members.swap_remove(index);
        self.output.keep(&format!("daemon-{}", member.number), &member.daemon.log());
    }

    /// Drains and ends a daemon by SIGTERM, as an operator does, and removes it.
    pub(crate) fn end(&mut self, index: usize) -> Result<()> {
        self.members[index].daemon.drain(END_DEADLINE)?;
        self.remove(index);
        Ok(())
    }

    pub(crate) fn copy(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Copies the current database, which must be stopped, for the next restore.
    pub(crate) fn copy_database(&self) -> Result<()> {
        if self.copy().exists() {
            std::fs::remove_dir_all(self.copy())?;
        }
        self.postgres.copy_data_dir_to(&self.copy())
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        self.database.connect().await
    }

    pub(crate) fn check_daemons(&self) -> Result<()> {
        match self.members.iter().find(|member| member.daemon.exit_status().is_some()) {
            Some(Member { daemon, .. }) => {
                Err(anyhow!("a daemon ended by itself: {:?}\n{}", daemon.exit_status(), daemon.log_tail()))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn log_tails(&self) -> String {
        self.members.iter().map(|member| member.daemon.log_tail()).collect::<Vec<_>>().join("\n--\n")
    }

    /// Returns three sizes in bytes: of the database's copy, of the database itself, and of its write-ahead log.
    pub(crate) async fn disk(&self) -> Result<(u64, i64, i64)> {
        use sqlx::Row;
        let sql =
            "SELECT pg_database_size(current_database()), (SELECT coalesce(sum(size), 0)::int8 FROM pg_ls_waldir())";
        let row = sqlx::query(sql).fetch_one(&mut self.connect().await?).await?;
        let copy = folder_bytes(&self.copy()).context("the copy can't be measured")?;
        Ok((copy, row.try_get(0)?, row.try_get(1)?))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        while !self.members.is_empty() {
            self.remove(0);
        }
    }
}

fn folder_bytes(folder: &std::path::Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { folder_bytes(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}
