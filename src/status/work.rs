//! The work of a consumer and its writer: time by phase, batches, dead letters, events. The poll loop adds its times about every
//! 250 ms, after a rebalance, and when it leaves the group. The writer adds its times after each step, and reports each batch and
//! each dead letter. Events are added when they happen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_protocol::batch::Trigger;
use tidegate_protocol::position::{Offset, TopicPartition};

use super::{WaitCause, lock};
use crate::metrics::epoch_ms;

/// The number of batches from which medians are computed.
const RECENT_BATCHES: usize = 128;
/// How many dead letters per reason are kept with their positions: the newest ones.
const NEWEST: usize = 5;
/// The most events that wait for [`Work::take_events`]. If there are more, the oldest are dropped.
const EVENTS: usize = 100;
/// The longest text of an event, in bytes. The message of an error may be longer.
const EVENT_TEXT: usize = 300;

/// The phases of a consumer's time. The first three make up the time of the poll thread. The others are parts of the
/// writer's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePhase {
    Poll,
    Decode,
    /// The poll thread is held up by the writer, by `flow` or by a missing schema.
    Held,
    Copy,
    /// The update of the ledger, and COMMIT.
    Commit,
    /// The writer waits between two attempts to write.
    Outage,
}

const PHASES: usize = 6;

/// Why the poll thread takes no records from Kafka: the open batch is full while the writer is busy (`Full`),
/// `flow.max_rows_per_second` is used up (`Flow`), or a record's schema isn't known yet (`Schema`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    Full,
    Flow,
    Schema,
}

/// One consumer's work since the pipeline's start. The poll loop and the writer add to it, and the HTTP server reads it.
#[derive(Debug, Default)]
pub struct Work {
    micros: [AtomicU64; PHASES],
    /// The number of the current [`Hold`], counted from 1; 0 if records are taken.
    held: AtomicU64,
    batches: Mutex<Batches>,
    dead: Mutex<BTreeMap<&'static str, DeadLetters>>,
    events: Mutex<VecDeque<Event>>,
}

/// The batches that the writer has finished: their number by what closed them (a limit, a revoked partition, or the end of the
/// consumer), and the sizes and times of the last ones, the newest at the end.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    pub by_trigger: BTreeMap<&'static str, u64>,
    pub recent: VecDeque<BatchNote>,
}

#[derive(Clone, Copy, Debug)]
pub struct BatchNote {
    pub rows: u64,
    /// The size of the batch's encoded rows, in bytes.
    pub bytes: u64,
    /// The time from receiving the batch until the outcome of all its records was known, waits for Postgres included.
    pub took: Duration,
}

/// The dead letters of one reason since the pipeline's start: their number, and the positions in Kafka of the last ones, the
/// newest at the end. Their contents are never kept here, because they may be personal.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    pub count: u64,
    pub newest: VecDeque<DeadLetter>,
}

/// The origin of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub source: TopicPartition,
    pub offset: Offset,
    pub column: Option<Box<str>>,
    /// When the dead letter was committed, in milliseconds since the epoch.
    pub at_ms: i64,
}

/// An event for the timeline of the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at_ms: i64,
    /// One of `start`, `rebalance`, `outage`, `recovered`, `fenced`, `rewind`, `condition`, `stop`, `instance`, `reload`
    pub kind: &'static str,
    /// The system that a consumer begins to wait for (`outage`), or no longer waits for (`recovered`). `None` for all other
    /// kinds, and for waits of the whole pipeline: it can't start, or Kafka doesn't serve it.
    pub cause: Option<WaitCause>,
    pub text: String,
}

impl Event {
    /// Makes an event with the current time, and cuts its text as [`Event::cut`] does.
    pub fn now(kind: &'static str, text: String) -> Self {
        Self { at_ms: epoch_ms(), kind, cause: None, text }.cut()
    }

    /// Cuts a text of more than 300 bytes to at most 300 bytes and an ellipsis.
    #[must_use]
    pub fn cut(mut self) -> Self {
        if self.text.len() > EVENT_TEXT {
            let cut = (0..=EVENT_TEXT).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
            self.text.truncate(cut);
            self.text.push('…');
        }
        self
    }
}

impl Work {
    pub fn spent(&self, phase: TimePhase, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros[phase as usize].fetch_add(micros, Ordering::Relaxed);
    }

    /// Returns the seconds by phase since the start, in the order of [`TimePhase`].
    pub fn seconds(&self) -> [f64; PHASES] {
        let seconds = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed)).as_secs_f64();
        self.micros.each_ref().map(seconds)
    }

    /// Notes why the poll thread takes no records; `None` if it takes them.
    pub fn hold(&self, hold: Option<Hold>) {
        self.held.store(hold.map_or(0, |hold| hold as u64 + 1), Ordering::Relaxed);
    }

    pub fn held(&self) -> Option<Hold> {
        match self.held.load(Ordering::Relaxed) {
            1 => Some(Hold::Full),
            2 => Some(Hold::Flow),
            3 => Some(Hold::Schema),
            _ => None,
        }
    }

    pub fn batch(&self, trigger: Option<Trigger>, note: BatchNote) {
        let mut batches = lock(&self.batches);
        if let Some(trigger) = trigger {
            *batches.by_trigger.entry(trigger.label()).or_default() += 1;
        }
        if batches.recent.len() == RECENT_BATCHES {
            batches.recent.pop_front();
        }
        batches.recent.push_back(note);
    }

    pub fn batches(&self) -> Batches {
        lock(&self.batches).clone()
    }

    pub fn dead(&self, reason: &'static str, letter: DeadLetter) {
        let mut dead = lock(&self.dead);
        let of_reason = dead.entry(reason).or_default();
        of_reason.count += 1;
        if of_reason.newest.len() == NEWEST {
            of_reason.newest.pop_front();
        }
        of_reason.newest.push_back(letter);
    }

    pub fn dead_letters(&self) -> BTreeMap<&'static str, DeadLetters> {
        lock(&self.dead).clone()
    }

    pub fn note(&self, kind: &'static str, text: String) {
        self.push(Event::now(kind, text));
    }

    pub fn note_wait(&self, kind: &'static str, cause: WaitCause, text: String) {
        self.push(Event { cause: Some(cause), ..Event::now(kind, text) });
    }

    fn push(&self, event: Event) {
        let mut events = lock(&self.events);
        if events.len() == EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }

    pub fn take_events(&self) -> VecDeque<Event> {
        std::mem::take(&mut *lock(&self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_dead_letters_keep_their_place_and_all_are_counted() {
        let work = Work::default();
        for offset in 0..7 {
            let source = TopicPartition::new("telemetry", 0);
            work.dead("invalid_json", DeadLetter { source, offset: Offset::new(offset), column: None, at_ms: 0 });
        }
        let dead = work.dead_letters();
        assert_eq!(dead["invalid_json"].count, 7);
        let offsets: Vec<i64> = dead["invalid_json"].newest.iter().map(|letter| letter.offset.get()).collect();
        assert_eq!(offsets, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn an_events_text_is_cut_between_characters() {
        let event = Event::now("outage", "ä".repeat(400));
        assert!(event.text.len() <= EVENT_TEXT + '…'.len_utf8() && event.text.ends_with('…'));
    }

    #[test]
    fn events_are_taken_once_and_bounded() {
        let work = Work::default();
        (0..150).for_each(|n| work.note("rebalance", n.to_string()));
        let events = work.take_events();
        assert_eq!((events.len(), events[0].text.as_str()), (EVENTS, "50"));
        assert!(work.take_events().is_empty());
    }

    #[test]
    fn a_hold_is_said_until_it_ends() {
        let work = Work::default();
        work.hold(Some(Hold::Flow));
        assert_eq!(work.held(), Some(Hold::Flow));
        work.hold(Some(Hold::Full));
        assert_eq!(work.held(), Some(Hold::Full));
        work.hold(None);
        assert_eq!(work.held(), None);
    }
}
