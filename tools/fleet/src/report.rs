//! The figures that a run of the producer reports, during the run and at its end.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A histogram of durations from a microsecond to a day, with three significant digits. Longer durations count as a day. Only the
/// maximum is exact.
#[derive(Debug)]
pub(crate) struct Delays {
    micros: Histogram<u64>,
    max: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        const DAY_US: u64 = 86_400_000_000;
        let micros = Histogram::new_with_bounds(1, DAY_US, 3).expect("the bounds are valid");
        Self { micros, max: Duration::ZERO }
    }
}

impl Delays {
    pub(crate) fn record(&mut self, delay: Duration) {
        self.micros.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        self.max = self.max.max(delay);
    }
}

/// The median, the 99th percentile and the maximum, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// Returns the quantiles of the recorded durations, in milliseconds; `None` if nothing was recorded.
    pub(crate) fn of(delays: &Delays) -> Option<Self> {
        let max = delays.max.as_secs_f64() * 1_000.0;
        // The histogram returns the end of a bucket, which may be longer than the longest duration.
        let quantile = |share| (delays.micros.value_at_quantile(share) as f64 / 1_000.0).min(max);
        (!delays.micros.is_empty()).then(|| Self { p50: quantile(0.5), p99: quantile(0.99), max })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", self.p50, self.p99, self.max)
    }
}

/// The progress of a run. The counts are totals since the run's start: `intended` records were due, the producer's queue accepted
/// `sent` of them, and Kafka acknowledged `acked` of the sent ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub seconds: f64,
    pub intended: u64,
    pub sent: u64,
    pub acked: u64,
    /// Records that the producer refused, for example because its queue was full, or gave up.
    pub failed: u64,
    /// The intended rate at this moment; `None` if records are sent as fast as possible.
    pub intended_per_second: Option<f64>,
    /// Records sent per second since the last report.
    pub sent_per_second: f64,
    /// How long after its intended time the most recent record was sent, in milliseconds.
    pub behind_ms: f64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} s  {:>9.0}/s", self.seconds, self.sent_per_second)?;
        if let Some(rate) = self.intended_per_second {
            write!(f, " of {rate:.0}/s")?;
        }
        write!(
            f,
            "  intended {}  sent {}  acked {}  failed {}  behind {:.1} ms",
            self.intended, self.sent, self.acked, self.failed, self.behind_ms
        )
    }
}

/// The results of a whole run. `sent` counts the records that the producer's queue accepted. It is `acked + unacked + failed -
/// refused`, because `failed` includes the refused records.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    /// Seconds from the run's start until all sent records were acknowledged or given up, or `flush_timeout` was over.
    pub seconds: f64,
    /// Records that were due; equals `sent + refused` unless the run was interrupted.
    pub intended: u64,
    pub sent: u64,
    pub acked: u64,
    /// Records that the producer refused or gave up. Kafka may have some of those that were given up.
    pub failed: u64,
    /// Failed records that the producer refused, for example because its queue was full. Kafka never got them.
    pub refused: u64,
    /// Records that were neither acknowledged nor failed when the run ended.
    pub unacked: u64,
    /// Sent records whose reading had been sent before.
    pub repeated: u64,
    /// Sent records that were delayed on purpose, so that later readings may have been sent before them.
    pub late: u64,
    /// The total size of the sent payloads, in bytes.
    pub bytes: u64,
    pub acked_per_second: f64,
    /// The time from a record's intended time to its sending. `None` if the rate is 0, or if no record was sent.
    pub send_delay_ms: Option<Quantiles>,
    /// The time from a record's intended time to its acknowledgement. With rate 0, the time counts from the sending.
    pub ack_delay_ms: Option<Quantiles>,
    /// Whether the stop flag or a fatal error of the producer ended the run.
    pub interrupted: bool,
    /// The last error that Kafka or the producer reported. Its cause may be over by now.
    pub last_error: Option<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { intended, sent, acked, failed, refused, unacked, .. } = self;
        writeln!(f, "intended {intended}, sent {sent}, acked {acked}, failed {failed}")?;
        if *refused + *unacked > 0 {
            writeln!(f, "not taken by the queue {refused}, not acked at the end {unacked}")?;
        }
        writeln!(f, "of the sent: repeated {}, late {}", self.repeated, self.late)?;
        let megabytes = self.bytes as f64 / 1e6;
        let (seconds, rate) = (self.seconds, self.acked_per_second);
        writeln!(f, "{megabytes:.1} MB in {seconds:.1} s, {rate:.0} acked/s")?;
        if let Some(delay) = &self.send_delay_ms {
            writeln!(f, "sent behind the intended time: {delay}")?;
        }
        if let Some(delay) = &self.ack_delay_ms {
            let since = if self.send_delay_ms.is_some() { "the intended time" } else { "sending" };
            writeln!(f, "acked after {since}: {delay}")?;
        }
        if let Some(error) = &self.last_error {
            writeln!(f, "last error: {error}")?;
        }
        if self.interrupted {
            writeln!(f, "interrupted")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_has_no_quantiles_and_the_longest_delay_is_counted() {
        let mut delays = Delays::default();
        assert_eq!(Quantiles::of(&delays), None);
        delays.record(Duration::from_millis(172_800_123));
        assert_eq!(Quantiles::of(&delays).map(|delay| delay.max), Some(172_800_123.0));
    }
}
