//! Starts a pipeline: connects to Postgres and Kafka, migrates schema `tidegate`, makes a plan, and registers the
//! pipeline. The start waits for outages to end. A fault that waiting doesn't remove stops the pipeline.

use std::sync::Arc;
use std::time::Instant;

use tidegate_protocol::retry::{Backoff, Disposition, Stage};
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::{ReplanError, WriteError};
use tokio::task::JoinError;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Pipeline, PipelinePhase};
use crate::kafka::observer::{AskError, SharedObserver, Unanswered, missing_topics, partitions_of};
use crate::plan::PlanSource;
use crate::postgres::connect::Connector;
use crate::postgres::register::{self, RegisterError, Registration};
use crate::postgres::schema::{self, MigrationError};
use crate::postgres::{error, partitions};
use crate::repeats::Repeats;
use crate::status::Trouble;

impl Pipeline {
    /// Connects to Postgres and Kafka, creates missing tables (Tidegate's own, and with `create =
    /// true` the target table), and registers the pipeline. Retries during outages, without end.
    ///
    /// # Errors
    /// [`Stopped::Start`] if waiting can't help. A refusal by Postgres is returned only if it occurs twice in a row with the same
    /// text: two instances that start together may cause a single refusal.
    pub(super) async fn start(
        &self,
        connector: &Connector,
        observer: &SharedObserver,
    ) -> Result<Arc<PlanSource>, Stopped> {
        let mut backoff = Backoff::new();
        let mut refused: Option<String> = None;
        let mut waits_since: Option<Instant> = None;
        loop {
            let error = match self.try_start(connector, observer).await {
                Ok(plans) => {
                    if let Some(since) = waits_since {
                        let seconds = (since.elapsed().as_secs_f64() * 10.0).round() / 10.0;
                        info!(pipeline = &*self.name, seconds, "the pipeline can start now");
                    }
                    return Ok(Arc::new(plans));
                }
                Err(error) => error,
            };
            let why = error.to_string();
            match error.fault() {
                Fault::Final => return Err(Stopped::Start(error.into())),
                Fault::FinalIfRepeated if refused.as_ref() == Some(&why) => return Err(Stopped::Start(error.into())),
                Fault::FinalIfRepeated => refused = Some(why.clone()),
                Fault::Outage => refused = None,
            }
            waits_since.get_or_insert_with(Instant::now);
            let attempt = backoff.attempts() + 1;
            if attempt.is_power_of_two() {
                warn!(pipeline = &*self.name, why, attempt, "can't start yet, retrying");
            }
            self.enter(PipelinePhase::Starting { waiting_for: Some(why) });
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    async fn try_start(&self, connector: &Connector, observer: &SharedObserver) -> Result<PlanSource, StartError> {
        let (connection, _) = connector.open().await?;
        schema::migrate_and_close(connection).await?;
        let (mut connection, _) = connector.open().await?;
        let plans = PlanSource::load(&self.config, &mut connection).await?;
        partitions::create_due(connector, &self.config, &mut Repeats::default()).await?;
        let wanted = self.config.topics.clone();
        let asked = observer.ask(move |observer| Ok((observer.topics(&wanted)?, observer.cluster_id()?)));
        let (topics, cluster_id) = asked.await?;
        let missing = missing_topics(&self.config.topics, &topics);
        self.kafka.topics_missing(missing.clone());
        if !missing.is_empty() {
            return Err(StartError::NotYet(Trouble::topics(&missing).to_string()));
        }
        let known = register::is_known(&mut connection, &self.name).await.map_err(database)?;
        let starts = if known {
            Vec::new()
        } else {
            let (sources, start) = (partitions_of(&topics), self.config.start.clone());
            observer.ask(move |observer| observer.starts(&sources, &start)).await?
        };
        let registration = Registration {
            pipeline: self.config.name.clone(),
            cluster_id,
            group_id: self.config.group.clone(),
            target: self.config.table.name.to_string(),
            target_oid: plans.current().table.catalog.oid,
            topics,
        };
        register::register(&mut connection, &registration, &starts).await?;
        Ok(plans)
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Postgres is down, or returned an error.
    #[error(transparent)]
    Postgres(#[from] WriteError),
    /// The tables of schema `tidegate` can't be brought up to date.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error("{}", Trouble::kafka(.0))]
    Kafka(#[source] Unanswered),
    /// Listed topics don't exist. They may be created later.
    #[error("{0}")]
    NotYet(String),
    /// The table can't receive the pipeline's rows, or the pipeline can't be registered, for
    /// example because it was registered with another group, table or cluster. The text says why.
    #[error("{0}")]
    Differs(String),
    #[error("a bug of Tidegate, please report it: {0}")]
    Panicked(#[source] JoinError),
}

/// Whether a failed start is retried:
/// - `Outage`: always.
/// - `FinalIfRepeated`: unless the previous attempt failed with the same text.
/// - `Final`: never.
enum Fault {
    Outage,
    FinalIfRepeated,
    Final,
}

impl StartError {
    fn fault(&self) -> Fault {
        let disposition = match self {
            Self::Postgres(error) => error.disposition_at_start(),
            Self::Migration(error) => error.disposition(),
            Self::Kafka(_) | Self::NotYet(_) => Disposition::Outage,
            Self::Differs(_) | Self::Panicked(_) => return Fault::Final,
        };
        if disposition == Disposition::Outage { Fault::Outage } else { Fault::FinalIfRepeated }
    }
}

impl From<ReplanError> for StartError {
    fn from(error: ReplanError) -> Self {
        match error {
            ReplanError::Write(error) => error.into(),
            ReplanError::Unplannable(why) => Self::Differs(why),
        }
    }
}

impl From<RegisterError> for StartError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Differs(why) => Self::Differs(why),
            RegisterError::Database(error) => database(error),
        }
    }
}

impl From<AskError<Unanswered>> for StartError {
    fn from(error: AskError<Unanswered>) -> Self {
        match error {
            AskError::Answer(error) => Self::Kafka(error),
            AskError::Panicked(panic) => Self::Panicked(panic),
        }
    }
}

fn database(error: sqlx::Error) -> StartError {
    WriteError { stage: Stage::Begin, cause: error::cause(error) }.into()
}
