//! `flow.max_rows_per_second`: a token bucket that all consumers of a pipeline share.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One call of [`RateLimit::take`] hands out at most the tokens that accumulate in this time, for example 20 at 1000 rows per
/// second; at 50 rows per second or fewer, one token. With a shorter time, rows would flow more evenly. With a longer one, poll
/// threads would lock the bucket less often.
const PORTION: Duration = Duration::from_millis(20);
/// The bucket has at most the tokens that accumulate in this time, for example 100 at 1000 rows per second; at 10 rows per second
/// or fewer, one token. So no large burst follows a pause.
const BURST_MAX: Duration = Duration::from_millis(100);

/// Limits the rows per second that all consumers of a pipeline take together.
#[derive(Debug)]
pub struct RateLimit {
    /// Rows per second; `None` means no limit.
    rate: Option<f64>,
    /// A poll thread locks this only when it has used up the tokens of its last [`RateLimit::take`].
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Option<Instant>,
}

impl RateLimit {
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            rate: rate.map(|rate| f64::from(rate.get())),
            bucket: Mutex::new(Bucket { tokens: 0.0, filled_at: None }),
        }
    }

    pub fn limits(&self) -> bool {
        self.rate.is_some()
    }

    /// Takes tokens from the bucket, at most those that accumulate in `PORTION`. Returns their number, which is how many rows may
    /// pass now. Returns `u64::MAX` if there is no limit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens are between 0 and the rate")]
    pub fn take(&self, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.duration_since(bucket.filled_at.unwrap_or(now)).as_secs_f64();
        let most = (rate * BURST_MAX.as_secs_f64()).max(1.0);
        bucket.tokens = (bucket.tokens + since * rate).min(most);
        bucket.filled_at = Some(now);
        let portion = (rate * PORTION.as_secs_f64()).max(1.0);
        let granted = bucket.tokens.min(portion).floor();
        bucket.tokens -= granted;
        granted as u64
    }

    /// Returns how long until a row may pass, at least 1 ms; zero without a limit.
    pub fn opens_in(&self, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.duration_since(bucket.filled_at.unwrap_or(now)).as_secs_f64();
        Duration::from_secs_f64(((1.0 - bucket.tokens - since * rate) / rate).max(0.0)).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(rate: u32, seconds: u64) -> Vec<u64> {
        let gate = RateLimit::new(NonZeroU32::new(rate));
        let start = Instant::now();
        (0..seconds)
            .map(|second| (0..1000).map(|ms| gate.take(start + Duration::from_millis(second * 1000 + ms))).sum())
            .collect()
    }

    #[test]
    fn the_rate_is_kept_within_two_percent_over_ten_seconds_and_is_smooth() {
        for rate in [7, 100, 5_000, 250_000] {
            let passed = pass(rate, 10);
            let (sum, expected) = (passed.iter().sum::<u64>() as f64, f64::from(rate) * 10.0);
            assert!((sum - expected).abs() <= (expected * 0.02).max(1.0), "{rate}: {sum}");
            for second in &passed[1..] {
                assert!(
                    (*second as f64 - f64::from(rate)).abs() <= (f64::from(rate) * 0.03).max(1.0),
                    "{rate}: {passed:?}"
                );
            }
        }
    }

    /// Poll threads ask at irregular times, but never so late that saved tokens are discarded.
    #[test]
    fn several_consumers_that_ask_at_odd_times_share_the_rate_exactly() {
        for (rate, seed) in [(50, 1), (2_000, 2), (100_000, 3)] {
            let gate = RateLimit::new(NonZeroU32::new(rate));
            let mut random = fastrand::Rng::with_seed(seed);
            let start = Instant::now();
            let mut asks = Vec::new();
            for _consumer in 0..3 {
                let mut at = Duration::ZERO;
                while at < Duration::from_secs(11) {
                    asks.push(at);
                    at += Duration::from_micros(random.u64(200..30_000));
                }
            }
            asks.sort_unstable();
            let mut by_second = [0u64; 11];
            for at in asks {
                by_second[usize::try_from(at.as_secs()).unwrap()] += gate.take(start + at);
            }
            let (sum, expected) = (by_second[1..].iter().sum::<u64>() as f64, f64::from(rate) * 10.0);
            assert!((sum - expected).abs() <= expected * 0.02, "{rate}: {sum} of {expected}");
            for second in &by_second[1..] {
                assert!((*second as f64 - f64::from(rate)).abs() <= f64::from(rate) * 0.1, "{rate}: {by_second:?}");
            }
        }
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let gate = RateLimit::new(NonZeroU32::new(1000));
        let start = Instant::now();
        gate.take(start);
        let later = start + Duration::from_secs(60);
        let burst: u64 = (0..100).map(|_| gate.take(later)).sum();
        assert!(burst <= 100, "{burst}");
    }

    #[test]
    fn what_is_there_passes_in_portions() {
        let gate = RateLimit::new(NonZeroU32::new(10_000));
        let start = Instant::now();
        assert_eq!(gate.take(start), 0);
        let portion = 10 * PORTION.as_millis();
        assert!(portion > 1 && PORTION < BURST_MAX);
        assert_eq!(u128::from(gate.take(start + BURST_MAX)), portion);
    }

    #[test]
    fn without_a_rate_everything_passes_at_once() {
        let (gate, now) = (RateLimit::new(None), Instant::now());
        assert_eq!((gate.limits(), gate.take(now), gate.opens_in(now)), (false, u64::MAX, Duration::ZERO));
        assert!(RateLimit::new(NonZeroU32::new(1)).limits());
    }

    #[test]
    fn it_says_when_the_next_record_may_pass() {
        let (gate, start) = (RateLimit::new(NonZeroU32::new(100)), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let opens_in = |ms: u64| gate.opens_in(at(ms)).as_secs_f64() * 1e3;
        assert_eq!(gate.take(start), 0);
        assert!(
            (opens_in(0) - 10.0).abs() < 0.01 && (opens_in(4) - 6.0).abs() < 0.01,
            "{} {}",
            opens_in(0),
            opens_in(4)
        );
        assert_eq!(gate.take(at(5)), 0);
        assert!((opens_in(5) - 5.0).abs() < 0.01, "half of a token is there: {}", opens_in(5));
        assert!((opens_in(30) - 1.0).abs() < 0.01, "nobody need ask more often than each millisecond");
        assert_eq!((gate.take(at(11)), gate.take(at(11))), (1, 0));
    }
}
