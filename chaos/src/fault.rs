//! What can happen, and how often.

use std::fmt;
use std::time::Duration;

/// One fault, with everything that was drawn for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of a daemon, and another in its place.
    KillDaemon { daemon: usize },
    /// SIGTERM of a daemon, and another in its place.
    EndDaemon { daemon: usize },
    /// SIGSTOP of a daemon for so long, past its session.
    StopDaemon { daemon: usize, length: Duration },
    /// One daemon more, or one less.
    ChangeDaemons { daemon: usize },
    /// `pg_terminate_backend` of one of ours.
    TerminateBackend,
    /// `pg_cancel_backend` of all of ours.
    CancelBackends,
    /// The database crashes and starts again.
    CrashDatabase,
    /// The database restarts.
    RestartDatabase,
    /// The database's processes stand still.
    PauseDatabase { length: Duration },
    /// An older copy of the database is put back, as a restore does.
    RestoreDatabase,
    /// One of three brokers crashes and starts again.
    CrashBroker { broker: usize },
    /// One of three brokers stands still.
    PauseBroker { broker: usize, length: Duration },
    /// All connections to the database are cut.
    CutDatabase,
    /// The network to the database goes silent.
    HoldDatabase { length: Duration },
    /// A COMMIT is carried out and its reply lost.
    LoseCommitReply,
    /// A connection is lost just before COMMIT.
    LoseCommit,
    /// The network to a broker is cut.
    CutBroker { broker: usize },
    /// The network to a broker goes silent.
    HoldBroker { broker: usize, length: Duration },
    /// A partition more.
    AddPartition,
    /// A column is added, retyped or dropped.
    AlterTable { step: usize },
    /// Somebody locks the table.
    LockTable { length: Duration },
    /// Somebody locks the ledger.
    LockLedger { length: Duration },
}

impl Fault {
    /// Draws the next one.
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        let daemon = random.usize(..16);
        let broker = random.usize(..3);
        let mut seconds = |least: u64, most: u64| Duration::from_millis(random.u64(least * 1000..most * 1000));
        let (long, short) = (seconds(3, 15), seconds(1, 5));
        // Those that take longest come less often, so that a campaign sees many.
        match random.u32(..40) {
            0..=4 => Self::KillDaemon { daemon },
            5..=6 => Self::EndDaemon { daemon },
            7..=8 => Self::StopDaemon { daemon, length: long },
            9..=10 => Self::ChangeDaemons { daemon },
            11..=13 => Self::TerminateBackend,
            14..=15 => Self::CancelBackends,
            16..=17 => Self::CrashDatabase,
            18 => Self::RestartDatabase,
            19 => Self::PauseDatabase { length: short },
            20 => Self::RestoreDatabase,
            21 => Self::CrashBroker { broker },
            22 => Self::PauseBroker { broker, length: short },
            23..=25 => Self::CutDatabase,
            26 => Self::HoldDatabase { length: long },
            27..=29 => Self::LoseCommitReply,
            30..=31 => Self::LoseCommit,
            32..=33 => Self::CutBroker { broker },
            34 => Self::HoldBroker { broker, length: short },
            35 => Self::AddPartition,
            36 => Self::AlterTable { step: random.usize(..4) },
            37..=38 => Self::LockTable { length: short },
            _ => Self::LockLedger { length: short },
        }
    }

    /// Its name, for the tally.
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
            Self::LoseCommitReply => "COMMIT: reply lost",
            Self::LoseCommit => "COMMIT: lost on its way",
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
            Self::KillDaemon { daemon } | Self::EndDaemon { daemon } | Self::ChangeDaemons { daemon } => {
                write!(f, " ({daemon})")
            }
            Self::StopDaemon { daemon, length } => write!(f, " ({daemon}, {length:.1?})"),
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
