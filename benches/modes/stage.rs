//! The servers, the backlog, and the turns of the two contenders: Tidegate, and SQL written by hand.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Executor, PgConnection, Row};
use tidegate_harness::{Database, Kafka, Postgres, Record};
use tokio::task::JoinSet;

use crate::by_hand;
use crate::shared::{END_DEADLINE, THIS_BUILD, await_drained, start_daemon, start_servers};

const TOPIC: &str = "readings";
const PARTITIONS: i32 = 4;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Append,
    Upsert,
    Aggregate,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Self::Append, Self::Upsert, Self::Aggregate];

    /// Returns the statement that creates the table. It is the same for Tidegate and for the hand-written SQL.
    fn table(self) -> &'static str {
        match self {
            Self::Append => "CREATE TABLE t (id int8, ts int8, n int8, note text)",
            Self::Upsert => "CREATE TABLE t (id int8 PRIMARY KEY, ts int8, n int8, note text) WITH (fillfactor = 70)",
            Self::Aggregate => {
                "CREATE TABLE t (id int8 PRIMARY KEY, records int8, total int8, last_ts int8) WITH (fillfactor = 70)"
            }
        }
    }

    fn pipeline(self) -> &'static str {
        match self {
            Self::Append => "table.name = \"t\"",
            Self::Upsert => "table = { name = \"t\", mode = \"upsert\", key = [\"id\"], newer_by = \"ts\" }",
            Self::Aggregate => {
                "table = { name = \"t\", mode = \"aggregate\", key = [\"id\"] }\ncolumns.id = \"id\"\n\
                 columns.records = { aggregate = \"count\" }\ncolumns.total = { field = \"n\", aggregate = \"sum\" }\n\
                 columns.last_ts = { field = \"ts\", aggregate = \"max\" }"
            }
        }
    }

    /// Returns the query whose result must be the same after each contender's turn.
    fn digest(self) -> &'static str {
        match self {
            Self::Append => "SELECT count(*)::text || ':' || sum(hashint8(id)::int8 + hashint8(n))::text FROM t",
            Self::Upsert => "SELECT count(*)::text || ':' || sum(hashint8(id)::int8 + hashint8(n))::text FROM t",
            Self::Aggregate => {
                "SELECT count(*)::text || ':' || sum(hashint8(id)::int8 + records + total + last_ts)::text FROM t"
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Upsert => "upsert",
            Self::Aggregate => "aggregate",
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) id: i64,
    pub(crate) ts: i64,
    pub(crate) n: i64,
    pub(crate) note: String,
}

/// Returns readings that look random and are the same in each run (xorshift64, Marsaglia). Their times are distinct, so
/// that the table's final content doesn't depend on the order of writes.
fn readings(count: u64, keys: u64) -> impl Iterator<Item = Reading> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |number| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let part = |shift: u32, below: u64| i64::try_from((state >> shift) % below).unwrap_or(0);
        let ts = i64::try_from(number).unwrap_or(0) + 1_767_225_600_000_000;
        Reading { id: part(8, keys), ts, n: part(40, 1_000), note: format!("reading {}", part(20, 100_000)) }
    })
}

/// The servers and the topic that all turns share.
pub(crate) struct Stage {
    kafka: Kafka,
    _postgres: Postgres,
    database: Database,
    records: u64,
    keys: u64,
    batch: u32,
    connections: u32,
}

impl Stage {
    pub(crate) async fn set(records: u64, keys: u64, batch: u32, connections: u32) -> Result<Self> {
        let (kafka, postgres) = start_servers()?;
        kafka.create_topic(TOPIC, PARTITIONS, &[])?;
        let record = |Reading { id, ts, n, note }: Reading| {
            let partition = i32::try_from(id % i64::from(PARTITIONS)).unwrap_or(0);
            Record::new(format!(r#"{{"id":{id},"ts":{ts},"n":{n},"note":"{note}"}}"#)).to(partition)
        };
        kafka.produce(TOPIC, readings(records, keys).map(record))?;
        let database = postgres.create_database().await?;
        Ok(Self { kafka, _postgres: postgres, database, records, keys, batch, connections })
    }

    /// Measures how fast the daemon writes all records of the topic. Returns the rows per second between 10 % and 90 % of the
    /// records.
    pub(crate) async fn drain(&self, mode: Mode) -> Result<f64> {
        let mut connection = self.fresh_table(mode).await?;
        let settings = format!(
            "consumers = {}\nbatch.max_rows = {}\nbatch.max_age = \"10s\"\n{}",
            self.connections,
            self.batch,
            mode.pipeline()
        );
        let started = Instant::now();
        let (daemon, name) =
            start_daemon(&self.kafka, &self.database, TOPIC, "256MiB", &settings, Path::new(THIS_BUILD))?;
        let (rate, ..) = await_drained(&mut connection, &daemon, &name, self.records, started).await?;
        daemon.drain(END_DEADLINE)?;
        self.check(mode, &mut connection).await?;
        Ok(rate)
    }

    /// Measures the hand-written SQL with the same records, in batches that are encoded in advance. Returns the rows per
    /// second between 10 % and 90 % of the batches.
    pub(crate) async fn by_hand(&self, mode: Mode) -> Result<f64> {
        let mut connection = self.fresh_table(mode).await?;
        let all: Vec<Reading> = readings(self.records, self.keys).collect();
        let batches: Vec<Vec<u8>> = all.chunks(self.batch as usize).map(by_hand::encode).collect();
        drop(all);
        let mut writers = JoinSet::new();
        let mut shares: Vec<Vec<Vec<u8>>> = vec![Vec::new(); self.connections as usize];
        for (number, batch) in batches.into_iter().enumerate() {
            shares[number % self.connections as usize].push(batch);
        }
        for share in shares {
            let mut connection = self.database.connect().await?;
            writers.spawn(async move {
                let batches: Vec<&[u8]> = share.iter().map(Vec::as_slice).collect();
                by_hand::write(mode, &mut connection, &batches).await
            });
        }
        let mut committed = Vec::new();
        while let Some(written) = writers.join_next().await {
            committed.extend(written??);
        }
        committed.sort();
        self.check(mode, &mut connection).await?;
        let count = committed.len();
        ensure!(count >= 5, "too few batches to measure; raise --records or lower --batch");
        let (first, last) = (count / 10, count * 9 / 10);
        Ok(rate((last - first) as u64 * u64::from(self.batch), committed[last] - committed[first]))
    }

    async fn fresh_table(&self, mode: Mode) -> Result<PgConnection> {
        let mut connection = self.database.connect().await?;
        connection.execute(format!("DROP TABLE IF EXISTS t; {}; CHECKPOINT", mode.table()).as_str()).await?;
        Ok(connection)
    }

    /// Checks that the table's digest is the same as after the earlier turns of this mode. If it differs, the contenders
    /// did different work, and their times can't be compared.
    async fn check(&self, mode: Mode, connection: &mut PgConnection) -> Result<()> {
        let found: String = sqlx::query(mode.digest()).fetch_one(&mut *connection).await?.try_get(0)?;
        connection.execute("CREATE TABLE IF NOT EXISTS digest (mode text PRIMARY KEY, found text)").await?;
        let known =
            "INSERT INTO digest VALUES ($1, $2) ON CONFLICT (mode) DO UPDATE SET mode = digest.mode RETURNING found";
        let known = sqlx::query(known).bind(mode.to_string()).bind(&found).fetch_one(connection).await?;
        let known: String = known.try_get(0)?;
        ensure!(known == found, "{mode}: {found}, and the contender before came to {known}");
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^53")]
fn rate(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}
