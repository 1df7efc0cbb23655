//! Sends a fleet's readings to Kafka, each at its intended time.
//!
//! This is an open loop: the schedule is fixed before the first record and never changes. If the receiver or this machine is
//! slow, records are sent late, and the delay is reported. A rate of 0 has no schedule: records are sent as fast as the queue
//! accepts them.
//!
//! One thread encodes and sends. Between records, it also serves the delivery reports.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::report::Delays;
use crate::sender::{Outgoing, Refusal, Sender};
use crate::{
    Arrival, Deliveries, Delivery, Encoder, Fleet, ProduceError, ProduceSpec, Progress, Quantiles, Schedule, Summary,
    Truth, WhenFull, write_key,
};

const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Delivery reports are served at least once per this many records.
const SERVE_EVERY: u64 = 64;

#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    /// The expected results of consumers, if they were requested. They include records that the queue accepted and Kafka didn't
    /// acknowledge. Kafka may have such records or not. So if `failed > refused` or `unacked > 0`, an exact comparison isn't
    /// possible.
    pub truth: Option<Truth>,
}

/// Sends records until a limit of `spec` is reached, `stop` is set, or the producer fails for good. Then waits for the
/// acknowledgements, at most for `spec.flush_timeout`. Calls `progress` about twice per second.
///
/// # Errors
/// If `spec` is invalid, the cluster can't be reached, or the topic has too few partitions. There are no errors after the first
/// record.
pub fn produce(
    spec: &ProduceSpec,
    stop: &AtomicBool,
    progress: impl FnMut(&Progress),
) -> Result<Outcome, ProduceError> {
    if !(spec.rate.is_finite() && spec.rate >= 0.0) {
        return Err(ProduceError::Rate(spec.rate));
    }
    let mut fleet = Fleet::new(spec.fleet.clone())?;
    let sender = Sender::connect(spec)?;
    if spec.start_now {
        fleet = fleet.starting_at(sender.started_ms())?;
    }
    let schedule = (spec.rate > 0.0).then(|| Schedule::new(spec.profile, spec.rate));
    let scheduled = schedule.as_ref().zip(seconds(spec)).map(|(plan, end)| plan.intended(end));
    let records = spec.limit.records.into_iter().chain(scheduled).min();
    let truth = spec.keep_truth.then(|| Truth::new(fleet.spec().clone(), spec.partitioning));
    let deliveries = Deliveries::new(fleet, spec.delivery, records);
    let run = Run {
        spec,
        stop,
        progress,
        schedule,
        records,
        truth,
        sender,
        summary: Summary::default(),
        send_delays: Delays::default(),
        never_sent: HashSet::new(),
        reported: (Duration::ZERO, 0),
        behind: Duration::ZERO,
    };
    Ok(run.run(deliveries))
}

fn seconds(spec: &ProduceSpec) -> Option<Duration> {
    let seconds = spec.limit.seconds?;
    Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

struct Run<'a, P> {
    spec: &'a ProduceSpec,
    stop: &'a AtomicBool,
    progress: P,
    /// When each record should be sent. `None` means that records are sent as fast as possible.
    schedule: Option<Schedule>,
    records: Option<u64>,
    truth: Option<Truth>,
    sender: Sender<'a>,
    summary: Summary,
    send_delays: Delays,
    /// Indexes of readings whose first record was refused. If the repetition of such a reading is sent, it counts as the first.
    never_sent: HashSet<u64>,
    /// The time of the last progress report, and how many records had been sent by then.
    reported: (Duration, u64),
    behind: Duration,
}

impl<P: FnMut(&Progress)> Run<'_, P> {
    fn run(mut self, mut deliveries: Deliveries) -> Outcome {
        let (mut encoder, mut payload, mut key) = (Encoder::new(self.spec.format), Vec::new(), Vec::new());
        let clock_end = if self.schedule.is_none() { seconds(self.spec) } else { None };
        let mut n = 0;
        while let Some(delivery) = deliveries.next() {
            let due = self.schedule.as_ref().map(|schedule| schedule.due(n));
            let now = self.wait(due);
            if self.is_stopped() {
                self.summary.interrupted = true;
                break;
            }
            if clock_end.is_some_and(|end| now >= end) {
                deliveries.close();
            }
            payload.clear();
            key.clear();
            encoder.write(&delivery.reading, &mut payload);
            write_key(&delivery.reading, &mut key);
            let partition = self.spec.partitioning.of(&delivery.reading);
            let intended = due.unwrap_or(now);
            let record = Outgoing { partition, key: &key, payload: &payload, intended, now };
            match self.send(record) {
                Ok(sent_at) => self.sent(delivery, payload.len(), due, sent_at),
                Err(Refusal::Fatal) => {
                    self.refused(&delivery);
                    self.summary.interrupted = true;
                    break;
                }
                Err(Refusal::QueueFull | Refusal::Record) => self.refused(&delivery),
            }
            n += 1;
            if n % SERVE_EVERY == 0 {
                self.sender.serve();
            }
            self.report_if_due(now);
        }
        self.finish()
    }

    /// Serves delivery reports until `due` or until the run is stopped. Returns the time, which may be half a millisecond after
    /// `due`.
    fn wait(&mut self, due: Option<Duration>) -> Duration {
        let mut now = self.sender.now();
        while let Some(early) = due.and_then(|due| due.checked_sub(now)) {
            if early.is_zero() || self.is_stopped() {
                break;
            }
            self.sender.rest(early);
            now = self.sender.now();
            self.report_if_due(now);
        }
        now
    }

    /// Sends a record. Returns the time at which the queue accepted it. The time is later than `record.now` if the queue was
    /// full.
    fn send(&mut self, mut record: Outgoing<'_>) -> Result<Duration, Refusal> {
        loop {
            match self.sender.send(&record) {
                Ok(()) => return Ok(record.now),
                Err(Refusal::QueueFull) if self.spec.when_full == WhenFull::Wait && !self.is_stopped() => {
                    self.sender.rest(Duration::ZERO);
                    record.now = self.sender.now();
                    self.report_if_due(record.now);
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }

    fn sent(&mut self, mut delivery: Delivery, bytes: usize, due: Option<Duration>, at: Duration) {
        self.summary.sent += 1;
        self.summary.bytes += bytes as u64;
        if let Some(due) = due {
            self.behind = at.saturating_sub(due);
            self.send_delays.record(self.behind);
        }
        if !self.never_sent.is_empty() && self.never_sent.remove(&delivery.reading.index) {
            delivery.arrival = Arrival::First;
        }
        self.summary.repeated += u64::from(delivery.arrival == Arrival::Repeat);
        self.summary.late += u64::from(delivery.late);
        if let Some(truth) = &mut self.truth {
            truth.add(&delivery);
        }
    }

    fn refused(&mut self, delivery: &Delivery) {
        self.summary.refused += 1;
        if delivery.arrival == Arrival::First {
            self.never_sent.insert(delivery.reading.index);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns how many records were due by now, whether or not they were sent.
    fn intended(&self, now: Duration) -> u64 {
        match &self.schedule {
            Some(schedule) => schedule.intended(now).min(self.records.unwrap_or(u64::MAX)),
            None => self.summary.sent + self.summary.refused,
        }
    }

    fn report_if_due(&mut self, now: Duration) {
        let (at, sent) = self.reported;
        let since = now.saturating_sub(at);
        if since < PROGRESS_EVERY {
            return;
        }
        self.reported = (now, self.summary.sent);
        let acks = self.sender.acks();
        let progress = Progress {
            seconds: now.as_secs_f64(),
            intended: self.intended(now),
            sent: self.summary.sent,
            acked: acks.acked.load(Ordering::Relaxed),
            failed: acks.failed.load(Ordering::Relaxed) + self.summary.refused,
            intended_per_second: self.schedule.as_ref().map(|schedule| schedule.rate(now)),
            sent_per_second: (self.summary.sent - sent) as f64 / since.as_secs_f64(),
            behind_ms: self.behind.as_secs_f64() * 1_000.0,
        };
        (self.progress)(&progress);
    }

    fn finish(mut self) -> Outcome {
        let ended = self.sender.now();
        let deadline = ended + self.spec.flush_timeout;
        while self.sender.in_flight() > 0 && self.sender.now() < deadline {
            self.sender.rest(Duration::from_millis(1));
            self.report_if_due(self.sender.now());
        }
        let seconds = self.sender.now().as_secs_f64();
        let (intended, acks) = (self.intended(ended), self.sender.acks());
        let acked = acks.acked.load(Ordering::Relaxed);
        let failed = acks.failed.load(Ordering::Relaxed);
        let summary = Summary {
            seconds,
            intended,
            acked,
            failed: failed + self.summary.refused,
            unacked: self.summary.sent.saturating_sub(acked + failed),
            acked_per_second: if seconds > 0.0 { acked as f64 / seconds } else { 0.0 },
            send_delay_ms: Quantiles::of(&self.send_delays),
            ack_delay_ms: acks.delays(),
            last_error: acks.last_error(),
            ..self.summary
        };
        Outcome { summary, truth: self.truth }
    }
}
