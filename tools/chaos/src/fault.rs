//! The faults, and how often each is drawn.

use std::fmt;
use std::time::Duration;

/// A fault, with the parameters that were drawn for it. `daemon` is a random number: modulo the number of running daemons, it is
/// the index of the daemon that the fault hits. `broker` is the index of one of the three brokers. The first word of a fault's
/// name says what happens:
///
/// - `Kill` and `Crash`: SIGKILL. A killed daemon is replaced; a crashed server is started again.
/// - `End`: SIGTERM. The daemon is replaced.
/// - `Stop` and `Pause`: SIGSTOP for `length`.
/// - `Cut`: all connections to the server are reset. They can be opened again at once.
/// - `Hold`: for `length`, the connections to the server stay open, but no data passes.
/// - `CutOne` and `HoldOne`: the same, but only the connections of one daemon to the database.
/// - `Lock`: another session holds a lock for `length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillDaemon {
        daemon: usize,
    },
    EndDaemon {
        daemon: usize,
    },
    /// Lasts 3 to 15 seconds. A daemon that stops for more than 6 seconds loses its partitions under the classic protocols,
    /// because 6 seconds is its session timeout.
    StopDaemon {
        daemon: usize,
        length: Duration,
    },
    /// Adds a daemon, or ends one by SIGTERM.
    ChangeDaemons {
        daemon: usize,
    },
    /// `pg_terminate_backend` for one backend of the daemons.
    TerminateBackend,
    /// `pg_cancel_backend` for all backends of the daemons.
    CancelBackends,
    CrashDatabase,
    RestartDatabase,
    PauseDatabase {
        length: Duration,
    },
    /// An older copy of the database replaces its data.
    RestoreDatabase,
    CrashBroker {
        broker: usize,
    },
    PauseBroker {
        broker: usize,
        length: Duration,
    },
    CutDatabase,
    HoldDatabase {
        length: Duration,
    },
    CutOne {
        daemon: usize,
    },
    /// The daemon still reaches Kafka, so it keeps its partitions.
    HoldOne {
        daemon: usize,
        length: Duration,
    },
    /// Postgres executes a COMMIT, but its reply is lost.
    LoseCommitReply {
        daemon: usize,
    },
    /// The connection is cut just before a COMMIT reaches Postgres.
    LoseCommit {
        daemon: usize,
    },
    CutBroker {
        broker: usize,
    },
    HoldBroker {
        broker: usize,
        length: Duration,
    },
    /// A partition is added, as long as the topic has fewer than 12.
    AddPartition,
    /// A column is added, retyped or dropped.
    AlterTable {
        step: usize,
    },
    LockTable {
        length: Duration,
    },
    LockLedger {
        length: Duration,
    },
}

/// A deck of cards from which faults are drawn. Each kind of fault has one or more cards. The seed determines how the deck is
/// shuffled. Only when all cards were drawn, the deck is shuffled again.
#[derive(Debug, Default)]
pub(crate) struct Deck {
    left: Vec<u32>,
}

/// The number of cards in the deck. The faults that take longest have few cards, so that a campaign has many faults.
const CARDS: u32 = 42;

impl Deck {
    pub(crate) fn draw(&mut self, random: &mut fastrand::Rng) -> Fault {
        if self.left.is_empty() {
            self.left = (0..CARDS).collect();
            random.shuffle(&mut self.left);
        }
        Fault::of(self.left.pop().unwrap_or_default(), random)
    }
}

impl Fault {
    fn of(card: u32, random: &mut fastrand::Rng) -> Self {
        let daemon = random.usize(..16);
        let broker = random.usize(..3);
        let mut seconds = |least: u64, most: u64| Duration::from_millis(random.u64(least * 1000..most * 1000));
        let (long, short) = (seconds(3, 15), seconds(1, 5));
        let step = random.usize(..4);
        match card {
            0..=3 => Self::KillDaemon { daemon },
            4..=5 => Self::EndDaemon { daemon },
            6..=7 => Self::StopDaemon { daemon, length: long },
            8..=10 => Self::ChangeDaemons { daemon },
            11..=12 => Self::TerminateBackend,
            13..=14 => Self::CancelBackends,
            15..=16 => Self::CrashDatabase,
            17 => Self::RestartDatabase,
            18 => Self::PauseDatabase { length: short },
            19..=20 => Self::RestoreDatabase,
            21 => Self::CrashBroker { broker },
            22 => Self::PauseBroker { broker, length: short },
            23 => Self::CutDatabase,
            24..=25 => Self::CutOne { daemon },
            26 => Self::HoldDatabase { length: short },
            27..=28 => Self::HoldOne { daemon, length: long },
            29..=31 => Self::LoseCommitReply { daemon },
            32..=33 => Self::LoseCommit { daemon },
            34..=35 => Self::CutBroker { broker },
            36 => Self::HoldBroker { broker, length: short },
            37 => Self::AddPartition,
            38..=39 => Self::AlterTable { step },
            40 => Self::LockTable { length: short },
            _ => Self::LockLedger { length: short },
        }
    }

    /// Returns whether no daemon can commit during the fault, because the database is unavailable or unreachable, or because the
    /// table or the ledger is locked. After such a fault, the campaign limits the time to the first commit.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::CrashDatabase
                | Self::RestartDatabase
                | Self::PauseDatabase { .. }
                | Self::RestoreDatabase
                | Self::CutDatabase
                | Self::HoldDatabase { .. }
                | Self::LockTable { .. }
                | Self::LockLedger { .. }
        )
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::KillDaemon { .. } => "daemon: kill -9",
            Self::EndDaemon { .. } => "daemon: SIGTERM",
            Self::StopDaemon { .. } => "daemon: SIGSTOP, SIGCONT",
            Self::ChangeDaemons { .. } => "daemon: one more or less",
            Self::TerminateBackend => "backend: terminated",
            Self::CancelBackends => "backends: cancelled",
            Self::CrashDatabase => "database: crash",
            Self::RestartDatabase => "database: restart",
            Self::PauseDatabase { .. } => "database: stands still",
            Self::RestoreDatabase => "database: older copy put back",
            Self::CrashBroker { .. } => "broker: crash",
            Self::PauseBroker { .. } => "broker: stands still",
            Self::CutDatabase => "network to database: cut",
            Self::HoldDatabase { .. } => "network to database: silent",
            Self::CutOne { .. } => "one daemon: database cut off",
            Self::HoldOne { .. } => "one daemon: database silent",
            Self::LoseCommitReply { .. } => "COMMIT: reply lost",
            Self::LoseCommit { .. } => "COMMIT: lost on its way",
            Self::CutBroker { .. } => "network to broker: cut",
            Self::HoldBroker { .. } => "network to broker: silent",
            Self::AddPartition => "topic: a partition more",
            Self::AlterTable { .. } => "table: altered",
            Self::LockTable { .. } => "table: locked",
            Self::LockLedger { .. } => "ledger: locked",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::KillDaemon { daemon }
            | Self::EndDaemon { daemon }
            | Self::ChangeDaemons { daemon }
            | Self::CutOne { daemon }
            | Self::LoseCommitReply { daemon }
            | Self::LoseCommit { daemon } => write!(f, " ({daemon})"),
            Self::StopDaemon { daemon, length } | Self::HoldOne { daemon, length } => {
                write!(f, " ({daemon}, {length:.1?})")
            }
            Self::CrashBroker { broker } | Self::CutBroker { broker } => write!(f, " ({broker})"),
            Self::PauseBroker { broker, length } | Self::HoldBroker { broker, length } => {
                write!(f, " ({broker}, {length:.1?})")
            }
            Self::PauseDatabase { length }
            | Self::HoldDatabase { length }
            | Self::LockTable { length }
            | Self::LockLedger { length } => write!(f, " ({length:.1?})"),
            Self::AlterTable { step } => write!(f, " (step {step})"),
            _ => Ok(()),
        }
    }
}
