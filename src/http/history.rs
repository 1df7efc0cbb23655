//! The history of a pipeline, in two ring buffers of fixed size: one has a cell per second, the other a cell per
//! minute. Together they take 66 kB per pipeline.

use serde::{Deserialize, Serialize};

/// 15 minutes in steps of a second: the number of cells, and seconds per cell.
const FINE: (usize, u32) = (900, 1);
/// 24 hours in steps of a minute: the number of cells, and seconds per cell.
const COARSE: (usize, u32) = (1440, 60);

/// The values of one period. `into` is the rate at which records arrive in Kafka, and `out` the rate at which the ledger
/// advances, both in records per second. `lag` is the number of unwritten records, `wait` the age of the oldest of them in
/// seconds, and `headroom` the seconds until Kafka deletes it. Unknown values are NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) into: f32,
    pub(super) out: f32,
    pub(super) lag: f32,
    pub(super) wait: f32,
    pub(super) headroom: f32,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The time since the epoch, in seconds or minutes (the steps of the ring); 0 for a cell that was never filled.
    at: u32,
    sample: Sample,
    /// The number of samples in the cell. There is one sample per second.
    seen: u32,
}

#[derive(Debug)]
struct Ring {
    step: u32,
    cells: Vec<Cell>,
}

#[derive(Debug)]
pub(super) struct History {
    fine: Ring,
    coarse: Ring,
}

/// A period of the history as columns of equal length, as `/api/history` returns it; unknown and infinite values are null.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Columns {
    version: u32,
    pipeline: String,
    step_seconds: u32,
    at_ms: Vec<i64>,
    pub(super) into: Vec<Option<f32>>,
    pub(super) out: Vec<Option<f32>>,
    lag: Vec<Option<f32>>,
    wait: Vec<Option<f32>>,
    headroom: Vec<Option<f32>>,
}

impl Columns {
    pub(super) fn new(pipeline: &str) -> Self {
        Self { version: 1, pipeline: pipeline.to_owned(), step_seconds: FINE.1, ..Self::default() }
    }
}

impl History {
    pub(super) fn new() -> Self {
        Self { fine: Ring::new(FINE), coarse: Ring::new(COARSE) }
    }

    pub(super) fn push(&mut self, now_ms: i64, sample: Sample) {
        self.fine.push(now_ms, sample);
        self.coarse.push(now_ms, sample);
    }

    /// Returns the history since `from_ms`: per second if the ring of seconds reaches back that far, otherwise per
    /// minute.
    pub(super) fn since(&self, pipeline: &str, from_ms: i64, now_ms: i64) -> Columns {
        let reach = i64::from(FINE.1) * 1000 * i64::try_from(FINE.0).unwrap_or(i64::MAX);
        let ring = if from_ms > now_ms - reach - 5_000 { &self.fine } else { &self.coarse };
        let mut cells: Vec<&Cell> =
            ring.cells.iter().filter(|cell| cell.seen > 0 && ring.at_ms(cell) >= from_ms).collect();
        cells.sort_unstable_by_key(|cell| cell.at);
        let column = |of: fn(&Sample) -> f32| {
            cells.iter().map(|cell| Some(of(&cell.sample)).filter(|value| value.is_finite())).collect()
        };
        Columns {
            step_seconds: ring.step,
            at_ms: cells.iter().map(|cell| ring.at_ms(cell)).collect(),
            into: column(|sample| sample.into),
            out: column(|sample| sample.out),
            lag: column(|sample| sample.lag),
            wait: column(|sample| sample.wait),
            headroom: column(|sample| sample.headroom),
            ..Columns::new(pipeline)
        }
    }

    /// Returns the mean rate into Postgres in the best minute of the last hour. Minutes with fewer than ten samples don't count.
    /// Returns 0 if no minute counts.
    pub(super) fn best_of_the_hour(&self, now_ms: i64) -> f32 {
        let recent = |cell: &&Cell| cell.seen >= 10 && self.coarse.at_ms(cell) > now_ms - 3_600_000;
        self.coarse.cells.iter().filter(recent).map(|cell| cell.sample.out).fold(0.0, f32::max)
    }
}

impl Ring {
    fn new((cells, step): (usize, u32)) -> Self {
        let nothing = Sample { into: f32::NAN, out: f32::NAN, lag: f32::NAN, wait: f32::NAN, headroom: f32::NAN };
        Self { step, cells: vec![Cell { at: 0, sample: nothing, seen: 0 }; cells] }
    }

    fn at_ms(&self, cell: &Cell) -> i64 {
        i64::from(cell.at) * i64::from(self.step) * 1000
    }

    /// Adds a sample. Rates are averaged over the time of the cell. For each of the other values, the worst one is kept.
    fn push(&mut self, now_ms: i64, sample: Sample) {
        let at = u32::try_from(now_ms / 1000 / i64::from(self.step)).unwrap_or(0);
        let place = at as usize % self.cells.len();
        let cell = &mut self.cells[place];
        if cell.at != at || cell.seen == 0 {
            *cell = Cell { at, sample, seen: 1 };
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 60 seconds")]
        let mean = |old: f32, new: f32| match (old.is_nan(), new.is_nan()) {
            (_, true) => old,
            (true, _) => new,
            _ => old + (new - old) / (cell.seen + 1) as f32,
        };
        let old = cell.sample;
        cell.sample = Sample {
            into: mean(old.into, sample.into),
            out: mean(old.out, sample.out),
            lag: old.lag.max(sample.lag),
            wait: old.wait.max(sample.wait),
            headroom: old.headroom.min(sample.headroom),
        };
        cell.seen += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rate(out: f32) -> Sample {
        Sample { into: out, out, lag: out, wait: 0.0, headroom: f32::NAN }
    }

    #[test]
    fn a_question_within_a_quarter_hour_is_answered_by_the_second() {
        let mut history = History::new();
        let start = 1_700_000_000_000;
        (0..2000).for_each(|second| history.push(start + second * 1000, at_rate(1.0)));
        let now = start + 1_999_000;
        let fine = history.since("p", now - 300_000, now);
        assert_eq!((fine.step_seconds, fine.at_ms.len()), (1, 301));
        let coarse = history.since("p", now - 3_600_000, now);
        assert_eq!((coarse.step_seconds, coarse.at_ms.len()), (60, 34));
        assert!(coarse.at_ms.is_sorted() && fine.at_ms.is_sorted());
    }

    #[test]
    fn a_minute_is_the_mean_of_its_rates_and_the_worst_of_its_levels() {
        let mut history = History::new();
        let start = 1_700_000_040_000;
        (0..60).for_each(|second: i16| history.push(start + i64::from(second) * 1000, at_rate(f32::from(second))));
        let minute = history.since("p", 0, start + 59_000);
        assert_eq!((minute.out.len(), minute.lag[0]), (1, Some(59.0)));
        assert!((minute.out[0].unwrap() - 29.5).abs() < 0.01, "{:?}", minute.out);
        assert!((history.best_of_the_hour(start + 59_000) - 29.5).abs() < 0.01);
    }

    #[test]
    fn what_is_not_known_is_null_and_the_rings_have_a_fixed_size() {
        let mut history = History::new();
        history.push(1_700_000_000_000, Sample { into: f32::NAN, ..at_rate(1.0) });
        let json = serde_json::to_string(&history.since("p", 0, 1_700_000_000_000)).unwrap();
        assert!(json.contains("\"into\":[null]"), "{json}");
        assert!((FINE.0 + COARSE.0) * size_of::<Cell>() < 70_000);
    }
}
