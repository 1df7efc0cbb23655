//! The four acts (phases) of the flood, and the intended time of each record. The times are fixed before the first record is
//! sent.

use std::time::Duration;

use fleet::{Profile, Schedule};

/// The names of the acts. Texts and comments count the acts from 1; the functions below count them from 0.
pub(crate) const NAMES: [&str; 4] = ["steady", "rush hour", "database stopped", "writer killed"];

/// The acts, the same for every arrangement. `steady` and `rush` are rates in records per second. `rush` applies in acts 2 and 3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Acts {
    pub(crate) steady: f64,
    pub(crate) rush: f64,
    pub(crate) lengths: [Duration; 4],
}

impl Acts {
    /// Makes the acts. `scale` multiplies their lengths: it is 1 in a full run, and less in trials.
    pub(crate) fn new(steady: f64, rush: f64, scale: f64) -> Self {
        let lengths = [4, 5, 20, 10].map(|seconds| Duration::from_secs(seconds).mul_f64(scale));
        Self { steady, rush: rush.max(steady), lengths }
    }

    /// Returns the time from the start of the run to the beginning of an act, counted from 0. Act 4 is the end of the run.
    pub(crate) fn begins(&self, act: usize) -> Duration {
        self.lengths.iter().take(act).sum()
    }

    /// Returns the number of the act that runs at `time`, counted from 0. After the end, returns the last act.
    pub(crate) fn at(&self, time: Duration) -> usize {
        (0..4).rev().find(|act| self.begins(*act) <= time).unwrap_or(0)
    }

    pub(crate) fn end(&self) -> Duration {
        self.begins(4)
    }

    /// Returns when the writer is killed: in the middle of act 4. The database has then been back for some time.
    pub(crate) fn kill(&self) -> Duration {
        self.begins(3) + self.lengths[3] / 2
    }

    pub(crate) fn schedule(&self) -> Schedule {
        let (after, rush) = (self.begins(1), self.begins(3) - self.begins(1));
        let profile =
            Profile::Burst { factor: self.rush / self.steady, after: after.as_secs_f64(), seconds: rush.as_secs_f64() };
        Schedule::new(profile, self.steady)
    }

    pub(crate) fn records(&self) -> u64 {
        self.schedule().intended(self.end())
    }
}

/// Returns a rate at which every arrangement is expected to keep up. It is half of the best rate of INSERTs, rounded down to
/// hundreds. The result is at least 100 and at most 5 000.
pub(crate) fn steady(best_of_inserts: f64) -> f64 {
    ((best_of_inserts / 2.0 / 100.0).floor() * 100.0).clamp(100.0, 5_000.0)
}

/// Returns a rate at which INSERTs are expected to fall behind. It is 1.6 times their best rate, rounded up to thousands. The
/// result is at least 20 000, and at most 60 000 because sending more would use much of a small machine's CPU time.
pub(crate) fn rush_hour(best_of_inserts: f64) -> f64 {
    ((best_of_inserts * 1.6 / 1_000.0).ceil() * 1_000.0).clamp(20_000.0, 60_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intended_times_follow_the_acts_and_nothing_else() {
        let acts = Acts::new(5_000.0, 20_000.0, 1.0);
        assert_eq!(acts.records(), 4 * 5_000 + 25 * 20_000 + 10 * 5_000);
        let schedule = acts.schedule();
        assert_eq!(schedule.intended(acts.begins(1)), 20_000);
        assert_eq!(schedule.intended(acts.begins(3)) - schedule.intended(acts.begins(2)), 20 * 20_000);
        // The first record of the rush hour is due when it begins, and the next one 1/20 000 of a second later.
        assert_eq!(schedule.due(20_000), Duration::from_secs(4));
        assert_eq!(schedule.due(20_001).as_micros(), 4_000_050);
    }

    #[test]
    fn the_writer_is_killed_while_the_database_is_there() {
        let acts = Acts::new(5_000.0, 20_000.0, 0.5);
        assert_eq!(acts.at(acts.kill()), 3);
        assert_eq!(acts.at(Duration::ZERO), 0);
        assert_eq!(acts.at(acts.begins(2)), 2);
        assert_eq!(acts.end(), Duration::from_millis(19_500));
    }

    #[test]
    fn the_rush_hour_is_above_what_inserts_take_and_the_steady_rate_is_not() {
        assert_eq!([16_700.0, 1_000.0, 1e9].map(rush_hour), [27_000.0, 20_000.0, 60_000.0]);
        assert_eq!([16_700.0, 1_310.0, 10.0].map(steady), [5_000.0, 600.0, 100.0]);
    }
}
