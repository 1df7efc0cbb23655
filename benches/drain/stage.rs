//! Starts the servers, produces the backlog, and measures how fast each contender drains it.

use std::fmt;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleet::{Compression, Format, Limit, Partitioning, ProduceSpec};
use sqlx::{Executor, PgConnection};
use tidegate_harness::sql::number;
use tidegate_harness::{Database, Kafka, Postgres, unique_name, usage};

use crate::measure::Figures;
use crate::shared::{END_DEADLINE, LOOK, await_drained, start_daemon, start_servers};

const COLUMNS: &str = "vehicle_id, ts, lat, lon, speed_kmh, state, trip_id";
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TableKind {
    /// No index.
    Plain,
    /// A btree on (`vehicle_id`, `ts`) and a BRIN on `ts`.
    Indexed,
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Indexed => "indexed",
        })
    }
}

/// The settings of one turn: which build of the daemon drains which topic, and how.
#[derive(Clone, Copy)]
pub(crate) struct DaemonTurn<'a> {
    pub(crate) program: &'a Path,
    /// The number of partitions, which selects the topic to read.
    pub(crate) partitions: NonZeroU16,
    pub(crate) pipeline: &'a str,
    /// The value of `limits.memory`, such as `256MiB`.
    pub(crate) memory: &'a str,
}

/// The servers that all turns share. There is one topic for each number of partitions, and all topics have the same records.
pub(crate) struct Stage {
    kafka: Kafka,
    postgres: Postgres,
    database: Database,
    records: u64,
}

/// Returns the producer's settings. The records have the compact format of the crate `fleet`: seven fields, about 134 bytes.
pub(crate) fn produce_spec(kafka: &Kafka, topic: &str, partitions: NonZeroU16, lz4: bool) -> ProduceSpec {
    let mut spec = ProduceSpec::new(kafka.bootstrap_servers(), topic);
    spec.fleet.vehicles = 10_000;
    spec.partitioning = Partitioning::ByVehicle(partitions);
    spec.format = Format::Compact;
    spec.compression = if lz4 { Compression::Lz4 } else { Compression::None };
    spec
}

fn topic(partitions: NonZeroU16) -> String {
    format!("tele{partitions}")
}

impl Stage {
    pub(crate) async fn set(records: u64, partitions: &[NonZeroU16], lz4: bool) -> Result<Self> {
        let (kafka, postgres) = start_servers()?;
        for &partitions in partitions {
            let topic = topic(partitions);
            kafka.create_topic(&topic, i32::from(partitions.get()), &[])?;
            let mut spec = produce_spec(&kafka, &topic, partitions, lz4);
            spec.rate = 0.0;
            spec.limit = Limit { records: Some(records), seconds: None };
            let outcome = fleet::produce(&spec, &AtomicBool::new(false), |_| {})?;
            ensure!(outcome.summary.acked == records, "Kafka took {} of {records} records", outcome.summary.acked);
        }
        let database = postgres.create_database().await?;
        Ok(Self { kafka, postgres, database, records })
    }

    pub(crate) async fn drain(&self, kind: TableKind, daemon: &DaemonTurn<'_>) -> Result<Figures> {
        let mut connection = self.fresh_table(kind).await?;
        let postgres_before = usage::cpu_time(self.postgres.pid()?, true)?;
        let started = Instant::now();
        let DaemonTurn { program, partitions, pipeline, memory } = *daemon;
        let settings = format!("table.name = \"tele\"\n{pipeline}");
        let (daemon, name) = start_daemon(&self.kafka, &self.database, &topic(partitions), memory, &settings, program)?;
        let (rate, first, took) = await_drained(&mut connection, &daemon, &name, self.records, started).await?;
        let (cpu, rss) = (usage::cpu_time(daemon.pid(), true)?, usage::peak_rss_bytes(daemon.pid())?);
        daemon.drain(END_DEADLINE)?;
        let postgres = self.postgres_cpu(postgres_before)?;
        self.check_rows(&mut connection).await?;
        if !self.export_file(kind, 1, 0).exists() {
            self.export(&mut connection, kind).await?;
        }
        let figures = self.figures(rate, took, cpu, postgres, rss);
        Ok(Figures { first_row: first.as_secs_f64(), ..figures })
    }

    pub(crate) async fn versus(
        &self,
        kind: TableKind,
        command: &str,
        partitions: NonZeroU16,
        turn: usize,
    ) -> Result<Figures> {
        let mut connection = self.fresh_table(kind).await?;
        let mut words = command.split_whitespace();
        let program = words.next().context("`--versus` names no command")?;
        let url = self.database.url.clone();
        let postgres_before = usage::cpu_time(self.postgres.pid()?, true)?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .args(words)
            .args([topic(partitions), unique_name(&format!("versus{turn}"))])
            .env("BOOTSTRAP", self.kafka.bootstrap_servers())
            .env("DSN", url)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("can't run {program}"))?;
        let pid = child.id();
        // Progress is measured by the table's size, because `count(*)` doesn't see rows that aren't committed yet. The unit
        // doesn't matter, because each size is compared with the final size.
        let count = "SELECT (pg_relation_size('tele') / 8192 * 1000)::int8";
        let mut cpu = Duration::ZERO;
        let mut rss = 0;
        let mut sizes = Vec::new();
        while child.try_wait()?.is_none() {
            // If the process ends now, it may be impossible to measure it. Then keep the last values.
            cpu = usage::cpu_time(pid, true).unwrap_or(cpu);
            rss = usage::peak_rss_bytes(pid).unwrap_or(rss);
            sizes.push((started.elapsed(), number(&mut connection, count).await?));
            tokio::time::sleep(LOOK).await;
        }
        let took = started.elapsed();
        let last = sizes.last().map_or(0, |(_, size)| *size);
        let at = |share: f64| sizes.iter().find(|(_, size)| *size as f64 >= last as f64 * share).map(|(at, _)| *at);
        let most = at(0.9).unwrap_or(took).saturating_sub(at(0.1).unwrap_or_default());
        let rate = self.records as f64 * 0.8 / most.as_secs_f64();
        let postgres = self.postgres_cpu(postgres_before)?;
        self.check_rows(&mut connection).await?;
        Ok(self.figures(rate, took, cpu, postgres, rss))
    }

    /// Measures the upper bound: a bare COPY of the same rows, from memory.
    pub(crate) async fn bare_copy(&self, kind: TableKind, connections: usize) -> Result<Figures> {
        let mut connection = self.fresh_table(kind).await?;
        let mut data = Vec::new();
        for n in 0..connections {
            data.push(std::fs::read(self.export_file(kind, connections, n))?);
        }
        let postgres_before = usage::cpu_time(self.postgres.pid()?, true)?;
        let mut tasks = tokio::task::JoinSet::new();
        let started = Instant::now();
        for bytes in data {
            let mut connection = self.database.connect().await?;
            tasks.spawn(async move {
                let mut copy =
                    connection.copy_in_raw(&format!("COPY tele ({COLUMNS}) FROM STDIN (FORMAT binary)")).await?;
                for chunk in bytes.chunks(256 * 1024) {
                    copy.send(chunk).await?;
                }
                copy.finish().await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let took = started.elapsed();
        let rate = self.records as f64 / took.as_secs_f64();
        let postgres = self.postgres_cpu(postgres_before)?;
        self.check_rows(&mut connection).await?;
        Ok(self.figures(rate, took, Duration::ZERO, postgres, 0))
    }

    /// Exports the rows of the first drain as files of binary COPY, which the bare COPY reads. For one connection, one file has
    /// all rows; for two connections, each of two files has half of the rows.
    async fn export(&self, connection: &mut PgConnection, kind: TableKind) -> Result<()> {
        for (connections, n) in [(1, 0), (2, 0), (2, 1)] {
            let file = self.export_file(kind, connections, n);
            let path = file.display();
            let sql = format!(
                "COPY (SELECT {COLUMNS} FROM tele WHERE trip_id % {connections} = {n}) TO '{path}' (FORMAT binary)"
            );
            connection.execute(sql.as_str()).await?;
        }
        Ok(())
    }

    fn export_file(&self, kind: TableKind, connections: usize, n: usize) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("{}-{kind}-{connections}-{n}.copy", self.database.name))
    }

    async fn fresh_table(&self, kind: TableKind) -> Result<PgConnection> {
        let mut connection = self.database.connect().await?;
        let indexes = match kind {
            TableKind::Plain => "",
            TableKind::Indexed => "CREATE INDEX ON tele (vehicle_id, ts); CREATE INDEX ON tele USING brin (ts);",
        };
        let sql = format!(
            "DROP TABLE IF EXISTS tele;
             CREATE TABLE tele (vehicle_id bigint, ts timestamptz, lat float8, lon float8, speed_kmh real, state text, trip_id bigint);
             {indexes} CHECKPOINT;"
        );
        connection.execute(sqlx::raw_sql(&sql)).await?;
        Ok(connection)
    }

    async fn check_rows(&self, connection: &mut PgConnection) -> Result<()> {
        let sql = "SELECT count(*)::int8 * 1000000007 + count(DISTINCT trip_id)::int8 FROM tele";
        let records = i64::try_from(self.records)?;
        let seen = number(connection, sql).await?;
        ensure!(seen == records * 1_000_000_007 + records, "rows are missing or there twice");
        Ok(())
    }

    fn postgres_cpu(&self, before: Duration) -> Result<Duration> {
        Ok(usage::cpu_time(self.postgres.pid()?, true)?.saturating_sub(before))
    }

    fn figures(&self, rows_per_second: f64, took: Duration, cpu: Duration, postgres: Duration, rss: u64) -> Figures {
        let millions = self.records as f64 / 1e6;
        Figures {
            rows_per_second,
            first_row: 0.0,
            rows_per_second_whole: self.records as f64 / took.as_secs_f64(),
            cpu_per_million: cpu.as_secs_f64() / millions,
            postgres_cpu_per_million: postgres.as_secs_f64() / millions,
            peak_rss_mib: rss as f64 / f64::from(1 << 20),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for kind in [TableKind::Plain, TableKind::Indexed] {
            for (connections, n) in [(1, 0), (2, 0), (2, 1)] {
                // Ignore errors: the files of tables that weren't used don't exist.
                drop(std::fs::remove_file(self.export_file(kind, connections, n)));
            }
        }
    }
}
