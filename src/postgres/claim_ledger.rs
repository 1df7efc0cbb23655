//! The claim loop's statements. They run on one connection; each wait for a lock has a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tidegate_protocol::claim_loop::{ClaimLedger, Claimed};
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Cause, WriteError};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::connect::{Connector, within};
use super::register::RegisterError;
use super::{blockers, claims, register};

/// The time between two attempts to wait for a lock while Postgres can't be reached.
const UNREACHED_PAUSE: Duration = Duration::from_millis(250);

/// The ledger of one pipeline, for its claim loop. Each wait for a lock
/// opens a connection of its own; everything else uses `connection`.
#[derive(Debug)]
pub struct PgClaimLedger {
    pipeline: Arc<str>,
    connector: Connector,
    connection: Option<PgConnection>,
}

impl PgClaimLedger {
    /// Makes a ledger that connects at its first use.
    pub fn new(pipeline: Arc<str>, connector: Connector) -> Self {
        Self { pipeline, connector, connection: None }
    }

    async fn open(&mut self) -> Result<&mut PgConnection, WriteError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => self.connector.open().await?.0,
        };
        Ok(self.connection.insert(open))
    }
}

impl ClaimLedger for PgClaimLedger {
    fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    async fn without_row(&mut self, sources: &[TopicPartition]) -> Result<Vec<TopicPartition>, WriteError> {
        let (pipeline, deadline) = (Arc::clone(&self.pipeline), self.connector.write_deadline());
        within(deadline, Stage::Ledger, claims::without_row(self.open().await?, &pipeline, sources)).await
    }

    async fn extend(&mut self, starts: &[(TopicPartition, Offset)]) -> Result<Vec<TopicPartition>, WriteError> {
        let (pipeline, deadline) = (Arc::clone(&self.pipeline), self.connector.write_deadline());
        let connection = self.open().await?;
        let extended = within(deadline, Stage::Ledger, async {
            match register::extend(connection, &pipeline, starts).await {
                Ok(lost) => Ok(Ok(lost)),
                Err(RegisterError::Differs(why)) => Ok(Err(why)),
                Err(RegisterError::Database(error)) => Err(error),
            }
        });
        extended.await?.map_err(|why| WriteError { stage: Stage::Ledger, cause: Cause::Conflict(why) })
    }

    async fn insert_lost_rows(&mut self, places: &[(TopicPartition, Offset)]) -> Result<(), WriteError> {
        let (pipeline, deadline) = (Arc::clone(&self.pipeline), self.connector.write_deadline());
        within(deadline, Stage::Ledger, register::insert_lost_rows(self.open().await?, &pipeline, places)).await
    }

    async fn claim(&mut self, owner: &str, sources: &[TopicPartition]) -> Result<Vec<Claimed>, WriteError> {
        let (pipeline, deadline) = (Arc::clone(&self.pipeline), self.connector.write_deadline());
        within(deadline, Stage::Ledger, claims::claim(self.open().await?, &pipeline, owner, sources)).await
    }

    async fn skip_condition(&mut self, claimed: &Claimed, to: Offset) -> Result<Option<Claim>, WriteError> {
        let (pipeline, deadline) = (Arc::clone(&self.pipeline), self.connector.write_deadline());
        within(deadline, Stage::Ledger, claims::skip_condition(self.open().await?, &pipeline, claimed, to)).await
    }

    fn wait_at_lock(&self, source: TopicPartition, waits: u32) -> impl Future<Output = ()> + Send + 'static {
        let (pipeline, connector) = (Arc::clone(&self.pipeline), self.connector.clone());
        async move {
            let Ok((mut connection, pid)) = connector.open().await else { return sleep(UNREACHED_PAUSE).await };
            let work = timeout(connector.write_deadline(), claims::wait_at(&mut connection, &pipeline, &source));
            let (waited, note) = blockers::watch(&connector, pid, work).await;
            // The claim loop waits again every few seconds for as long as
            // the lock is held. So log only the 1st, 2nd, 4th, 8th … wait.
            if let (false, Some(note), true) = (matches!(waited, Ok(Ok(()))), note, waits.is_power_of_two()) {
                warn!(pipeline = &*pipeline, %source, note, "a claim waits for a lock: nothing is lost");
            }
        }
    }
}
