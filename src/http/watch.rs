//! Samples the state of the pipelines once per second: rates, history, the timeline, and one frame of changes for all
//! viewers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_protocol::position::TopicPartition;
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval};

use super::dead_letter_news::DeadLetterNews;
use super::document::Entry;
use super::history::{Columns, History, Sample};
use super::instances::Instance;
use super::timeline::{Timeline, Waits};
use super::words::RecentDeadLetters;
use super::{Site, frames, status, words};
use crate::daemon::Reload;
use crate::lag::headroom::shortest;
use crate::metrics::epoch_ms;
use crate::pipeline::{Pipeline, PipelinePhase};
use crate::status::work::Event;
use crate::status::{ConsumerStatus, lock};

const INTERVAL: Duration = Duration::from_secs(1);
/// The most frames by which a viewer may lag behind. A slower viewer is disconnected, and reconnects.
const FRAMES: usize = 8;
const VIEWERS: usize = 64;
/// The number of samples from which means, forecasts and the shares of a consumer's time are computed.
const SAMPLES: usize = 10;
/// Log ends that were read longer ago than this are out of date.
const STALE: Duration = Duration::from_secs(5);

/// The last samples, the timeline, and what the viewers of the live page have been sent.
#[derive(Debug)]
pub(super) struct Watch {
    samples: Mutex<BTreeMap<Arc<str>, PipelineSamples>>,
    timeline: Mutex<Timeline>,
    viewers: Mutex<Viewers>,
    /// The last reload that was added to the timeline.
    reload: Mutex<Option<Reload>>,
}

#[derive(Debug)]
struct Viewers {
    frames: broadcast::Sender<Arc<str>>,
    /// The document that the viewers have, and the id of the first event that they don't have; `None` if there are no viewers.
    told: Option<(Value, u64)>,
}

/// The numbers of one pipeline in the last sample. Rates are records per second (`rows`: rows per second of this instance).
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) into: Option<f64>,
    pub(super) out: Option<f64>,
    /// The mean rates of the last samples, into Kafka and into Postgres. Sentences use these means, so that the sentences don't
    /// change every second.
    pub(super) mean: Option<(f64, f64)>,
    pub(super) rows: f64,
    /// Seconds until the backlog is gone, at the mean rates; `None` if the rates are unknown, if the backlog doesn't shrink, or
    /// if writing it takes less than about two seconds.
    pub(super) empty_in: Option<f64>,
    pub(super) best: f64,
    /// Per consumer, the shares of its time from 0 to 1, in the order of `TimePhase`.
    pub(super) cycles: Vec<[f64; 6]>,
    /// The dead letters of the last five minutes, if they are news. `None` if there are none, or if a small share of the records
    /// has been dead-lettered for more than five minutes.
    pub(super) dead: Option<RecentDeadLetters>,
}

#[derive(Debug)]
struct PipelineSamples {
    at: Option<Instant>,
    places: BTreeMap<TopicPartition, (i64, i64)>,
    rates: Rates,
    recent: VecDeque<(f64, f64)>,
    spent: VecDeque<(Instant, Vec<[f64; 6]>)>,
    rows: Option<(Instant, u64)>,
    dead: DeadLetterNews,
    history: History,
    phase: Option<PipelinePhase>,
    waits: Waits,
}

impl Watch {
    pub(super) fn new() -> Self {
        let viewers = Viewers { frames: broadcast::Sender::new(FRAMES), told: None };
        Self {
            samples: Mutex::default(),
            timeline: Mutex::default(),
            viewers: Mutex::new(viewers),
            reload: Mutex::default(),
        }
    }

    pub(super) fn rates(&self, pipeline: &str) -> Rates {
        lock(&self.samples).get(pipeline).map(|sample| sample.rates.clone()).unwrap_or_default()
    }

    /// Returns the history of a pipeline; `None` if it was never sampled.
    pub(super) fn history(&self, pipeline: &str, from_ms: i64) -> Option<Columns> {
        lock(&self.samples).get(pipeline).map(|sample| sample.history.since(pipeline, from_ms, epoch_ms()))
    }

    /// Returns the last events, the oldest first.
    pub(super) fn timeline(&self) -> Vec<Entry> {
        lock(&self.timeline).in_order()
    }

    pub(super) fn instances_changed(&self, before: &BTreeMap<String, Instance>, now: &BTreeMap<String, Instance>) {
        let joined = now.iter().filter(|(id, _)| !before.contains_key(*id)).map(|(id, i)| (id, i, "joined"));
        let left = before.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(id, i)| (id, i, "is gone"));
        for (id, instance, what) in joined.chain(left) {
            self.enter(None, Event::now("instance", format!("{id} on {} {what}", instance.host)));
        }
    }

    /// Adds an event to the timeline: another daemon has our instance name.
    pub(super) fn twin(&self, what: String) {
        self.enter(None, Event::now("instance", what));
    }

    fn note_reload(&self, reload: Option<Reload>) {
        let mut known = lock(&self.reload);
        if *known == reload {
            return;
        }
        if let Some(Reload { at_ms, refused }) = &reload {
            let text = match refused {
                Some(faults) => format!("the new configuration is refused: {}", words::first(faults)),
                None => "the configuration was read again".to_owned(),
            };
            self.enter(None, Event { at_ms: *at_ms, ..Event::now("reload", text) });
        }
        *known = reload;
    }

    fn enter(&self, pipeline: Option<&str>, event: Event) {
        lock(&self.timeline).enter(pipeline, event);
    }

    fn forget_all_but(&self, pipelines: &[Arc<Pipeline>]) {
        lock(&self.samples).retain(|name, _| pipelines.iter().any(|pipeline| pipeline.name == *name));
    }

    fn sample(&self, pipeline: &Pipeline) {
        let taken = |consumer: &Arc<ConsumerStatus>| {
            consumer.work.take_events().into_iter().map(|event| (consumer.number, event)).collect::<Vec<_>>()
        };
        let events = pipeline.consumers.iter().flat_map(taken).collect();
        let mut samples = lock(&self.samples);
        let sample = samples.entry(Arc::clone(&pipeline.name)).or_insert_with(PipelineSamples::new);
        let mut lines = sample.waits.lines(events);
        let (phase, since_ms) = pipeline.phase_since();
        if sample.phase.as_ref() != Some(&phase) {
            if let Some((kind, text)) = phase_event(sample.phase.as_ref(), &phase) {
                lines.push(Event { at_ms: since_ms, ..Event::now(kind, text) });
            }
            if phase != PipelinePhase::Running {
                sample.waits.clear();
            }
            sample.phase = Some(phase);
        }
        lines.into_iter().for_each(|line| self.enter(Some(&pipeline.name), line));
        sample.take(pipeline);
    }

    /// Adds a viewer. Returns the current document and the frames that follow it; `None` if there are too many viewers.
    pub(super) fn join(&self, site: &Site) -> Option<(Arc<str>, broadcast::Receiver<Arc<str>>)> {
        let mut viewers = lock(&self.viewers);
        if viewers.frames.receiver_count() >= VIEWERS {
            return None;
        }
        let (document, _) = viewers.told.get_or_insert_with(|| self.document(site));
        // Add the current timeline. If the next frame repeats events, the viewer recognizes them by their ids.
        let mut whole = document.clone();
        whole["timeline"] = serde_json::to_value(self.timeline()).unwrap_or_default();
        let first = format!("event: status\ndata: {whole}\n\n").into();
        Some((first, viewers.frames.subscribe()))
    }

    fn document(&self, site: &Site) -> (Value, u64) {
        let next = lock(&self.timeline).next();
        (serde_json::to_value(status::of(site, None)).unwrap_or_default(), next)
    }

    /// Sends the changes to all viewers. If there are no viewers, drops the document that the last viewers had.
    fn tell(&self, site: &Site) {
        let mut viewers = lock(&self.viewers);
        if viewers.frames.receiver_count() == 0 {
            viewers.told = None;
            return;
        }
        let now = self.document(site);
        let frame = match &viewers.told {
            Some((before, events)) => {
                let events = lock(&self.timeline).since(*events);
                json!({"now_ms": epoch_ms(), "set": frames::changes(before, &now.0), "events": events})
            }
            None => return,
        };
        viewers.told = Some(now);
        // The only possible error is that there are no receivers.
        drop(viewers.frames.send(format!("event: change\ndata: {frame}\n\n").into()));
    }
}

/// Takes samples until the future is dropped.
pub(super) async fn run(site: Arc<Site>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let pipelines = site.daemon.pipelines();
        site.watch.forget_all_but(&pipelines);
        pipelines.iter().for_each(|pipeline| site.watch.sample(pipeline));
        site.watch.note_reload(site.daemon.last_reload());
        site.watch.tell(&site);
    }
}

fn phase_event(before: Option<&PipelinePhase>, now: &PipelinePhase) -> Option<(&'static str, String)> {
    match now {
        PipelinePhase::Starting { waiting_for: None } => Some(("start", "starts".to_owned())),
        // The reason may change with each retry, so only the first one becomes an event.
        PipelinePhase::Starting { waiting_for: Some(why) } => {
            let known = matches!(before, Some(PipelinePhase::Starting { waiting_for: Some(_) }));
            (!known).then(|| ("outage", format!("can't start yet: {why}")))
        }
        PipelinePhase::Running => Some(("start", "reads".to_owned())),
        PipelinePhase::Draining => Some(("stop", "drains".to_owned())),
        PipelinePhase::Drained => Some(("stop", "ended as requested".to_owned())),
        PipelinePhase::Stopped { why } => Some(("stop", format!("stopped: {why}"))),
    }
}

impl PipelineSamples {
    fn new() -> Self {
        Self {
            at: None,
            places: BTreeMap::new(),
            rates: Rates::default(),
            recent: VecDeque::new(),
            spent: VecDeque::new(),
            rows: None,
            dead: DeadLetterNews::default(),
            history: History::new(),
            phase: None,
            waits: Waits::default(),
        }
    }

    fn take(&mut self, pipeline: &Pipeline) {
        let (now, now_ms) = (Instant::now(), epoch_ms());
        let level = self.rates_of_the_logs(pipeline, now);
        self.time_of(pipeline, now);
        let (rows, dead) = pipeline.consumers.iter().fold((0, 0), |(r, d), c| (r + c.rows(), d + c.dead_letters()));
        #[expect(clippy::cast_precision_loss, reason = "a rate is a float")]
        if let Some((at, before)) = self.rows {
            self.rates.rows = rows.saturating_sub(before) as f64 / now.duration_since(at).as_secs_f64().max(0.001);
        }
        self.rows = Some((now, rows));
        self.rates.dead = self.dead.take(rows, dead);
        let Some((lag, wait, headroom)) = level else { return };
        #[expect(clippy::cast_possible_truncation, reason = "a pixel's worth of digits")]
        let [into, out, lag, wait, headroom] = [
            self.rates.into.unwrap_or(f64::NAN),
            self.rates.out.unwrap_or(f64::NAN),
            lag,
            wait,
            headroom.unwrap_or(f64::NAN),
        ]
        .map(|value| ((value * 10.0).round() / 10.0) as f32);
        self.history.push(now_ms, Sample { into, out, lag, wait, headroom });
        self.rates.best = f64::from(self.history.best_of_the_hour(now_ms));
    }

    /// Computes the rates: how far the ledger and the ends of the logs have moved since the previous reading. Returns the lag in
    /// records, the lag in seconds, and the headroom. If the known ends are out of date, clears the rates and returns `None`.
    fn rates_of_the_logs(&mut self, pipeline: &Pipeline, now: Instant) -> Option<(f64, f64, Option<f64>)> {
        let view = lock(&pipeline.lag);
        let fresh = view.seen_at.is_some_and(|at| now.duration_since(at) < STALE);
        if !fresh {
            (self.rates.into, self.rates.out, self.rates.empty_in) = (None, None, None);
            self.rates.mean = None;
            self.recent.clear();
            return None;
        }
        let lags = view.partitions.values();
        #[expect(clippy::cast_precision_loss, reason = "a number of records is far below 2^53")]
        let lag = lags.clone().map(|lag| lag.records).sum::<u64>() as f64;
        let wait = lags.clone().map(|lag| lag.seconds).fold(0.0, f64::max);
        let headroom = shortest(lags.map(|lag| lag.headroom));
        if self.at != view.seen_at {
            let places: BTreeMap<_, _> =
                view.partitions.iter().map(|(source, lag)| (source.clone(), (lag.next.get(), lag.end.get()))).collect();
            if let (Some(before), Some(at)) = (self.at, view.seen_at) {
                let seconds = at.duration_since(before).as_secs_f64().max(0.001);
                let (mut into, mut out) = (0, 0);
                for (source, (next, end)) in &places {
                    if let Some((next_before, end_before)) = self.places.get(source) {
                        // If the ledger was rewound or the log recreated, the difference may be negative. Count it as 0.
                        out += (next - next_before).max(0);
                        into += (end - end_before).max(0);
                    }
                }
                #[expect(clippy::cast_precision_loss, reason = "a rate is a float")]
                let (into, out) = (into as f64 / seconds, out as f64 / seconds);
                (self.rates.into, self.rates.out) = (Some(into), Some(out));
                push(&mut self.recent, (into, out), SAMPLES);
                let mean = mean(&self.recent);
                self.rates.empty_in = mean.and_then(|mean| forecast(lag, mean));
                self.rates.mean = mean;
            }
            (self.at, self.places) = (view.seen_at, places);
        }
        Some((lag, wait, headroom))
    }

    fn time_of(&mut self, pipeline: &Pipeline, now: Instant) {
        let spent: Vec<[f64; 6]> = pipeline.consumers.iter().map(|consumer| consumer.work.seconds()).collect();
        if let Some((at, before)) = self.spent.front() {
            let wall = now.duration_since(*at).as_secs_f64().max(0.001);
            let share = |(now, before): (&[f64; 6], &[f64; 6])| {
                std::array::from_fn(|phase| {
                    ((now[phase] - before[phase]) / wall * 100.0).round().clamp(0.0, 100.0) / 100.0
                })
            };
            self.rates.cycles = spent.iter().zip(before).map(share).collect();
        }
        push(&mut self.spent, (now, spent), SAMPLES);
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, max: usize) {
    if queue.len() == max {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// Returns the mean rates of the samples, into Kafka and into Postgres; `None` if there are no samples.
fn mean(recent: &VecDeque<(f64, f64)>) -> Option<(f64, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "at most ten samples")]
    let samples = recent.len() as f64;
    let (into, out) = recent.iter().fold((0.0, 0.0), |(into, out), sample| (into + sample.0, out + sample.1));
    (samples > 0.0).then(|| (into / samples, out / samples))
}

/// Returns the seconds until the backlog is gone. `None` if the backlog doesn't shrink, or is written in less than
/// about two seconds.
fn forecast(lag: f64, (into, out): (f64, f64)) -> Option<f64> {
    (out > into && lag > 2.0 * out).then(|| lag / (out - into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_drains_has_an_end_in_sight_and_one_that_grows_has_none() {
        assert_eq!(forecast(10_000.0, (100.0, 1100.0)), Some(10.0));
        assert_eq!(forecast(10_000.0, (1100.0, 100.0)), None);
        assert_eq!(forecast(100.0, (100.0, 1100.0)), None);
        assert_eq!(mean(&VecDeque::from([(0.0, 200.0), (100.0, 0.0)])), Some((50.0, 100.0)));
        assert_eq!(mean(&VecDeque::new()), None);
    }
}
