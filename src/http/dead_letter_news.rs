//! Decides which dead letters are news: the page has a sentence about these. After five minutes without dead letters, the next
//! ones are news for five minutes. If a small share of the records becomes dead letters for longer than that, the page only
//! counts these dead letters. If a large share does, the dead letters remain news. No I/O.

use std::collections::VecDeque;

use super::words::RecentDeadLetters;

/// The number of samples for which dead letters count as recent. There is one sample per second.
const SAMPLES: usize = 300;
/// If at least this share of the records becomes dead letters, these are always news: the page has a sentence about them,
/// however long they go on. The share is the number of dead letters divided by the number of rows and dead letters.
const MANY: f64 = 0.01;

/// The last samples of one pipeline's rows and dead letters.
#[derive(Debug, Default)]
pub(super) struct DeadLetterNews {
    /// Per sample, the numbers of rows and of dead letters since the pipeline's start. The newest sample is at the end.
    seen: VecDeque<(u64, u64)>,
    /// For how many calls of [`DeadLetterNews::take`] in a row there has been a recent dead letter: one within the [`SAMPLES`]
    /// samples before the call.
    lasted: usize,
}

impl DeadLetterNews {
    /// Adds a sample. Returns the dead letters of the last five minutes if the page must have a sentence about them.
    pub(super) fn take(&mut self, rows: u64, dead: u64) -> Option<RecentDeadLetters> {
        // The counters of a restarted pipeline begin at 0.
        if self.seen.back().is_some_and(|(rows_before, dead_before)| *rows_before > rows || *dead_before > dead) {
            *self = Self::default();
        }
        if self.seen.len() > SAMPLES {
            self.seen.pop_front();
        }
        self.seen.push_back((rows, dead));
        // With too few samples for five minutes, count from 0: all counters of a pipeline begin at 0.
        let (rows_before, dead_before) = if self.seen.len() > SAMPLES { self.seen[0] } else { (0, 0) };
        let (rows, count) = (rows - rows_before, dead - dead_before);
        if count == 0 {
            self.lasted = 0;
            return None;
        }
        self.lasted += 1;
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let share = count as f64 / (rows + count) as f64;
        (self.lasted <= SAMPLES || share >= MANY).then_some(RecentDeadLetters { count, share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dead_letter_is_news_for_five_minutes() {
        let mut samples = DeadLetterNews::default();
        assert_eq!(samples.take(1000, 0), None);
        assert_eq!(samples.take(1998, 2), Some(RecentDeadLetters { count: 2, share: 0.001 }));
        let news = (0..1000).take_while(|_| samples.take(2000, 2).is_some()).count();
        assert_eq!(news, SAMPLES - 1);
    }

    #[test]
    fn a_small_share_that_goes_on_is_no_news_after_five_minutes_and_is_again_after_a_quiet_time() {
        let mut samples = DeadLetterNews::default();
        // One dead letter per 2000 records.
        let news = (1..2000).take_while(|n| samples.take(n * 2000, *n).is_some()).count();
        assert_eq!(news, SAMPLES);
        (0..=SAMPLES).for_each(|_| assert_eq!(samples.take(4_000_000, 2000).filter(|news| news.count == 0), None));
        assert!(samples.take(4_002_000, 2001).is_some());
    }

    #[test]
    fn many_dead_letters_stay_news() {
        let mut samples = DeadLetterNews::default();
        assert!((1..2000).all(|n| samples.take(n * 98, n * 2).is_some()));
    }

    #[test]
    fn a_restart_counts_anew() {
        let mut samples = DeadLetterNews::default();
        assert!(samples.take(10, 5).is_some());
        assert_eq!(samples.take(0, 0), None);
    }
}
