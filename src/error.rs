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

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The configuration, with every fault.
    #[error("{0}")]
    Config(String),
    /// Kafka or Postgres, where a command can't wait for them.
    #[error("{0}")]
    Unavailable(String),
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
            Self::Stopped(_) => SOFTWARE,
        })
    }
}
