//! Limits log lines that would come again and again. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A line is logged only once within this time.
pub const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// The most lines that are remembered in order not to repeat them.
const LINES_MAX: usize = 256;

/// The lines that were logged.
#[derive(Debug, Default)]
pub struct Repeats(HashMap<String, Line>);

#[derive(Debug)]
struct Line {
    said_at: Instant,
    /// How often the line came since then without being logged.
    held_back: u32,
}

impl Repeats {
    /// Takes a line. Returns `None` if it must not be logged now. Otherwise returns how often it was held back since it
    /// was last logged.
    pub fn take(&mut self, key: String, now: Instant) -> Option<u32> {
        if self.0.len() >= LINES_MAX {
            self.0.retain(|_, line| now.duration_since(line.said_at) < REPEAT_AFTER);
        }
        let held_back = match self.0.get_mut(&key) {
            Some(line) if now.duration_since(line.said_at) < REPEAT_AFTER => {
                line.held_back = line.held_back.saturating_add(1);
                return None;
            }
            Some(line) => line.held_back,
            None => 0,
        };
        self.0.insert(key, Line { said_at: now, held_back: 0 });
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
}
