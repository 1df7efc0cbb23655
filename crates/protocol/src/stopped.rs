//! Why a pipeline stops: problems that waiting doesn't resolve, or that a command doesn't wait for.

use std::error::Error;

use crate::partition::LossCondition;
use crate::position::TopicPartition;
use crate::store::WriteError;

/// Why a pipeline stopped. The stop itself loses nothing: records that aren't committed are read again after the next start.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// Kafka's log and the ledger disagree, and `on_offset_loss` is `fail`.
    #[error("{partition}: {condition}")]
    LogLoss { partition: TopicPartition, condition: LossCondition },
    /// Postgres refuses a request for a reason that waiting doesn't resolve.
    #[error("{0}")]
    Refused(#[source] Box<WriteError>),
    /// Postgres is unavailable, and the writer was told not to wait.
    #[error("{0}")]
    Outage(#[source] Box<WriteError>),
    #[error("{0}; Postgres refuses the batch, but accepts each of its records alone")]
    NoRecordAlone(#[source] Box<WriteError>),
    /// An error seemed to come from an outdated plan (see [`Planner`](crate::store::Planner)). A new plan was
    /// made, and the write fails with the same error again.
    #[error("{0}, even after the catalog was read again")]
    ReplanDidNotHelp(#[source] Box<WriteError>),
    /// The table is missing, was replaced by another one, no longer matches the mapping, or can't be changed as the
    /// records require.
    #[error("{0}")]
    Unplannable(String),
    #[error("{0}")]
    DeadLetterBudget(String),
    #[error("Kafka ended this consumer permanently: {0}")]
    Kafka(#[source] Box<dyn Error + Send + Sync>),
    /// The pipeline can't start, and waiting doesn't help.
    #[error("{0}")]
    Start(#[source] Box<dyn Error + Send + Sync>),
    /// The configuration turned out to be invalid when it was used.
    #[error("{0}")]
    Configuration(String),
    #[error("a bug of Tidegate, please report it: {0}")]
    Bug(String),
}
