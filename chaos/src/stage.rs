//! Three brokers, a database, daemons and a fleet, with a network between them that fails when told to.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fleet::{Format, Outcome, Partitioning, ProduceError, ProduceSpec};
use sqlx::{Executor, PgConnection, Row};
use tempfile::TempDir;
use tidegate_harness::proxy::{Action, Proxy, Trigger};
use tidegate_harness::{Daemon, DaemonSpec, Database, Kafka, KafkaSpec, Postgres, PostgresSpec, free_port};
use tokio::time::sleep;

use crate::fault::Fault;

const TOPIC: &str = "chaos";
const PARTITIONS: u32 = 6;
const PARTITIONS_MAX: i32 = 12;
const DAEMONS_MAX: usize = 5;
/// Without a commit for so long after a fault is over, the campaign has found something.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(180);
const ALTERS: [&str; 4] = [
    "ALTER TABLE rides ADD COLUMN IF NOT EXISTS note text",
    "ALTER TABLE rides ALTER COLUMN speed_kmh TYPE float8",
    "ALTER TABLE rides DROP COLUMN IF EXISTS note",
    "ALTER TABLE rides ALTER COLUMN speed_kmh TYPE real",
];

/// Everything that can be hurt.
pub(crate) struct Stage {
    kafka: Kafka,
    brokers: Vec<Proxy>,
    postgres: Postgres,
    network: Proxy,
    database: Database,
    binary: PathBuf,
    daemons: Vec<Daemon>,
    partitions: i32,
    /// Holds the copy that a restore brings back.
    folder: TempDir,
    producer: Option<JoinHandle<Result<Outcome, ProduceError>>>,
    ended: Arc<AtomicBool>,
}

/// What the end came to.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) produced: i64,
    pub(crate) rows: i64,
    pub(crate) dead_letters: i64,
    pub(crate) missing: i64,
    pub(crate) twice: i64,
    /// Rows whose place in Kafka doesn't fit their content.
    pub(crate) damaged: i64,
}

impl Stage {
    pub(crate) async fn set(binary: PathBuf, rate: f64, daemons: usize, seed: u64) -> Result<Self> {
        let (kafka, brokers) = Kafka::start_behind_proxies(&KafkaSpec::cluster())?;
        let postgres = Postgres::start(&PostgresSpec::default())?;
        let network = Proxy::start_postgres(postgres.address())?;
        kafka.create_topic(TOPIC, i32::try_from(PARTITIONS)?, &[])?;
        let database = postgres.create_database().await?;
        database
            .connect()
            .await?
            .execute(
                "CREATE TABLE rides (vehicle_id bigint, ts timestamptz, lat float8, lon float8, speed_kmh real, state text,
                     trip_id bigint, kafka_partition int, kafka_offset bigint)",
            )
            .await?;
        let mut stage = Self {
            kafka,
            brokers,
            postgres,
            network,
            database,
            binary,
            daemons: Vec::new(),
            partitions: i32::try_from(PARTITIONS)?,
            folder: TempDir::new()?,
            producer: None,
            ended: Arc::default(),
        };
        for _ in 0..daemons {
            stage.add_daemon()?;
        }
        stage.daemons[0].await_ready(Duration::from_secs(120))?;
        stage.copy_database()?;
        let mut spec = ProduceSpec::new(stage.kafka.bootstrap_servers(), TOPIC);
        spec.fleet.seed = seed;
        spec.format = Format::Compact;
        spec.partitioning = Partitioning::ByVehicle(PARTITIONS);
        spec.rate = rate;
        spec.flush_timeout = Duration::from_secs(180);
        // The fleet's own network is not part of the campaign; brokers that are away are.
        spec.settings.push(("delivery.timeout.ms".to_owned(), "600000".to_owned()));
        let ended = Arc::clone(&stage.ended);
        stage.producer = Some(std::thread::spawn(move || fleet::produce(&spec, &ended, |_| {})));
        stage.await_progress().await?;
        Ok(stage)
    }

    fn add_daemon(&mut self) -> Result<()> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let servers: Vec<String> = self.brokers.iter().map(|proxy| proxy.addr().to_string()).collect();
        let config = format!(
            "[kafka]\nbootstrap_servers = \"{}\"\n[kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n\
             [postgres]\nurl = \"{}\"\nlock_timeout = \"2s\"\n[http]\nlisten = \"{listen}\"\n\
             [pipelines.rides]\ntopics = [\"{TOPIC}\"]\nconsumers = 2\nbatch = {{ max_rows = 5000, max_age = \"200ms\" }}\n\
             [pipelines.rides.table]\nname = \"rides\"\n\
             [pipelines.rides.columns]\nvehicle_id = \"vehicle_id\"\nts = \"ts\"\nlat = \"lat\"\nlon = \"lon\"\n\
             speed_kmh = \"speed_kmh\"\nstate = \"state\"\ntrip_id = \"trip_id\"\n\
             kafka_partition = {{ meta = \"partition\" }}\nkafka_offset = {{ meta = \"offset\" }}\n",
            servers.join(","),
            self.database.url_at(self.network.addr())
        );
        self.daemons.push(Daemon::spawn(&DaemonSpec::new(&self.binary, config).http_address(listen))?);
        Ok(())
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The database as it is now becomes what a restore brings back.
    fn copy_database(&self) -> Result<()> {
        // The first time there is none.
        drop(std::fs::remove_dir_all(self.copy()));
        self.postgres.stop()?;
        self.postgres.copy_data_dir_to(&self.copy())?;
        self.postgres.start_again()
    }

    /// Lets it happen, and mends it where it doesn't mend itself. Daemons are never helped.
    pub(crate) async fn strike(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::KillDaemon { daemon } => {
                self.pick(*daemon).kill()?;
                self.replace(*daemon)?;
            }
            Fault::EndDaemon { daemon } => {
                let ending = self.pick(*daemon);
                ending.terminate()?;
                let status = ending.wait_exit(Duration::from_secs(60))?;
                if !status.success() {
                    bail!("a daemon that was told to end ended with {status}\n{}", ending.log_tail());
                }
                self.replace(*daemon)?;
            }
            Fault::StopDaemon { daemon, length } => {
                let stopped = self.pick(*daemon);
                stopped.pause()?;
                sleep(*length).await;
                stopped.resume()?;
            }
            Fault::ChangeDaemons { daemon } => {
                if self.daemons.len() >= DAEMONS_MAX || (self.daemons.len() > 1 && daemon % 2 == 0) {
                    let index = daemon % self.daemons.len();
                    let leaving = self.daemons.swap_remove(index);
                    leaving.terminate()?;
                    leaving.wait_exit(Duration::from_secs(60))?;
                } else {
                    self.add_daemon()?;
                }
            }
            Fault::TerminateBackend => {
                self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidegate%' ORDER BY random() LIMIT 1").await?;
            }
            Fault::CancelBackends => {
                self.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidegate%'")
                    .await?;
            }
            Fault::CrashDatabase => {
                self.postgres.kill()?;
                self.postgres.start_again()?;
            }
            Fault::RestartDatabase => self.postgres.restart()?,
            Fault::PauseDatabase { length } => {
                self.postgres.pause()?;
                sleep(*length).await;
                self.postgres.resume()?;
            }
            Fault::RestoreDatabase => {
                self.postgres.stop()?;
                self.postgres.restore_data_dir_from(&self.copy())?;
                self.postgres.start_again()?;
                self.await_progress().await?;
                // The next restore goes back to a later day.
                self.copy_database()?;
            }
            Fault::CrashBroker { broker } => {
                self.kafka.kill(*broker)?;
                self.kafka.start_again(*broker)?;
            }
            Fault::PauseBroker { broker, length } => {
                self.kafka.pause(*broker)?;
                sleep(*length).await;
                self.kafka.resume(*broker)?;
            }
            Fault::CutDatabase => self.network.cut(),
            Fault::HoldDatabase { length } => hold(&self.network, *length).await,
            Fault::LoseCommitReply => {
                self.lose(Trigger::BackendCommandComplete("COMMIT".to_owned()), Action::DropReplyAndCut).await?;
            }
            Fault::LoseCommit => {
                self.lose(Trigger::FrontendQueryContains("COMMIT".to_owned()), Action::Cut).await?;
            }
            Fault::CutBroker { broker } => self.brokers[*broker].cut(),
            Fault::HoldBroker { broker, length } => hold(&self.brokers[*broker], *length).await,
            Fault::AddPartition => {
                if self.partitions < PARTITIONS_MAX {
                    self.partitions += 1;
                    self.kafka.add_partitions(TOPIC, self.partitions)?;
                }
            }
            Fault::AlterTable { step } => self.sql(ALTERS[*step]).await?,
            Fault::LockTable { length } => self.lock("LOCK TABLE rides IN ACCESS EXCLUSIVE MODE", *length).await?,
            Fault::LockLedger { length } => self.lock("SELECT FROM tidegate.ledger FOR UPDATE", *length).await?,
        }
        Ok(())
    }

    fn pick(&self, daemon: usize) -> &Daemon {
        &self.daemons[daemon % self.daemons.len()]
    }

    fn replace(&mut self, daemon: usize) -> Result<()> {
        let index = daemon % self.daemons.len();
        self.daemons.swap_remove(index);
        self.add_daemon()
    }

    async fn lose(&self, trigger: Trigger, action: Action) -> Result<()> {
        let armed = self.network.arm(trigger, action);
        let fired = armed.fired(RECOVERY_DEADLINE).await;
        armed.disarm();
        fired
    }

    async fn lock(&self, sql: &str, length: Duration) -> Result<()> {
        let mut connection = self.connect().await?;
        connection.execute("BEGIN").await?;
        connection.execute(sql).await?;
        sleep(length).await;
        connection.execute("COMMIT").await?;
        Ok(())
    }

    async fn sql(&self, sql: &str) -> Result<()> {
        self.connect().await?.execute(sql).await?;
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection> {
        self.database.connect().await
    }

    /// Waits for the ledger to move; how long it took. Where it doesn't, the daemons' last words are the finding.
    pub(crate) async fn await_progress(&self) -> Result<Duration> {
        let started = Instant::now();
        let before = self.ledger().await.unwrap_or(-1);
        while started.elapsed() < RECOVERY_DEADLINE {
            if self.ledger().await.is_ok_and(|now| now != before && before >= 0 || now > 0 && before < 0) {
                return Ok(started.elapsed());
            }
            self.check_daemons()?;
            sleep(Duration::from_millis(50)).await;
        }
        let words: Vec<String> = self.daemons.iter().map(Daemon::log_tail).collect();
        bail!("no progress for {RECOVERY_DEADLINE:?} after the fault was over\n{}", words.join("\n--\n"))
    }

    fn check_daemons(&self) -> Result<()> {
        match self.daemons.iter().find(|daemon| daemon.exit_status().is_some()) {
            Some(daemon) => Err(anyhow!("a daemon ended by itself: {:?}\n{}", daemon.exit_status(), daemon.log_tail())),
            None => Ok(()),
        }
    }

    async fn ledger(&self) -> Result<i64> {
        let sql = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger";
        Ok(sqlx::query(sql).fetch_one(&mut self.connect().await?).await?.try_get(0)?)
    }

    /// Ends the fleet, lets the daemons drain, and holds every record against the table.
    pub(crate) async fn reconcile(mut self) -> Result<Books> {
        println!("  the faults are over: draining");
        self.ended.store(true, Ordering::Relaxed);
        let producer = self.producer.take().context("the fleet set off once")?;
        let outcome = producer.join().map_err(|_| anyhow!("the fleet panicked"))??;
        let ends = self.kafka.end_offsets(TOPIC)?;
        let produced: i64 = ends.iter().sum();
        if outcome.summary.failed > 0 {
            bail!("the fleet could not deliver {} records: {:?}", outcome.summary.failed, outcome.summary.last_error);
        }
        let started = Instant::now();
        while self.ledger().await.unwrap_or(0) < produced {
            self.check_daemons()?;
            if started.elapsed() > RECOVERY_DEADLINE {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        // A record is known by its place in Kafka; the fleet's own number says that the row at that place is its row.
        let sql = "SELECT count(*)::int8, count(DISTINCT (kafka_partition, kafka_offset))::int8, count(DISTINCT trip_id)::int8,
                coalesce(max(trip_id) + 1, 0)::int8, (SELECT count(*) FROM tidegate.dead_letter)::int8 FROM rides";
        let row = sqlx::query(sql).fetch_one(&mut self.connect().await?).await?;
        let (rows, places): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (numbers, highest, dead_letters): (i64, i64, i64) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let missing =
            (produced - places - dead_letters).max(i64::try_from(outcome.summary.acked)? - numbers - dead_letters);
        Ok(Books {
            produced,
            rows,
            dead_letters,
            missing,
            twice: rows - places,
            damaged: (highest - numbers).max(rows - numbers),
        })
    }
}

async fn hold(proxy: &Proxy, length: Duration) {
    proxy.hold(true);
    sleep(length).await;
    proxy.hold(false);
}
