//! What ends the process, and the exit code that says so.

use std::process::ExitCode;

/// Drained.
pub const DRAINED: u8 = 0;
/// Bad configuration or usage: `EX_USAGE` of `sysexits.h`.
pub const USAGE: u8 = 64;
/// A service can't be reached: `EX_UNAVAILABLE`.
pub const UNAVAILABLE: u8 = 69;
/// A fault that stopped the daemon: `EX_SOFTWARE`.
pub const SOFTWARE: u8 = 70;

/// It ended before all was written, and the next start goes on: `EX_TEMPFAIL`.
pub const UNFINISHED: u8 = 75;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The configuration, with every fault.
    #[error("{0}")]
    Config(String),
    /// Kafka or Postgres, where a command can't wait for them.
    #[error("{0}")]
    Unavailable(String),
    /// It was told to end, or gave up, before all was written: what is left.
    #[error("{0}")]
    Unfinished(String),
    /// Every pipeline stopped, or one did in a bounded run; or a fault of ours.
    #[error("{0}")]
    Stopped(String),
}

impl FatalError {
    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => USAGE,
            Self::Unavailable(_) => UNAVAILABLE,
            Self::Unfinished(_) => UNFINISHED,
            Self::Stopped(_) => SOFTWARE,
        })
    }
}
