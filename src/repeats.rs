//! Limits how often the same log line is written. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The default time within which a line is logged only once.
pub const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// When this many lines are remembered, those that may be logged again are forgotten.
const LINES_MAX: usize = 256;

#[derive(Debug)]
pub struct Repeats {
    after: Duration,
    lines: HashMap<String, Line>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self::every(REPEAT_AFTER)
    }
}

#[derive(Debug)]
struct Line {
    said_at: Instant,
    /// How many times the line was suppressed since `said_at`.
    held_back: u32,
}

impl Repeats {
    /// Makes a limiter that lets the same line through once within this time.
    pub fn every(after: Duration) -> Self {
        Self { after, lines: HashMap::new() }
    }

    /// Decides whether the line that `key` identifies is logged at the time `now`. Returns `None` if it must not be logged.
    /// Otherwise returns how many times the line was suppressed since it was last logged.
    pub fn take(&mut self, key: String, now: Instant) -> Option<u32> {
        let after = self.after;
        if self.lines.len() >= LINES_MAX {
            self.lines.retain(|_, line| now.duration_since(line.said_at) < after);
        }
        let held_back = match self.lines.get_mut(&key) {
            Some(line) if now.duration_since(line.said_at) < after => {
                line.held_back = line.held_back.saturating_add(1);
                return None;
            }
            Some(line) => line.held_back,
            None => 0,
        };
        self.lines.insert(key, Line { said_at: now, held_back: 0 });
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_logged_once_per_minute_with_the_number_of_its_repetitions() {
        let (mut logged, start) = (Repeats::default(), Instant::now());
        let mut take = |key: &str, seconds| logged.take(key.to_owned(), start + Duration::from_secs(seconds));
        assert_eq!(take("lat", 0), Some(0));
        assert_eq!(take("lat", 1), None);
        assert_eq!(take("lon", 1), Some(0));
        assert_eq!(take("", 1), Some(0));
        assert_eq!(take("lat", 59), None);
        assert_eq!(take("lat", 60), Some(2));
        assert_eq!(take("lat", 119), None);
        assert_eq!(take("lat", 120), Some(1));
    }

    #[test]
    fn the_time_between_two_lines_may_be_another_one() {
        let (mut logged, start) = (Repeats::every(Duration::from_secs(3600)), Instant::now());
        let mut take = |seconds| logged.take("lat".to_owned(), start + Duration::from_secs(seconds));
        assert_eq!(take(0), Some(0));
        assert_eq!((take(60), take(3599)), (None, None));
        assert_eq!(take(3600), Some(2));
    }
}
