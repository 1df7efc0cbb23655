//! Measures how long partitions make no progress when a daemon ends or restarts, and how many partitions move to another daemon.
//! Daemons end by SIGTERM or by SIGKILL. A single daemon restarts. Of three daemons, one ends, one restarts, or all restart in
//! turn (a rolling restart, by SIGTERM). The measurements are repeated for each group protocol and each kind of instance name.
//!
//! The numbers come from the database: each row has the time of its write, and a trigger records each claim.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate_harness::{Daemon, DaemonSpec, Database, Kafka, KafkaSpec, Postgres, PostgresSpec, eventually_async};
use tidegate_harness::{free_port, unique_name};

use crate::output::Output;

const PARTITIONS: i32 = 6;
const CONSUMERS: usize = 2;
/// The time between two records of a partition.
const EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);
/// The broker's session timeout under KIP-848, in milliseconds. The broker's default is 45000.
const BROKER_SESSION_MS: &str = "10000";
const TABLE: &str = "CREATE TABLE rides (part int, src bigint, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON rides (part, at)";
const CLAIMS: &str =
    "CREATE TABLE claims (at timestamptz DEFAULT clock_timestamp(), part int, before text, owner text);
    CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.claims (part, before, owner) VALUES (NEW.partition, OLD.owner, NEW.owner);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_claim AFTER UPDATE ON tidegate.ledger FOR EACH ROW
        WHEN (OLD.claim_id IS DISTINCT FROM NEW.claim_id) EXECUTE FUNCTION note_claim()";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    TermAndStart,
    KillAndStart,
    Term,
    Kill,
    /// SIGTERM and start, one daemon after another.
    Rolling,
}

impl Ending {
    fn text(self) -> &'static str {
        match self {
            Self::TermAndStart => "SIGTERM, start",
            Self::KillAndStart => "SIGKILL, start",
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::Rolling => "rolling restart",
        }
    }
}

pub(crate) struct Plan<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) protocols: Vec<&'a str>,
    /// How the daemons get their names: `derived` (from host and port), `set` (in the configuration), or both.
    pub(crate) names: Vec<&'a str>,
    pub(crate) rounds: usize,
}

/// Runs the measurements, and prints a table. Never returns false, because this scenario has no limits to check.
pub(crate) async fn run(output: &Output, plan: &Plan<'_>) -> Result<bool> {
    let spec = KafkaSpec::single()
        .property("group.consumer.session.timeout.ms", BROKER_SESSION_MS)
        .property("group.consumer.heartbeat.interval.ms", "5000");
    let kafka = Kafka::start(&spec)?;
    let postgres = Postgres::start(&PostgresSpec::default().without_fsync())?;
    output.say(format!(
        "  standstill of the partition that stands still longest, in seconds, {} rounds; moves: partitions that changed their \
         daemon, per round\n  under `consumer` the broker has group.consumer.session.timeout.ms = {BROKER_SESSION_MS}\n\n  \
         {:<13}{:>9}  {:<9}{:<18}{:>8}{:>8}{:>8}",
        plan.rounds, "protocol", "daemons", "name", "what", "median", "worst", "moves"
    ));
    for protocol in &plan.protocols {
        for names in &plan.names {
            for (daemons, fates) in [
                (1, &[Ending::TermAndStart, Ending::KillAndStart][..]),
                (3, &[Ending::TermAndStart, Ending::KillAndStart, Ending::Term, Ending::Kill, Ending::Rolling][..]),
            ] {
                let mut group = Group::start(plan.binary, &kafka, &postgres, protocol, names, daemons).await?;
                for fate in fates {
                    let rounds = if *fate == Ending::Rolling { 1 } else { plan.rounds };
                    let mut gaps = Vec::new();
                    let mut moves = 0;
                    for _ in 0..rounds {
                        let (gap, moved) = group.meet(output, *fate).await.with_context(|| {
                            format!("{protocol}, {daemons} daemons, {names} names, {}", fate.text())
                        })?;
                        gaps.push(gap);
                        moves += moved;
                    }
                    gaps.sort_unstable_by(f64::total_cmp);
                    let worst = gaps.last().copied().unwrap_or_default();
                    let (median, moves) = (gaps[gaps.len() / 2], f64::from(moves) / rounds as f64);
                    output.say(format!(
                        "  {protocol:<13}{daemons:>9}  {names:<9}{:<18}{median:>8.2}{worst:>8.2}{moves:>8.1}",
                        fate.text()
                    ));
                }
                group.end().await?;
            }
        }
    }
    Ok(true)
}

/// The daemons that read one topic under load.
struct Group {
    specs: Vec<DaemonSpec>,
    daemons: Vec<Option<Daemon>>,
    /// The index in `daemons` of each process, by process id. Ended processes stay in the map, because old claims name them.
    places: HashMap<String, usize>,
    load: Load,
    looker: PgConnection,
    _database: Database,
}

impl Group {
    async fn start(
        binary: &Path,
        kafka: &Kafka,
        postgres: &Postgres,
        protocol: &str,
        names: &str,
        daemons: usize,
    ) -> Result<Self> {
        let topic = unique_name("restarts");
        kafka.create_topic(&topic, PARTITIONS, &[])?;
        let database = postgres.create_database().await?;
        let mut looker = database.connect().await?;
        looker.execute(TABLE).await?;
        let specs: Vec<_> = (0..daemons)
            .map(|place| {
                let instance =
                    if names == "set" { format!("instance = \"tidegate-{place}\"\n") } else { String::new() };
                let config = format!(
                    "{instance}[pipelines.{topic}]\ntopics = [\"{topic}\"]\nconsumers = {CONSUMERS}\n\
                     group_protocol = \"{protocol}\"\nbatch = {{ max_age = \"50ms\" }}\n\
                     [pipelines.{topic}.table]\nname = \"rides\"\n[pipelines.{topic}.columns]\n\
                     part = {{ meta = \"partition\" }}\nsrc = {{ meta = \"offset\" }}\n"
                );
                let spec = DaemonSpec::new(binary, config).http_address(format!("127.0.0.1:{}", free_port()?));
                spec.on(kafka.bootstrap_servers(), &database.url)
            })
            .collect::<Result<_>>()?;
        let mut group = Self {
            daemons: specs.iter().map(|_| None).collect(),
            specs,
            places: HashMap::new(),
            load: Load::start(kafka.bootstrap_servers(), &topic)?,
            looker,
            _database: database,
        };
        for place in 0..daemons {
            group.start_daemon(place)?;
        }
        group.settle().await?;
        group.looker.execute(CLAIMS).await?;
        Ok(group)
    }

    fn start_daemon(&mut self, place: usize) -> Result<()> {
        let daemon = Daemon::spawn(&self.specs[place])?;
        self.places.insert(daemon.pid().to_string(), place);
        self.daemons[place] = Some(daemon);
        Ok(())
    }

    /// Ends or restarts the first daemon, as `fate` says. With `Ending::Rolling`, restarts all daemons in turn. Returns the
    /// longest time in which a partition made no progress, in seconds, and how many partitions moved. Afterwards all daemons run
    /// again.
    async fn meet(&mut self, output: &Output, fate: Ending) -> Result<(f64, u32)> {
        self.settle().await?;
        let since = self.now().await?;
        let places = if fate == Ending::Rolling { self.specs.len() } else { 1 };
        for place in 0..places {
            let daemon = self.daemons[place].take().context("the daemon runs")?;
            match fate {
                Ending::Kill | Ending::KillAndStart => drop(daemon.kill()?),
                _ => daemon.drain(PATIENCE)?,
            }
            output.keep(&format!("daemon-{}", daemon.pid()), &daemon.log());
            if !matches!(fate, Ending::Term | Ending::Kill) {
                self.start_daemon(place)?;
            }
            self.settle().await?;
        }
        let gap = self.standstill(&since).await?;
        let moves = self.moves(&since).await?;
        for place in 0..self.specs.len() {
            if self.daemons[place].is_none() {
                self.start_daemon(place)?;
            }
        }
        Ok((gap, moves))
    }

    /// Waits until every consumer of the running daemons owns a partition, no other consumer owns one, and every partition has
    /// new rows.
    async fn settle(&mut self) -> Result<()> {
        let pids: Vec<String> = self.daemons.iter().flatten().map(|daemon| daemon.pid().to_string()).collect();
        let expected = pids.len() * CONSUMERS;
        let since = self.now().await?;
        let looker = &mut self.looker;
        let mut seen = (Vec::new(), 0);
        let settled = eventually_async("the group settles", PATIENCE, async || {
            seen = look(looker, &since).await.unwrap_or_default();
            let owners = &seen.0;
            owners.len() == expected
                && owners.iter().all(|owner| pids.contains(&pid(owner)))
                && seen.1 == i64::from(PARTITIONS)
        });
        let settled = settled.await;
        settled.map_err(|error| {
            let logs: Vec<_> = self.daemons.iter().flatten().map(Daemon::log_tail).collect();
            anyhow!("{error:#}; owners and flowing partitions: {seen:?}\n{}", logs.join("\n--\n"))
        })
    }

    async fn now(&mut self) -> Result<String> {
        Ok(sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(&mut self.looker).await?)
    }

    /// Returns the longest time between two consecutive rows of one partition, in seconds. The second of the two rows must have
    /// been written after `since`.
    async fn standstill(&mut self, since: &str) -> Result<f64> {
        let sql = "SELECT extract(epoch FROM max(gap))::float8 FROM
            (SELECT at, at - lag(at) OVER (PARTITION BY part ORDER BY at) AS gap FROM rides
             WHERE at > $1::timestamptz - interval '5 seconds') AS gaps WHERE at > $1::timestamptz";
        Ok(sqlx::query_scalar(sql).bind(since).fetch_one(&mut self.looker).await?)
    }

    /// Returns how many claims after `since` moved a partition from one daemon to another.
    async fn moves(&mut self, since: &str) -> Result<u32> {
        let sql = "SELECT before, owner FROM claims WHERE at > $1::timestamptz";
        let claims = sqlx::query(sql).bind(since).fetch_all(&mut self.looker).await?;
        let place = |owner: Option<String>| self.places.get(&pid(&owner.unwrap_or_default())).copied();
        let mut moves = 0;
        for claim in claims {
            moves += u32::from(place(claim.try_get(0)?) != place(claim.try_get(1)?));
        }
        Ok(moves)
    }

    /// Stops the load and the daemons, and checks that the table has exactly the records that were sent.
    async fn end(mut self) -> Result<()> {
        let sent = self.load.stop()?;
        let looker = &mut self.looker;
        let mut rows = 0;
        let arrived = eventually_async("all records arrive", PATIENCE, async || {
            let sql = "SELECT count(*) FROM rides";
            rows = sqlx::query_scalar(sql).fetch_one(&mut *looker).await.unwrap_or(0);
            rows >= sent
        });
        arrived.await.with_context(|| format!("{rows} rows of {sent} records"))?;
        for daemon in self.daemons.iter().flatten() {
            daemon.drain(PATIENCE)?;
        }
        let sql = "SELECT count(*), count(DISTINCT (part, src)) FROM rides";
        let row = sqlx::query(sql).fetch_one(&mut self.looker).await?;
        let (rows, distinct): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        ensure!((rows, distinct) == (sent, sent), "{rows} rows, {distinct} distinct, of {sent} records");
        self.looker.close().await?;
        Ok(())
    }
}

/// Returns the distinct owners in the ledger, and how many partitions have rows that were written after `since`.
async fn look(looker: &mut PgConnection, since: &str) -> Result<(Vec<String>, i64)> {
    let owners = sqlx::query_scalar("SELECT DISTINCT owner FROM tidegate.ledger WHERE owner IS NOT NULL");
    let owners = owners.fetch_all(&mut *looker).await?;
    let sql = "SELECT count(DISTINCT part) FROM rides WHERE at > $1::timestamptz";
    Ok((owners, sqlx::query_scalar(sql).bind(since).fetch_one(looker).await?))
}

/// Returns the process id in the name of an owner, which has the form `INSTANCE-PID-RANDOM/cN`.
fn pid(owner: &str) -> String {
    owner.rsplit('-').nth(1).unwrap_or_default().to_owned()
}

/// A producer on its own thread. Until it is stopped, it sends one record to each partition per [`EVERY`].
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<i64>>>,
}

impl Load {
    fn start(bootstrap_servers: &str, topic: &str) -> Result<Self> {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("enable.idempotence", "true")
            .create()
            .context("a producer")?;
        let (stop, topic) = (Arc::new(AtomicBool::new(false)), topic.to_owned());
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !told.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS {
                    let record = BaseRecord::<(), _>::to(&topic).partition(partition).payload("{}");
                    producer.send(record).map_err(|(error, _)| error)?;
                    sent += 1;
                }
                std::thread::sleep(EVERY);
            }
            producer.flush(PATIENCE)?;
            Ok(sent)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn stop(&mut self) -> Result<i64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
