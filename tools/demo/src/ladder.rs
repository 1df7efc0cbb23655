//! Experiment A, the ladder: how much batching gains. Each rung is one way to write rows. Only the last rung uses Kafka.
//!
//! All rungs write rows of the same records from this machine into the same table with the same indexes. `fsync` is on. For each
//! rung without Kafka, a short probe finds the best setting. Then every rung runs once per round, in random order.

mod direct;
mod through_kafka;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use fleet::{Encoder, Fleet, FleetSpec, Format};

use crate::numbers::{Spread, grouped};
use crate::raw::Sheet;
use crate::rows::Row;
use crate::screen::Screen;
use crate::stage::Stage;
use crate::ways::{MAX_VALUES_ROWS, Way};

/// The rungs, in the order in which the plot shows them from top to bottom.
pub(crate) const RUNGS: [Rung; 7] =
    [Rung::Insert, Rung::InsertAsync, Rung::Values, Rung::Unnest, Rung::CopyText, Rung::CopyBinary, Rung::Tidegate];
const RUNS: usize = 5;
const RECORDS: u64 = 400_000;
const VEHICLES: u32 = 10_000;
/// Rows per COPY. In config/demo.toml, Tidegate's batch has the same limit.
const COPY_ROWS: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rung {
    Insert,
    InsertAsync,
    Values,
    Unnest,
    CopyText,
    CopyBinary,
    Tidegate,
}

/// The settings of a rung: how many connections write, and how many rows a transaction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) clients: usize,
    pub(crate) rows: usize,
}

/// The result of one run on a rung. CPU times are in seconds. `client_cpu` is the time of Tidegate on the last rung, and of this
/// process on the others. `kafka_cpu` is 0 without Kafka.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    pub(crate) database_cpu: f64,
    pub(crate) client_cpu: f64,
    pub(crate) kafka_cpu: f64,
    pub(crate) wal_bytes: i64,
    /// The number of rows that caused the costs (CPU times and WAL). It is larger than `rows` if `rows` excludes the first rows.
    pub(crate) rows_of_costs: u64,
}

/// The results of this experiment that experiment B, the flood, needs.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    best: Vec<(Rung, Setting, Spread)>,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Insert => "INSERT per record",
            Self::InsertAsync => "INSERT per record; synchronous_commit off",
            Self::Values => "multi-row VALUES",
            Self::Unnest => "multi-row UNNEST",
            Self::CopyText => "COPY text",
            Self::CopyBinary => "COPY binary",
            Self::Tidegate => "tidegate from Kafka",
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.clients == 1 { "" } else { "s" };
        write!(f, "{} client{plural} × {} rows", self.clients, grouped(self.rows as f64))
    }
}

impl Rung {
    /// Returns how the demo's own clients write rows on this rung. `None` for Tidegate, which is a daemon.
    fn way(self) -> Option<Way> {
        match self {
            Self::Insert | Self::InsertAsync => Some(Way::Insert),
            Self::Values => Some(Way::Values),
            Self::Unnest => Some(Way::Unnest),
            Self::CopyText => Some(Way::CopyText),
            Self::CopyBinary => Some(Way::CopyBinary),
            Self::Tidegate => None,
        }
    }

    /// Returns the settings from which the probe chooses. A single setting is used without a trial.
    fn settings(self) -> Vec<Setting> {
        let grid = |clients: &[usize], rows: &[usize]| {
            clients.iter().flat_map(|&clients| rows.iter().map(move |&rows| Setting { clients, rows })).collect()
        };
        match self {
            Self::Insert | Self::InsertAsync => grid(&[1, 2, 4, 8, 16, 32, 64], &[1]),
            Self::Values => grid(&[1, 2, 4], &[10, 100, 1_000, MAX_VALUES_ROWS]),
            Self::Unnest => grid(&[1, 2, 4], &[10, 100, 1_000, 10_000]),
            Self::CopyText | Self::CopyBinary => grid(&[1, 2, 4], &[COPY_ROWS]),
            // There is only one setting: config/demo.toml sets the number of Tidegate's consumers.
            Self::Tidegate => grid(&[2], &[COPY_ROWS]),
        }
    }
}

impl Ladder {
    /// Returns the best setting of a rung, and its rows per second.
    pub(crate) fn of(&self, rung: Rung) -> Option<(Setting, Spread)> {
        self.best.iter().find(|(other, ..)| *other == rung).map(|(_, setting, spread)| (*setting, *spread))
    }
}

/// Runs the experiment. Writes `ladder.csv` and `ladder-probe.csv` into `folder`.
pub(crate) async fn climb(stage: &Stage, screen: &Screen, folder: &Path, seed: u64, scale: f64) -> Result<Ladder> {
    let run = Duration::from_millis(800).mul_f64(scale);
    let rows = Arc::new(rows(seed)?);
    through_kafka::load(stage, fleet(seed), RECORDS)?;
    let probed = probe(stage, screen, folder, &rows, run.mul_f64(0.25)).await?;
    let mut sheet = Sheet::new(&[
        "rung",
        "setting",
        "round",
        "turn",
        "rows",
        "seconds",
        "rows_per_second",
        "database_cpu_s_per_million",
        "client_cpu_s_per_million",
        "kafka_cpu_s_per_million",
        "wal_bytes_per_row",
    ]);
    let mut reached: Vec<(Rung, f64)> = Vec::new();
    let mut rng = Rng::with_seed(seed);
    for round in 1..=RUNS {
        let mut order = probed.clone();
        rng.shuffle(&mut order);
        for (turn, (rung, setting)) in order.into_iter().enumerate() {
            let sample = measure(stage, rung, setting, &rows, run).await?;
            reached.push((rung, sample.rate()));
            screen.step(&format!("round {round} of {RUNS}  {rung:<40} {:>10} rows/s", grouped(sample.rate())));
            let million = sample.rows_of_costs.max(1) as f64 / 1e6;
            sheet.push(&[
                &rung,
                &setting,
                &round,
                &(turn + 1),
                &sample.rows,
                &sample.seconds,
                &sample.rate(),
                &(sample.database_cpu / million),
                &(sample.client_cpu / million),
                &(sample.kafka_cpu / million),
                &(sample.wal_bytes as f64 / 1e6 / million),
            ]);
        }
    }
    sheet.save(&folder.join("ladder.csv"))?;
    let best = probed.into_iter().filter_map(|(rung, setting)| {
        let rates = reached.iter().filter(|(other, _)| *other == rung).map(|(_, rate)| *rate);
        Some((rung, setting, Spread::of(rates)?))
    });
    Ok(Ladder { best: best.collect() })
}

/// Finds the best setting of each rung, with one short run per setting. A rung with a single setting isn't run.
async fn probe(
    stage: &Stage,
    screen: &Screen,
    folder: &Path,
    rows: &Arc<Vec<Row>>,
    run: Duration,
) -> Result<Vec<(Rung, Setting)>> {
    let mut sheet = Sheet::new(&["rung", "clients", "rows_a_transaction", "rows_per_second"]);
    let mut probed = Vec::new();
    for rung in RUNGS {
        let settings = rung.settings();
        let mut best = (0.0, settings[0]);
        for setting in settings.iter().filter(|_| settings.len() > 1) {
            let rate = measure(stage, rung, *setting, rows, run).await?.rate();
            sheet.push(&[&rung, &setting.clients, &setting.rows, &rate]);
            screen.step(&format!("looking for the best of {rung}: {setting}, {} rows/s", grouped(rate)));
            if rate > best.0 {
                best = (rate, *setting);
            }
        }
        probed.push((rung, best.1));
    }
    sheet.save(&folder.join("ladder-probe.csv"))?;
    Ok(probed)
}

async fn measure(stage: &Stage, rung: Rung, setting: Setting, rows: &Arc<Vec<Row>>, run: Duration) -> Result<Sample> {
    match rung.way() {
        Some(way) => direct::measure(stage, way, setting, rows, run, rung == Rung::InsertAsync).await,
        None => through_kafka::measure(stage, RECORDS, run).await,
    }
}

impl Sample {
    pub(crate) fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds.max(1e-6)
    }
}

fn fleet(seed: u64) -> FleetSpec {
    FleetSpec { vehicles: VEHICLES, seed, ..FleetSpec::default() }
}

/// Returns the rows that the rungs without Kafka write. In Kafka the same rows are JSON.
fn rows(seed: u64) -> Result<Vec<Row>> {
    let (mut encoder, mut json) = (Encoder::new(Format::Telemetry), Vec::new());
    let readings = Fleet::new(fleet(seed))?.take(usize::try_from(RECORDS)?);
    let rows = readings.map(|reading| {
        json.clear();
        encoder.write(&reading, &mut json);
        Row::decode(&json)
    });
    rows.collect()
}
