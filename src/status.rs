//! The status of pipelines and consumers, for `/readyz`, `/api/status` and the page. Poll loops update it at most
//! every 250 ms, and also after a rebalance. Writers update it after each commit and each batch, and before each
//! retry. The HTTP server reads it.

mod drain;
mod state;
mod trouble;
pub mod work;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tidegate_protocol::poll_loop::Message;
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::sync::mpsc::{OwnedPermit, Sender, WeakSender};
use work::Work;

pub use drain::Drain;
pub use state::{PartitionState, PipelineState};
pub use trouble::{Trouble, WaitCause};

/// The status of one consumer of a running pipeline: of its poll loop and its writer. Counts begin at the start of the pipeline.
#[derive(Debug)]
pub struct ConsumerStatus {
    /// The consumer's number within the pipeline and this process, from 0.
    pub number: u32,
    pub work: Work,
    pub drain: Drain,
    writer: Mutex<WriterState>,
    /// Since when the poll thread's records have waited for a schema registry that doesn't answer, and why it doesn't; `None` if
    /// no records wait.
    schemas: Mutex<Option<(Instant, Trouble)>>,
    partitions: Mutex<Vec<PartitionStatus>>,
    joined: AtomicBool,
    buffered_bytes: AtomicU64,
    rows: AtomicU64,
    dead_letters: AtomicU64,
    polled_at: Mutex<Instant>,
    stalls: Mutex<Vec<(TopicPartition, String)>>,
    poll_loop: OnceLock<WeakSender<Message>>,
}

/// Whether a consumer waits: its writer for Postgres, or its records for schemas. `since` is the beginning of the wait, and
/// `trouble` has the last error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterState {
    Flowing,
    Waiting {
        since: Instant,
        trouble: Trouble,
        /// The number of failed attempts to write; always 1 if the consumer waits for schemas.
        attempt: u32,
        /// The time of the next attempt; the current time if the consumer waits for schemas.
        retry_at: Instant,
    },
}

/// The status of one partition of a consumer. `next`, `committed`, `read_to` and `epoch` are `None` if the consumer doesn't own
/// the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub source: TopicPartition,
    pub state: PartitionState,
    /// The lowest offset that may still go into a batch.
    pub next: Option<Offset>,
    /// The partition's last known position in the ledger.
    pub committed: Option<Offset>,
    /// The offset up to which the log was read. The lag is counted from this offset, so offsets without records don't count.
    /// `None` while records of the partition are in the open batch or in flight.
    pub read_to: Option<Offset>,
    /// Whether the log counts as the one that the ledger describes. True if the log's record at the last committed offset was
    /// compared with the ledger, if no record was committed yet, or if the log seems to have no record at that offset
    /// any more.
    pub known: bool,
    pub epoch: Option<i64>,
    /// The log-loss condition that stopped the partition; `None` if it isn't stopped.
    pub condition: Option<String>,
    /// When the partition last made progress, by a granted claim, a record or a commit; the time of its assignment if there was
    /// none yet.
    pub progress_at: Instant,
}

impl PartitionStatus {
    pub fn new(source: TopicPartition, state: PartitionState, progress_at: Instant) -> Self {
        Self {
            source,
            state,
            next: None,
            committed: None,
            read_to: None,
            known: false,
            epoch: None,
            condition: None,
            progress_at,
        }
    }
}

impl ConsumerStatus {
    pub fn new(number: u32) -> Self {
        Self {
            number,
            work: Work::default(),
            drain: Drain::default(),
            writer: Mutex::new(WriterState::Flowing),
            schemas: Mutex::default(),
            partitions: Mutex::default(),
            joined: AtomicBool::new(false),
            buffered_bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            polled_at: Mutex::new(Instant::now()),
            stalls: Mutex::default(),
            poll_loop: OnceLock::new(),
        }
    }

    /// Notes that the writer has written a batch. Returns how long the writer waited for Postgres; `None` if it didn't wait.
    pub fn flowing(&self) -> Option<Duration> {
        match std::mem::replace(&mut *lock(&self.writer), WriterState::Flowing) {
            WriterState::Flowing => None,
            WriterState::Waiting { since, .. } => {
                self.work.note_wait("recovered", WaitCause::Postgres, "writes again".to_owned());
                Some(since.elapsed())
            }
        }
    }

    /// Notes that the writer waits for `delay` before it retries. `attempt` is the number of failures so far.
    pub fn waiting(&self, trouble: Trouble, attempt: u32, delay: Duration) {
        let now = Instant::now();
        let mut state = lock(&self.writer);
        let since = match &*state {
            WriterState::Waiting { since, .. } => *since,
            WriterState::Flowing => {
                self.work.note_wait("outage", trouble.cause, format!("waits: {trouble}"));
                now
            }
        };
        *state = WriterState::Waiting { since, trouble, attempt, retry_at: now + delay };
    }

    /// Notes whether the poll thread's records wait for a schema registry that doesn't answer. `trouble` says why it doesn't;
    /// `None` if no record waits, or the registry answers.
    pub fn waits_for_schema(&self, trouble: Option<Trouble>) {
        let mut state = lock(&self.schemas);
        *state = match (state.take(), trouble) {
            (before, Some(trouble)) => {
                if before.is_none() {
                    self.work.note_wait("outage", trouble.cause, format!("waits: {trouble}"));
                }
                Some((before.map_or_else(Instant::now, |(since, _)| since), trouble))
            }
            (Some((_, before)), None) => {
                self.work.note_wait("recovered", before.cause, "reads again".to_owned());
                None
            }
            (None, None) => None,
        };
    }

    /// Returns the activity of the whole consumer. The consumer counts as waiting if its writer waits for Postgres, or if its
    /// records wait for schemas.
    pub fn writer(&self) -> WriterState {
        let writer = lock(&self.writer).clone();
        match (&writer, &*lock(&self.schemas)) {
            (WriterState::Flowing, Some((since, trouble))) => {
                WriterState::Waiting { since: *since, trouble: trouble.clone(), attempt: 1, retry_at: Instant::now() }
            }
            _ => writer,
        }
    }

    pub fn committed(&self, rows: u64, dead_letters: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.dead_letters.fetch_add(dead_letters, Ordering::Relaxed);
    }

    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    pub fn publish(&self, partitions: Vec<PartitionStatus>, buffered_bytes: u64, now: Instant) {
        *lock(&self.partitions) = partitions;
        self.buffered_bytes.store(buffered_bytes, Ordering::Relaxed);
        *lock(&self.polled_at) = now;
    }

    pub fn partitions(&self) -> Vec<PartitionStatus> {
        lock(&self.partitions).clone()
    }

    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes.load(Ordering::Relaxed)
    }

    pub fn polled_at(&self) -> Instant {
        *lock(&self.polled_at)
    }

    /// Stores the watchdog's findings: which partitions make no progress, and why.
    pub fn publish_stalls(&self, stalls: Vec<(TopicPartition, String)>) {
        *lock(&self.stalls) = stalls;
    }

    pub fn stalls(&self) -> Vec<(TopicPartition, String)> {
        lock(&self.stalls).clone()
    }

    /// Stores the poll loop's inbox, for [`ConsumerStatus::inbox_place`].
    ///
    /// # Panics
    /// At a second call: a consumer has one poll loop.
    pub fn connect(&self, inbox: &Sender<Message>) {
        self.poll_loop.set(inbox.downgrade()).expect("a consumer has one poll loop");
    }

    /// Asks the poll loop to leave the group and join it again. `why` is the reason for the log. Does nothing if the inbox is
    /// full, or if the loop doesn't run.
    pub fn ask_rebuild(&self, why: &'static str) {
        // If the inbox is full, the loop probably hangs in a call. If the partition still makes no progress, the watchdog asks
        // again later.
        if let Some(place) = self.inbox_place() {
            place.send(Message::Rebuild(why));
        }
    }

    /// Reserves room for one message in the poll loop's inbox; `None` if the inbox is full, or the loop has not started or has
    /// ended.
    pub fn inbox_place(&self) -> Option<OwnedPermit<Message>> {
        self.poll_loop.get().and_then(WeakSender::upgrade)?.try_reserve_owned().ok()
    }

    /// Notes that the group has answered with an assignment, even an empty one.
    pub fn join(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    pub fn joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }
}

/// Locks a mutex, poisoned or not. A poisoned lock means that a thread panicked while it held the lock. The last value is still
/// usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
