//! The states of partitions and pipelines. Their names are part of the API: `/api/status`, `/readyz` and the metrics use them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a partition that the group assigned to a consumer: its claim isn't granted yet (`Claiming`), it is read and
/// written (`Owned`), another claim replaced ours (`Fenced`), or a log-loss condition stopped it (`Stopped`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    #[default]
    Claiming,
    Owned,
    Fenced,
    Stopped,
}

impl PartitionState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claiming => "claiming",
            Self::Owned => "owned",
            Self::Fenced => "fenced",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// The pipeline connects to Kafka and Postgres, and registers.
    #[default]
    Starting,
    Flowing,
    /// At least one of the pipeline's consumers waits for Postgres or for the schema registry.
    Waiting,
    /// Kafka doesn't serve the pipeline: for example, it doesn't answer, denies a request, or doesn't have a listed topic.
    WaitingForKafka,
    /// The pipeline writes what it has read, and then ends.
    Draining,
    /// The pipeline ended without an error, and wrote every record that it had read.
    Drained,
    /// The pipeline ended with an error that retrying can't remove.
    Stopped,
}

impl PipelineState {
    /// All states, in the order of their declaration: each is a value of the label `state` of the metric
    /// `tidegate_pipeline_state`.
    pub const ALL: [Self; Self::Stopped as usize + 1] = [
        Self::Starting,
        Self::Flowing,
        Self::Waiting,
        Self::WaitingForKafka,
        Self::Draining,
        Self::Drained,
        Self::Stopped,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Flowing => "flowing",
            Self::Waiting => "waiting",
            Self::WaitingForKafka => "waiting_for_kafka",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for PipelineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_word_in_json_in_labels_and_in_text() {
        for state in PipelineState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for state in [PartitionState::Claiming, PartitionState::Owned, PartitionState::Fenced, PartitionState::Stopped]
        {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
