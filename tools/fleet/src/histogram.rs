//! Durations counted in buckets of at most 1/64 relative width, from a microsecond up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets for each doubling.
const FINE: u64 = 64;
const FINE_BITS: u32 = FINE.ilog2();
/// Up to 2^42 µs, or 50 days; what lasts longer counts in the last.
const BUCKETS: usize = 37 * 64;

/// Counts without a lock, so that a delivery callback can share it. 19 kB.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<AtomicU64>,
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, max_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.max_us.fetch_max(micros, Ordering::Relaxed);
    }

    /// The duration that `share` of all recorded ones do not exceed, up to 1.6 % too long; none
    /// when nothing was recorded.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let mut seen = 0;
        for (bucket, count) in counts.into_iter().enumerate() {
            seen += count;
            if seen > 0 && seen as f64 >= share * total as f64 {
                let max = self.max_us.load(Ordering::Relaxed);
                return Some(Duration::from_micros(end(bucket as u64).min(max)));
            }
        }
        None
    }

    /// The longest, exactly; zero when nothing was recorded.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us.load(Ordering::Relaxed))
    }
}

fn bucket(micros: u64) -> usize {
    if micros < FINE {
        return (micros % FINE) as usize;
    }
    let doubling = micros.ilog2() - FINE_BITS;
    let within = (micros >> doubling) % FINE;
    let bucket = (u64::from(doubling) + 1) * FINE + within;
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// The longest duration of a bucket, in microseconds.
fn end(bucket: u64) -> u64 {
    match (bucket / FINE).checked_sub(1) {
        None => bucket,
        Some(doubling) => ((FINE + bucket % FINE + 1) << doubling) - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_ends_close_above_what_it_holds(micros in 0u64..1 << 42, shift in 0u32..42) {
            let micros = micros >> shift;
            let end = end(bucket(micros) as u64);
            prop_assert!(end >= micros && end - micros <= micros / 64, "{micros} up to {end}");
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_list(mut list in prop::collection::vec(0u64..10_000_000, 1..500)) {
            let histogram = Histogram::default();
            list.iter().for_each(|&micros| histogram.record(Duration::from_micros(micros)));
            list.sort_unstable();
            let median = list[list.len().div_ceil(2) - 1];
            let found = histogram.quantile(0.5).expect("not empty");
            let within = Duration::from_micros(median)..=Duration::from_micros(median + median / 64);
            prop_assert!(within.contains(&found));
            prop_assert_eq!(histogram.max(), Duration::from_micros(list[list.len() - 1]));
            prop_assert_eq!(histogram.quantile(1.0), Some(histogram.max()));
        }
    }

    #[test]
    fn an_empty_one_has_no_quantiles() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().max(), Duration::ZERO);
    }

    #[test]
    fn what_lasts_too_long_is_counted_all_the_same() {
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert!(histogram.quantile(0.99).is_some());
    }
}
