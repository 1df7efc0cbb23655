//! The errors that end the process, and their exit codes.

pub const DRAINED: u8 = 0;
/// Bad configuration or usage: `EX_USAGE` of `sysexits.h`.
pub const USAGE: u8 = 64;
/// A service can't be reached: `EX_UNAVAILABLE`.
pub const UNAVAILABLE: u8 = 69;
/// A fault stopped the daemon or a command: `EX_SOFTWARE`.
pub const SOFTWARE: u8 = 70;

/// The process ended before all records were written, and the next start continues: `EX_TEMPFAIL`.
pub const UNFINISHED: u8 = 75;

#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The configuration or the usage is wrong, or doesn't fit the database or Kafka. The text says what is wrong.
    #[error("{0}")]
    Config(String),
    /// A service, such as Kafka or Postgres, can't be reached, and the command doesn't wait any longer.
    #[error("{0}")]
    Unavailable(String),
    /// The process ended before all records were written. The text says what is left.
    #[error("{0}")]
    Unfinished(String),
    /// Postgres refused a statement, and a retry would be refused too.
    #[error("{text}")]
    Refused { text: String, sqlstate: String },
    /// A pipeline stopped, a command found faults or couldn't finish its work, or Tidegate has a bug.
    #[error("{0}")]
    Stopped(String),
}

impl FatalError {
    pub fn bug(error: impl std::fmt::Display) -> Self {
        Self::Stopped(format!("a bug of Tidegate, please report it: {error}"))
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => USAGE,
            Self::Unavailable(_) => UNAVAILABLE,
            Self::Unfinished(_) => UNFINISHED,
            // Class 42: for example, a table is missing, or the role lacks a right. Class 3D: the database doesn't exist.
            Self::Refused { sqlstate, .. } if matches!(sqlstate.get(..2), Some("42" | "3D")) => USAGE,
            Self::Refused { .. } | Self::Stopped(_) => SOFTWARE,
        }
    }

    pub fn is_missing_right(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == "42501")
    }
}
