//! Computes the flush deadline, which is the age at which a batch must be closed. No I/O.
//!
//! `batch.max_age` limits how old a record is when its row is committed. So a batch must be closed earlier, by the expected
//! duration of its write. For example, with a `max_age` of 500 ms and writes of always 80 ms, a batch is closed after 420 ms. The
//! duration is estimated by a moving mean and a moving mean deviation, as round-trip times are in RFC 6298, section 2.

use std::time::Duration;

/// An estimate of how long the next write takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlushDeadline {
    seen: bool,
    mean: Duration,
    deviation: Duration,
}

impl FlushDeadline {
    /// Adds a sample: a batch was acknowledged this long after it was closed. A sample counts as at most half of `max_age`, so
    /// that a long outage doesn't distort the estimate.
    pub fn took(&mut self, sample: Duration, max_age: Duration) {
        let sample = sample.min(max_age / 2);
        if self.seen {
            self.deviation = (self.deviation * 3 + self.mean.abs_diff(sample)) / 4;
            self.mean = (self.mean * 7 + sample) / 8;
        } else {
            (self.seen, self.mean, self.deviation) = (true, sample, sample / 2);
        }
    }

    /// Returns the age at which a batch must be closed: `max_age` minus the mean and twice the deviation. Except: never less than
    /// half of `max_age`, because a slow database needs larger batches, not smaller ones.
    pub fn close_at(&self, max_age: Duration) -> Duration {
        max_age - (self.mean + self.deviation * 2).min(max_age / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_AGE: Duration = Duration::from_millis(200);

    #[test]
    fn an_even_write_time_is_taken_off_the_age() {
        let mut time = FlushDeadline::default();
        assert_eq!(time.close_at(MAX_AGE), MAX_AGE);
        for _ in 0..50 {
            time.took(Duration::from_millis(20), MAX_AGE);
        }
        let off = MAX_AGE - time.close_at(MAX_AGE);
        assert!((20..=22).contains(&off.as_millis()), "{off:?}");
    }

    #[test]
    fn an_outage_is_forgotten_within_thirty_batches() {
        let mut time = FlushDeadline::default();
        time.took(Duration::from_secs(600), MAX_AGE);
        assert_eq!(time.close_at(MAX_AGE), MAX_AGE / 2);
        for _ in 0..30 {
            time.took(Duration::from_millis(5), MAX_AGE);
        }
        assert!(time.close_at(MAX_AGE) > Duration::from_millis(170), "{time:?}");
    }

    #[test]
    fn mean_and_deviation_move_as_rfc_6298_has_them() {
        let max_age = Duration::from_millis(1000);
        let mut time = FlushDeadline::default();
        time.took(Duration::from_millis(40), max_age);
        assert_eq!(time.close_at(max_age), Duration::from_millis(1000 - (40 + 2 * 20)));
        time.took(Duration::from_millis(80), max_age);
        assert_eq!(time.close_at(max_age), Duration::from_millis(1000 - (45 + 2 * 25)));
        time.took(Duration::from_millis(700), max_age);
        assert!(time.mean < Duration::from_millis(102), "more than half of the age counts as half: {time:?}");
    }

    proptest! {
        #[test]
        fn a_batch_closes_between_half_its_age_and_its_age(samples in prop::collection::vec(0_u64..10_000, 0..30), age in 1_u64..100_000) {
            let max_age = Duration::from_micros(age);
            let mut time = FlushDeadline::default();
            for sample in samples {
                time.took(Duration::from_micros(sample), max_age);
            }
            let close_at = time.close_at(max_age);
            prop_assert!(close_at >= max_age / 2 && close_at <= max_age, "{close_at:?} of {max_age:?}");
        }
    }
}
