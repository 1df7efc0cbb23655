//! What the daemon knows of itself, for `/readyz`, `/api/status` and the page. Written by the rooms that do the work, at most
//! a few times a batch; read by the HTTP room.

mod drain;
mod state;
mod trouble;
pub mod work;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tidegate_protocol::poll_loop::Message;
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::sync::mpsc::{Sender, WeakSender};
use work::Work;

pub use drain::Drain;
pub use state::{PartitionState, PipelineState};
pub use trouble::{Trouble, WaitCause};

/// Why the watchdog has a consumer join the group again.
const NO_PROGRESS: &str = "a partition with lag makes no progress";

/// One consumer and its writer.
#[derive(Debug)]
pub struct ConsumerStatus {
    /// Its number within the pipeline and this process, from 0.
    pub number: u32,
    /// What it did.
    pub work: Work,
    /// What its drain left unwritten.
    pub drain: Drain,
    writer: Mutex<WriterState>,
    /// Since when, and why, records wait for their schemas.
    schemas: Mutex<Option<(Instant, Trouble)>>,
    partitions: Mutex<Vec<PartitionStatus>>,
    joined: AtomicBool,
    buffered_bytes: AtomicU64,
    rows: AtomicU64,
    dead_letters: AtomicU64,
    polled_at: Mutex<Instant>,
    stalls: Mutex<Vec<(TopicPartition, String)>>,
    /// To the poll loop, once it runs.
    poll_loop: OnceLock<WeakSender<Message>>,
}

/// What a consumer is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// The last batch went in, or none has come yet.
    Flowing,
    /// Its writer waits for Postgres, or its records wait for schemas.
    Waiting {
        /// When the wait began.
        since: Instant,
        /// What it waits for, with the last error.
        trouble: Trouble,
        /// Failures so far.
        attempt: u32,
        /// When it tries again.
        retry_at: Instant,
    },
}

/// One partition of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub source: TopicPartition,
    /// Its state.
    pub state: PartitionState,
    /// The next offset to deliver.
    pub next: Option<Offset>,
    /// What the ledger is known to say.
    pub committed: Option<Offset>,
    /// Up to where the log was read, with nothing open or in flight: the ledger stands for all of it.
    pub read_to: Option<Offset>,
    /// Whether the log was held against the last committed record, or has that record no more.
    pub known: bool,
    /// The claim's number.
    pub epoch: Option<i64>,
    /// Why it is stopped.
    pub condition: Option<String>,
    /// When it last made progress.
    pub progress_at: Instant,
}

impl PartitionStatus {
    /// A partition in this state, of which nothing else is known.
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
    /// Nothing known yet.
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

    /// The writer wrote. Returns how long it had waited for Postgres, if it had.
    pub fn flowing(&self) -> Option<Duration> {
        match std::mem::replace(&mut *lock(&self.writer), WriterState::Flowing) {
            WriterState::Flowing => None,
            WriterState::Waiting { since, .. } => {
                let waited = since.elapsed();
                let seconds = waited.as_secs_f64();
                self.work.note("recovered", format!("c{} writes again after {seconds:.1} s", self.number));
                Some(waited)
            }
        }
    }

    /// The writer waits for `delay` after so many failures.
    pub fn waiting(&self, trouble: Trouble, attempt: u32, delay: Duration) {
        let now = Instant::now();
        let mut state = lock(&self.writer);
        let since = match &*state {
            WriterState::Waiting { since, .. } => *since,
            WriterState::Flowing => {
                self.work.note("outage", format!("c{} waits: {trouble}", self.number));
                now
            }
        };
        *state = WriterState::Waiting { since, trouble, attempt, retry_at: now + delay };
    }

    /// The poll thread says whether its records wait for a schema registry that gives no answer, and why.
    pub fn waits_for_schema(&self, trouble: Option<Trouble>) {
        let mut state = lock(&self.schemas);
        *state = match (state.take(), trouble) {
            (before, Some(trouble)) => {
                if before.is_none() {
                    self.work.note("outage", format!("c{} waits: {trouble}", self.number));
                }
                Some((before.map_or_else(Instant::now, |(since, _)| since), trouble))
            }
            (Some((since, _)), None) => {
                let seconds = since.elapsed().as_secs_f64();
                self.work.note("recovered", format!("c{} reads again after {seconds:.1} s", self.number));
                None
            }
            (None, None) => None,
        };
    }

    /// What the consumer as a whole is at: it waits where its writer does, and where its records wait for schemas.
    pub fn writer(&self) -> WriterState {
        let writer = lock(&self.writer).clone();
        match (&writer, &*lock(&self.schemas)) {
            (WriterState::Flowing, Some((since, trouble))) => {
                WriterState::Waiting { since: *since, trouble: trouble.clone(), attempt: 1, retry_at: Instant::now() }
            }
            _ => writer,
        }
    }

    /// Counts what was committed.
    pub fn committed(&self, rows: u64, dead_letters: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.dead_letters.fetch_add(dead_letters, Ordering::Relaxed);
    }

    /// Rows committed since the start.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Dead letters committed since the start.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// The poll thread says what it holds.
    pub fn publish(&self, partitions: Vec<PartitionStatus>, buffered_bytes: u64, now: Instant) {
        *lock(&self.partitions) = partitions;
        self.buffered_bytes.store(buffered_bytes, Ordering::Relaxed);
        *lock(&self.polled_at) = now;
    }

    /// What the poll thread said last.
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        lock(&self.partitions).clone()
    }

    /// Bytes in the open batch.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes.load(Ordering::Relaxed)
    }

    /// When the poll thread was last seen at work.
    pub fn polled_at(&self) -> Instant {
        *lock(&self.polled_at)
    }

    /// The watchdog says which partitions make no progress, and why.
    pub fn publish_stalls(&self, stalls: Vec<(TopicPartition, String)>) {
        *lock(&self.stalls) = stalls;
    }

    /// What the watchdog said last.
    pub fn stalls(&self) -> Vec<(TopicPartition, String)> {
        lock(&self.stalls).clone()
    }

    /// Takes the poll loop's inbox, for [`ConsumerStatus::ask_rebuild`].
    ///
    /// # Panics
    /// At a second call: a consumer has one poll loop.
    pub fn connect(&self, inbox: &Sender<Message>) {
        self.poll_loop.set(inbox.downgrade()).expect("a consumer has one poll loop");
    }

    /// Asks the poll loop to leave the group and join it again.
    pub fn ask_rebuild(&self) {
        let inbox = self.poll_loop.get().and_then(WeakSender::upgrade);
        // A full inbox belongs to a loop that stands still: the watchdog asks again.
        let _asked = inbox.is_some_and(|inbox| inbox.try_send(Message::Rebuild(NO_PROGRESS)).is_ok());
    }

    /// The group answered: partitions were given, be it none.
    pub fn join(&self) {
        self.joined.store(true, Ordering::Relaxed);
    }

    /// Whether the group has answered yet.
    pub fn joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }
}

/// A poisoned lock means that a thread panicked, which ends the daemon; until then its last word is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
