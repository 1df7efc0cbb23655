//! The state that a run shares: the random source, Kafka, Postgres, the planted bug, and the first violation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_protocol::position::{ClaimId, TopicPartition};
use tidegate_protocol::retry::Severity;
use tidegate_protocol::store::{LedgerRow, PostgresError};
use tokio::time::Instant;

use crate::kafka::{Kafka, Place, index};
use crate::oracle;
use crate::postgres::{Op, Outage, Progress, Reply, Server, error};

/// The bugs that can be planted. The simulation must find each of them, except for `SettleSaysDone` and
/// `UnknownCommitTakenAsFailed`, which the ledger corrects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    AdvanceIgnoresClaim,
    AdvanceIgnoresFrom,
    AdvanceTakesNoLock,
    AdvanceDoesNotLookAgain,
    AdvanceSaysAllMoved,
    LedgerOutsideTransaction,
    LedgerMovesTooFar,
    DeadLettersOutsideTransaction,
    FailedCopyLeavesRows,
    SettleSaysDone,
    SettleSaysAgain,
    ClaimWritesNoId,
    UnknownCommitTakenAsFailed,
    DroppedSegmentsAreCopied,
    GoodRecordSetAside,
    RecordSkipped,
    FetchFromTheEnd,
    AckLost,
    LogNotVerified,
    RetentionUnseen,
    LedgerUnseen,
    /// Records that were fetched before a partition was stopped are offered afterwards.
    StaleBulk,
}

/// How a statement or its reply can fail. `…Before`: the statement never arrives. `…After`: it is executed, but the reply never
/// arrives. `Cut…`: the connection is cut, and the client gets an error at once. `Silent…`: the client waits until its own
/// deadline. `Refused` is an error of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    CutBefore,
    SilentBefore,
    Refused(Severity, &'static str),
    CutAfter,
    SilentAfter,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dice: Rng,
    pub(crate) kafka: Kafka,
    pub(crate) server: Server,
    pub(crate) bug: Option<Bug>,
    pub(crate) policy: OffsetLossPolicy,
    /// How many of 1000 statements fail, each in one of the ways that [`Trouble`] lists.
    pub(crate) trouble: u32,
    pub(crate) violation: Option<String>,
    pub(crate) stops: Vec<String>,
    pub(crate) catalog_changes: u32,
    /// Whether this is a replay, which prints most events and the last state of each daemon.
    pub(crate) verbose: bool,
    pub(crate) notes: BTreeMap<u64, String>,
    pub(crate) events: BTreeMap<&'static str, u64>,
    claims: u128,
    started: Instant,
}

impl World {
    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// If `TIDEGATE_SEED` repeats one seed, prints the text that `what` returns, with the time since the start.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>9.3} {}", self.started.elapsed().as_secs_f64(), what());
        }
    }

    pub(crate) fn new_claim(&mut self) -> ClaimId {
        self.claims += 1;
        ClaimId::from_u128(self.claims)
    }

    pub(crate) fn chance(&mut self, per_cent: u32) -> bool {
        self.dice.u32(0..100) < per_cent
    }

    pub(crate) fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.u64(range))
    }

    pub(crate) fn draw_trouble(&mut self) -> Trouble {
        if self.dice.u32(0..1000) >= self.trouble {
            return Trouble::None;
        }
        match self.dice.u8(0..12) {
            0 | 1 => Trouble::CutBefore,
            2 => Trouble::SilentBefore,
            3..=5 => Trouble::CutAfter,
            6 => Trouble::SilentAfter,
            7 => Trouble::Refused(Severity::Error, "40001"),
            8 => Trouble::Refused(Severity::Error, "53100"),
            9 | 10 => Trouble::Refused(Severity::Error, "57014"),
            _ => Trouble::Refused(Severity::Fatal, "57P01"),
        }
    }

    /// Executes one statement, or returns `Pending` if it waits for a lock. The oracle checks the database after a COMMIT, and
    /// after a statement that changes the ledger because of a log-loss condition.
    pub(crate) fn execute(
        &mut self,
        backend: u64,
        op: &Op,
        progress: &mut Progress,
        trouble: Trouble,
    ) -> Poll<Result<Reply, PostgresError>> {
        if let Trouble::Refused(severity, sqlstate) = trouble {
            match severity {
                Severity::Error => self.server.fail(backend),
                _ => self.server.end(backend),
            }
            if matches!(op, Op::Commit) {
                self.server.end(backend);
            }
            return Poll::Ready(Err(error(severity, sqlstate, None)));
        }
        if matches!(op, Op::Commit) {
            oracle::before_commit(self, backend);
        }
        let stepped = match op {
            Op::StepOver { partition, .. } => self.server.data.ledger[*partition].clone(),
            _ => None,
        };
        let dice = &mut self.dice;
        let hint = |row: u32| match dice.u8(0..4) {
            0 => None,
            1 => Some(dice.u32(0..row + 3)),
            _ => Some(row),
        };
        let outcome = self.server.run(backend, op, progress, hint, self.bug);
        if let Poll::Ready(outcome) = &outcome {
            self.trace(|| format!("       server {backend}: {op:?}: {outcome:?}"));
        }
        if let (Op::StepOver { to, log, .. }, Some(cell), Poll::Ready(Ok(Reply::Stepped(Some(_))))) =
            (op, stepped, &outcome)
        {
            let from = if cell.log == *log { index(cell.next) } else { 0 };
            self.excuse(*log, from, index(*to));
            // The topic may have been recreated between the requests for the two ends of its log. The ledger may then be at an
            // offset that the new log doesn't have yet, so that future records are skipped. Only Kafka's topic ids would reveal
            // this.
            let log = &mut self.kafka.logs[*log];
            log.excused_to = log.excused_to.max(index(*to));
        }
        if matches!(op, Op::Commit | Op::StepOver { .. } | Op::InsertRows(_)) {
            oracle::audit(self);
        }
        outcome
    }

    pub(crate) fn ledger_rows(&self) -> Option<Vec<(TopicPartition, LedgerRow)>> {
        let rows = self.kafka.sources.iter().zip(&self.server.data.ledger).map(|(source, cell)| {
            let row =
                cell.as_ref().map(|cell| LedgerRow::Found { claim: cell.claim, epoch: cell.epoch, next: cell.next });
            (source.clone(), row.unwrap_or(LedgerRow::Missing))
        });
        (self.server.outage != Some(Outage::Down)).then(|| rows.collect())
    }

    pub(crate) fn partition_of_log(&self, log: usize) -> usize {
        self.kafka.logs[log].partition
    }

    /// Excuses records, which then need not be in the table: a policy skipped them, or they can't be checked because the log
    /// can't be identified.
    pub(crate) fn excuse(&mut self, log: usize, from: usize, to: usize) {
        let places = &mut self.kafka.logs[log].places;
        let to = to.min(places.len());
        for place in places.get_mut(from..to).unwrap_or_default() {
            if matches!(place, Place::Live(_)) {
                *place = Place::Excused;
            }
        }
    }
}

/// A run's world, shared by all its tasks. They run on one thread, so the lock is never contended.
#[derive(Debug)]
pub(crate) struct Sim {
    world: Mutex<World>,
}

impl Sim {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Arc<Self> {
        let mut dice = Rng::with_seed(seed);
        let partitions = dice.usize(1..=4);
        let policy = [OffsetLossPolicy::Fail, OffsetLossPolicy::Earliest, OffsetLossPolicy::Latest][dice.usize(0..3)];
        let trouble = [0, 0, 15, 50][dice.usize(0..4)];
        let world = World {
            kafka: Kafka::new(partitions),
            server: Server::new(partitions),
            bug,
            policy,
            trouble,
            violation: None,
            stops: Vec::new(),
            catalog_changes: 0,
            verbose: std::env::var_os("TIDEGATE_SEED").is_some(),
            notes: BTreeMap::new(),
            events: BTreeMap::new(),
            claims: 0,
            started: Instant::now(),
            dice,
        };
        Arc::new(Self { world: Mutex::new(world) })
    }

    pub(crate) fn w(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
