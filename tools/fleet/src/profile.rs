//! Decides when each record should be sent: an open-loop schedule, independent of the receiver.
//!
//! A schedule is a rate over time, made of linear pieces. The rate determines how many records should have been sent by any time,
//! and so each record's intended time.

use std::str::FromStr;
use std::time::Duration;

use crate::ParseError;

/// The rate over time, in multiples of the base rate. After the profile's end, the base rate continues.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Profile {
    #[default]
    Steady,
    /// The rate rises to `peak` times the base rate for two fifths of the time, stays there, and falls for two fifths of the
    /// time.
    RushHour {
        peak: f64,
        /// The whole time of rising, staying and falling, in seconds.
        seconds: f64,
    },
    /// After `after` seconds, the rate jumps to `factor` times the base rate for `seconds` seconds. With 0, nothing is sent
    /// meanwhile.
    Burst { factor: f64, after: f64, seconds: f64 },
}

impl FromStr for Profile {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fault =
            || ParseError::new(text, "a profile: `steady`, `rush-hour:PEAK:SECONDS` or `burst:FACTOR:AFTER:SECONDS`");
        let mut words = text.split(':');
        let name = words.next();
        let numbers = words
            .map(|word| word.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(fault)?;
        match (name, numbers.as_slice()) {
            (Some("steady"), []) => Ok(Self::Steady),
            (Some("rush-hour"), &[peak, seconds]) => Ok(Self::RushHour { peak, seconds }),
            (Some("burst"), &[factor, after, seconds]) => Ok(Self::Burst { factor, after, seconds }),
            _ => Err(fault()),
        }
    }
}

/// A part of a schedule, in which the rate changes linearly. It begins `start` seconds after the schedule's start. `before`
/// records should be sent before that. The rate is `rate` records per second at first, and grows by `slope` every second.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: f64,
    before: f64,
    rate: f64,
    slope: f64,
}

/// The rate over time, in records per second: a profile, applied to a base rate.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The pieces in order of time. There is at least one, and the last one never ends.
    pieces: Vec<Piece>,
}

impl Schedule {
    /// Returns the schedule of `profile`. `rate` is the base rate, in records per second, and must be positive and finite.
    pub fn new(profile: Profile, rate: f64) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "a schedule needs a positive rate, not {rate}");
        // Each piece: its length, the rate at its start, and the rate at its end.
        let shape = match profile {
            Profile::Steady => vec![],
            Profile::RushHour { peak, seconds } => vec![
                (seconds * 0.4, rate, rate * peak),
                (seconds * 0.2, rate * peak, rate * peak),
                (seconds * 0.4, rate * peak, rate),
            ],
            Profile::Burst { factor, after, seconds } => {
                vec![(after, rate, rate), (seconds, rate * factor, rate * factor)]
            }
        };
        let (mut start, mut before) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(shape.len() + 1);
        for (length, from, to) in shape.into_iter().filter(|&(length, ..)| length > 0.0) {
            pieces.push(Piece { start, before, rate: from, slope: (to - from) / length });
            start += length;
            before += length * (from + to) / 2.0;
        }
        pieces.push(Piece { start, before, rate, slope: 0.0 });
        Self { pieces }
    }

    /// Returns the number of records that should have been sent before `at`.
    pub fn intended(&self, at: Duration) -> u64 {
        let at = at.as_secs_f64();
        let piece = self.last(|piece| piece.start <= at);
        let into = at - piece.start;
        let count = piece.before + into * (piece.rate + piece.slope * into / 2.0);
        whole((count - 1e-6).ceil())
    }

    pub fn rate(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        let piece = self.last(|piece| piece.start <= at);
        piece.rate + piece.slope * (at - piece.start)
    }

    /// Returns the time from the schedule's start at which record `n`, counted from 0, should be sent.
    pub fn due(&self, n: u64) -> Duration {
        let n = n as f64;
        let piece = self.last(|piece| piece.before <= n);
        let left = n - piece.before;
        // left = rate·t + slope·t²/2, solved for t in the form that stays exact for small slopes
        let root = (piece.rate * piece.rate + 2.0 * piece.slope * left).max(0.0).sqrt();
        let into = if left == 0.0 { 0.0 } else { 2.0 * left / (piece.rate + root) };
        Duration::try_from_secs_f64(piece.start + into).unwrap_or(Duration::MAX)
    }

    fn last(&self, begun: impl Fn(&Piece) -> bool) -> &Piece {
        self.pieces.iter().rev().find(|piece| begun(piece)).unwrap_or(&self.pieces[0])
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded already, and saturates")]
#[expect(clippy::cast_sign_loss, reason = "counts below zero are zero")]
fn whole(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_profile() -> impl Strategy<Value = Profile> {
        prop_oneof![
            Just(Profile::Steady),
            (0.0..20.0, 0.1..100.0).prop_map(|(peak, seconds)| Profile::RushHour { peak, seconds }),
            (0.0..50.0, 0.0..50.0, 0.1..50.0).prop_map(|(factor, after, seconds)| Profile::Burst {
                factor,
                after,
                seconds
            }),
        ]
    }

    proptest! {
        #[test]
        fn each_record_is_due_where_the_count_passes_it(
            profile in any_profile(), rate in 1.0..500_000.0, n in 0u64..1_000_000,
        ) {
            let schedule = Schedule::new(profile, rate);
            let due = schedule.due(n);
            prop_assert!(schedule.due(n + 1) >= due);
            let nearby = Duration::from_micros(1);
            prop_assert!(schedule.intended(due.saturating_sub(nearby)) <= n);
            // A record must count shortly after it is due. At low rates, the count may hardly grow in that time, so don't check
            // it.
            let slack = Duration::from_millis(5);
            prop_assert!(schedule.intended(due + slack) > n || schedule.rate(due) < 1_000.0);
        }

        #[test]
        fn the_count_is_the_integral_of_the_rate(profile in any_profile(), rate in 100.0..10_000.0) {
            let schedule = Schedule::new(profile, rate);
            let (steps, step) = (120_000, Duration::from_millis(1));
            let sum: f64 = (0..steps).map(|n| schedule.rate(step * n) * step.as_secs_f64()).sum();
            let count = schedule.intended(step * steps) as f64;
            prop_assert!((sum - count).abs() <= 0.002 * count + rate, "{sum} against {count}");
        }
    }

    #[test]
    fn totals_are_those_that_were_asked_for() {
        let intended = |profile: &str, seconds| {
            Schedule::new(profile.parse().expect(profile), 5_000.0).intended(Duration::from_secs(seconds))
        };
        assert_eq!(intended("steady", 60), 300_000);
        // The rate rises for 24 s and falls for 24 s, with a mean of (1 + 4) / 2; for 12 s it is 4 times the base rate.
        assert_eq!(intended("rush-hour:4:60", 60), (120 + 48) * 5_000);
        assert_eq!(intended("rush-hour:4:60", 70), (120 + 48 + 10) * 5_000);
        assert_eq!(intended("burst:8:10:5", 30), (10 + 40 + 15) * 5_000);
        assert_eq!(intended("burst:0:10:5", 30), 25 * 5_000);
    }

    #[test]
    fn a_gap_delays_the_record_behind_it() {
        let schedule = Schedule::new("burst:0:2:3".parse().expect("valid"), 10.0);
        assert_eq!(schedule.due(19), Duration::from_millis(1_900));
        assert_eq!(schedule.due(20), Duration::from_secs(5));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "rush", "steady:1", "rush-hour:4", "burst:1:2:x", "burst:-1:2:3", "burst:inf:1:1"] {
            assert!(text.parse::<Profile>().is_err(), "{text}");
        }
    }
}
