//! Runs one arrangement of experiment B. Begins with an empty table, and ends with a comparison of the table with the
//! acknowledged records.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fleet::FleetSpec;
use tidegate_harness::sql::number;

use super::acts::Acts;
use super::around::Around;
use super::book::{Bin, NEVER, Tally};
use super::driver::{Drive, drive};
use super::kafka::KafkaLink;
use super::link::WriterLink;
use super::writer::{Arrangement, WriterArguments};
use super::{BIN_US, PARTITIONS, table};
use crate::ladder::Setting;
use crate::numbers::{duration, grouped, to_u64};
use crate::screen::Screen;
use crate::stage::Stage;

const VEHICLES: u32 = 5_000;
/// The longest wait, after the last act, for a program to write the remaining records. Then a record in the program's memory
/// counts as missing if it was acknowledged, and as waiting otherwise.
const SETTLE: Duration = Duration::from_secs(8);
/// The longest wait, after the last act, for Tidegate to write the remaining records. This wait is longer than [`SETTLE`],
/// because records in Kafka are safe.
const SETTLE_FROM_KAFKA: Duration = Duration::from_secs(60);
const TOPIC: &str = "flood";
/// The topic's retention. Kafka keeps a record for at least this long.
pub(super) const RETENTION: Duration = Duration::from_secs(72 * 3_600);
/// An arrangement has caught up when its backlog is at most the steady load times the sum of this time and the age of a batch. For
/// example, 5 000 records per second and a batch of 0.5 s allow 5 000 × (0.2 + 0.5) = 3 500 records.
const CATCH_UP_ALLOWANCE: Duration = Duration::from_millis(200);
/// In the arrangement `Buffer`, a client writes a batch when it has this many rows, or when it is [`BUFFER_AGE`] old. Tidegate's
/// batch has the same limits in config/demo.toml, and also one in bytes.
const BUFFER_ROWS: usize = 50_000;
const BUFFER_AGE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Insert,
    MultiRow,
    Buffer,
    Tidegate,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "INSERT per record",
            Self::MultiRow => "multi-row INSERT",
            Self::Buffer => "app buffer + COPY",
            Self::Tidegate => "tidegate",
        })
    }
}

/// The result of a run. The times are in microseconds since the first record's intended time. The database was back at
/// `returned`, and the writer was killed at `killed`. `caught_up` is `None` if the backlog stayed large until the end.
/// `buffered_at_kill` and `buffered_at_return` count the records in the bounded buffer at these times, acknowledged or not.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) setting: String,
    pub(crate) tally: Tally,
    pub(crate) bins: Vec<Bin>,
    pub(crate) events: Vec<(u32, String)>,
    /// The median and the 99th percentile of the time from a record's intended time to its commit, in the first (steady) act.
    pub(crate) commit_latency: Option<(u32, u32)>,
    pub(crate) end: u32,
    pub(crate) returned: u32,
    pub(crate) killed: u32,
    pub(crate) backlog_at_return: u64,
    pub(crate) caught_up: Option<u32>,
    pub(crate) buffered_at_kill: u64,
    pub(crate) buffered_at_return: u64,
    pub(crate) bytes_per_record: f64,
    /// The CPU seconds of the writer, of the database and of Kafka, in this order.
    pub(crate) cpu: [f64; 3],
    pub(crate) log_bytes: u64,
    pub(crate) table_bytes: i64,
}

impl Outcome {
    pub(crate) fn sentence(&self) -> String {
        let Tally { intended, refused, in_table, missing, twice, waiting, longest_wait, .. } = self.tally;
        let say = |count: u64, what: &str| (count > 0).then(|| format!("{} {what}", grouped(count as f64)));
        let troubles = [
            say(refused, "refused"),
            say(missing, "acknowledged and missing"),
            say(twice, "there twice"),
            say(waiting, "still waiting"),
        ];
        let troubles: Vec<String> = troubles.into_iter().flatten().collect();
        format!(
            "{} of {} in the table, longest wait {}; {}",
            grouped(in_table as f64),
            grouped(intended as f64),
            duration(f64::from(longest_wait) / 1e3),
            if troubles.is_empty() { "none refused, missing or twice".to_owned() } else { troubles.join(", ") }
        )
    }
}

pub(crate) async fn run(
    stage: &Arc<Stage>,
    screen: &Screen,
    column: Column,
    setting: Setting,
    acts: &Acts,
    seed: u64,
) -> Result<Outcome> {
    drop(stage.fresh_table().await?);
    let fleet = FleetSpec { vehicles: VEHICLES, seed, ..FleetSpec::default() };
    let mut around = Around::new(stage, screen, acts, column == Column::Tidegate)?;
    // The sender occupies a whole thread, so that no other task delays a record.
    let drove = tokio::task::block_in_place(|| -> Result<Drive> {
        match column {
            Column::Tidegate => {
                let retention = RETENTION.as_millis().to_string();
                stage.kafka.create_topic(TOPIC, i32::try_from(PARTITIONS)?, &[("retention.ms", &retention)])?;
                let start = || stage.daemon(TOPIC, "flood");
                let mut link = KafkaLink::start(stage.kafka.bootstrap_servers(), TOPIC, start)?;
                link.daemon().await_ready(Duration::from_secs(60))?;
                let drove = drive(fleet, acts, SETTLE_FROM_KAFKA, &mut link, &mut around)?;
                link.daemon().drain(Duration::from_secs(30))?;
                Ok(drove)
            }
            direct => {
                let mut link = WriterLink::start(arguments(direct, setting, &stage.database.url))?;
                drive(fleet, acts, SETTLE, &mut link, &mut around)
            }
        }
    })?;
    around.await_database()?;
    reconcile(stage, column, setting, drove, &around).await
}

fn arguments(column: Column, setting: Setting, url: &str) -> WriterArguments {
    let (arrangement, rows, max_age) = match column {
        Column::MultiRow => (Arrangement::MultiRow, setting.rows, Duration::ZERO),
        Column::Buffer => (Arrangement::Buffer, BUFFER_ROWS, BUFFER_AGE),
        _ => (Arrangement::Insert, 1, Duration::ZERO),
    };
    let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(0);
    WriterArguments { arrangement, clients: setting.clients, rows, max_age_ms, url: url.to_owned() }
}

async fn reconcile(
    stage: &Stage,
    column: Column,
    setting: Setting,
    drove: Drive,
    around: &Around<'_>,
) -> Result<Outcome> {
    let Drive { mut book, started, started_us, killed_us: killed, ended_us: end, buffered_at_kill } = drove;
    table::read(stage, &mut book, started_us, VEHICLES).await?;
    let mut events = around.events_since(started);
    let returned = events.iter().find(|(_, event)| event == "database back").map_or(end, |(at, _)| *at);
    events.push((killed, "writer killed and started again".to_owned()));
    let sum: u64 = book.marks.iter().map(|mark| u64::from(mark.bytes)).sum();
    let buffered = book.marks.iter().filter(|mark| !mark.refused && mark.sent <= returned && mark.freed > returned);
    let age = if matches!(column, Column::Buffer | Column::Tidegate) { BUFFER_AGE } else { Duration::ZERO };
    let rest = to_u64(around.acts.steady * (age + CATCH_UP_ALLOWANCE).as_secs_f64());
    Ok(Outcome {
        setting: setting.to_string(),
        tally: book.tally(end),
        bins: book.bins(BIN_US, end),
        events,
        commit_latency: book.commit_latency(u32::try_from(around.acts.begins(1).as_micros()).unwrap_or(NEVER)),
        end,
        returned,
        killed,
        backlog_at_return: book.backlog(returned),
        caught_up: book.caught_up(returned, end, rest),
        buffered_at_kill,
        buffered_at_return: buffered.count() as u64,
        bytes_per_record: sum as f64 / book.marks.len().max(1) as f64,
        cpu: around.cpu_seconds(),
        log_bytes: if column == Column::Tidegate { stage.log_bytes(TOPIC)? } else { 0 },
        table_bytes: number(&mut stage.database.connect().await?, "SELECT pg_total_relation_size('ride')").await?,
    })
}
