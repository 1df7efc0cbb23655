//! Experiment B, the flood. An arrangement is the chain of programs from the senders to the table. Three arrangements have no
//! Kafka, and one has Kafka and Tidegate. All four get the same load, one after another. The load is an open loop: each record is
//! sent at a planned time, even if earlier records are late or lost. During the load's rush hour, the database is stopped. After
//! the rush hour, the program that writes into the database is killed.

pub(crate) mod acts;
mod around;
mod book;
mod column;
mod driver;
mod kafka;
mod link;
mod meter;
mod table;
pub(crate) mod writer;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::ladder::{Ladder, Rung};
use crate::numbers::grouped;
use crate::raw::Sheet;
use crate::screen::Screen;
use crate::stage::Stage;
use acts::Acts;
use column::{Column, Outcome};

/// The size of the bounded buffer, in bytes of JSON. Every arrangement has such a buffer. A record stays in it until Kafka has
/// acknowledged it or, without Kafka, until it is committed.
pub(crate) const BUFFER_BYTES: u64 = 64 << 20;
pub(crate) const PARTITIONS: u32 = 2;
/// The width of a bin of the raw series, in microseconds.
const BIN_US: u32 = 500_000;

/// The arrangements, in the order of the plot's columns. Each one takes its setting and its measured rate from one rung of
/// experiment A, the ladder.
const COLUMNS: [(Column, Rung); 4] = [
    (Column::Insert, Rung::Insert),
    (Column::MultiRow, Rung::Unnest),
    (Column::Buffer, Rung::CopyBinary),
    (Column::Tidegate, Rung::Tidegate),
];

/// Runs the experiment. Writes `flood.csv`, `flood-series.csv` and `flood-events.csv` into `folder`.
pub(crate) async fn flood(
    stage: &Arc<Stage>,
    screen: &Screen,
    ladder: &Ladder,
    folder: &Path,
    seed: u64,
    scale: f64,
) -> Result<()> {
    let inserts = ladder.of(Rung::Insert).context("the ladder has no INSERT")?.1.median;
    let acts = Acts::new(acts::steady(inserts), acts::rush_hour(inserts), scale);
    screen.say(&format!(
        "each of four arrangements gets {} records in {:.0} s: {}/s, then {}/s, the database away for {:.0} s of it, {}/s again",
        grouped(acts.records() as f64),
        acts.end().as_secs_f64(),
        grouped(acts.steady),
        grouped(acts.rush),
        acts.lengths[2].as_secs_f64(),
        grouped(acts.steady)
    ));
    let mut sheets = Sheets::new();
    for (column, rung) in COLUMNS {
        let (setting, capacity) = ladder.of(rung).context("the ladder has no such rung")?;
        screen.head(&format!("B  the flood, {column}"));
        let outcome = column::run(stage, screen, column, setting, &acts, seed).await?;
        screen.say(&outcome.sentence());
        sheets.add(column, &outcome, &acts, capacity.median);
    }
    sheets.save(folder)
}

struct Sheets {
    flood: Sheet,
    series: Sheet,
    events: Sheet,
}

impl Sheets {
    fn new() -> Self {
        Self {
            flood: Sheet::new(&[
                "way",
                "setting",
                "intended",
                "refused",
                "acked",
                "rows",
                "in_table",
                "missing",
                "twice",
                "waiting",
                "longest_wait_ms",
                "commit_p50_ms",
                "commit_p99_ms",
                "steady_per_second",
                "rush_per_second",
                "backlog_at_return",
                "capacity_per_second",
                "caught_up_s",
                "ended_s",
                "returned_s",
                "killed_s",
                "buffered_at_kill",
                "buffered_at_return",
                "bytes_per_record",
                "writer_cpu_s",
                "database_cpu_s",
                "kafka_cpu_s",
                "log_bytes",
                "table_bytes",
                "reservoir_bytes",
                "reservoir_s",
            ]),
            series: Sheet::new(&[
                "way",
                "second",
                "intended",
                "sent",
                "acked",
                "refused",
                "committed",
                "backlog",
                "buffer_bytes",
                "wait_p50_ms",
                "wait_p99_ms",
                "wait_max_ms",
            ]),
            events: Sheet::new(&["way", "second", "event"]),
        }
    }

    fn add(&mut self, way: Column, outcome: &Outcome, acts: &Acts, capacity: f64) {
        let Outcome { tally, end, returned, killed, .. } = outcome;
        let second = |us: u32| f64::from(us) / 1e6;
        let ms = |us: u32| f64::from(us) / 1e3;
        let optional = |ms: Option<f64>| ms.map(|ms| ms.to_string()).unwrap_or_default();
        let (p50, p99) = outcome.commit_latency.unzip();
        // A bounded buffer has a limit in bytes, and Kafka's log has a limit in time. So one of the two values is empty.
        let (reservoir_bytes, reservoir_s) = match way {
            Column::Tidegate => (String::new(), column::RETENTION.as_secs().to_string()),
            Column::Insert | Column::MultiRow | Column::Buffer => (BUFFER_BYTES.to_string(), String::new()),
        };
        self.flood.push(&[
            &way,
            &outcome.setting,
            &tally.intended,
            &tally.refused,
            &tally.acked,
            &tally.rows,
            &tally.in_table,
            &tally.missing,
            &tally.twice,
            &tally.waiting,
            &ms(tally.longest_wait),
            &optional(p50.map(ms)),
            &optional(p99.map(ms)),
            &acts.steady,
            &acts.rush,
            &outcome.backlog_at_return,
            &capacity,
            &optional(outcome.caught_up.map(|at| second(at - returned))),
            &second(*end),
            &second(*returned),
            &second(*killed),
            &outcome.buffered_at_kill,
            &outcome.buffered_at_return,
            &outcome.bytes_per_record,
            &outcome.cpu[0],
            &outcome.cpu[1],
            &outcome.cpu[2],
            &outcome.log_bytes,
            &outcome.table_bytes,
            &reservoir_bytes,
            &reservoir_s,
        ]);
        for bin in &outcome.bins {
            self.series.push(&[
                &way,
                &bin.second,
                &bin.intended,
                &bin.sent,
                &bin.acked,
                &bin.refused,
                &bin.committed,
                &bin.backlog,
                &bin.buffer_bytes,
                &optional(bin.wait_p50.map(ms)),
                &optional(bin.wait_p99.map(ms)),
                &optional(bin.wait_max.map(ms)),
            ]);
        }
        for (at, event) in &outcome.events {
            self.events.push(&[&way, &second(*at), event]);
        }
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.flood.save(&folder.join("flood.csv"))?;
        self.series.save(&folder.join("flood-series.csv"))?;
        self.events.save(&folder.join("flood-events.csv"))
    }
}
