//! A position in a log, as a user writes it.

use std::fmt;

use tidegate_protocol::position::Offset;

use super::show;
use crate::config::Start;
use crate::error::FatalError;
use crate::metrics::epoch_ms;

/// An offset, the beginning or the end of the log, or a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogPosition {
    At(Offset),
    Start(Start),
}

impl LogPosition {
    /// Refuses a time in the future. A position is resolved to an offset only once, so such a time would mean the present end
    /// of the log.
    pub(super) fn not_in_future(&self, option: &str) -> Result<(), FatalError> {
        match self {
            Self::Start(Start::Time(ms)) if *ms > epoch_ms() => Err(FatalError::Config(format!(
                "{option}: {self} is in the future: wait until then, or write `latest` for the current end of the log"
            ))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(offset) => write!(f, "{offset}"),
            Self::Start(Start::Earliest) => f.write_str("earliest"),
            Self::Start(Start::Latest) => f.write_str("latest"),
            Self::Start(Start::Committed) => f.write_str("committed"),
            Self::Start(Start::Time(ms)) => f.write_str(&show::time(*ms)),
        }
    }
}

impl std::str::FromStr for LogPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse::<u32>().map(i64::from).or_else(|_| text.parse::<i64>()) {
            return if offset < 0 {
                Err("an offset is 0 or more".to_owned())
            } else {
                Ok(Self::At(Offset::new(offset)))
            };
        }
        match text {
            "earliest" => Ok(Self::Start(Start::Earliest)),
            "latest" => Ok(Self::Start(Start::Latest)),
            _ => text.parse::<jiff::Timestamp>().map(|time| Self::Start(Start::Time(time.as_millisecond()))).map_err(
                |_| {
                    format!(
                        "{text:?} is not an offset; write a number, earliest, latest or a time such as 2026-01-31T12:00:00Z"
                    )
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_number_an_end_or_a_time() {
        assert_eq!("42".parse(), Ok(LogPosition::At(Offset::new(42))));
        assert_eq!("latest".parse(), Ok(LogPosition::Start(Start::Latest)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(LogPosition::Start(Start::Time(1000))));
        assert!("-1".parse::<LogPosition>().is_err());
        assert!("yesterday".parse::<LogPosition>().unwrap_err().contains("earliest"));
    }
}
