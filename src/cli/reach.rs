//! Helpers that most commands use: a runtime that is shut down without waiting for requests in progress, connections to Kafka
//! and Postgres, and errors that say which of the two can't be reached.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use sqlx::{PgConnection, Row};
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::{Cause, ReplanError, WriteError};
use tidegate_rows::catalog::TableName;

use crate::config::{Config, Pipeline, Topics};
use crate::error::FatalError;
use crate::kafka::health::KafkaHealth;
use crate::kafka::observer::{Answer, AskError, Observer, SharedObserver};
use crate::kafka::settings;
use crate::postgres::connect::Connector;
use crate::postgres::error;
use crate::postgres::remedy;
use crate::postgres::schema::{self, MigrationError};

pub(super) fn block_on(command: impl Future<Output = Result<(), FatalError>>) -> Result<(), FatalError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| FatalError::Stopped(format!("can't start: {error}")))?;
    let outcome = runtime.block_on(command);
    // If Kafka is down, a request to it blocks for seconds. Nobody waits for its answer any more, so don't wait for the
    // request.
    runtime.shutdown_background();
    outcome
}

/// Makes a connector for commands. The `application_name` of its connections names no pipeline. So [`live`] doesn't mistake a
/// command for an instance that runs a pipeline.
pub(super) fn connector(config: &Config) -> Connector {
    Connector::new(Arc::new(config.postgres.clone()), None)
}

pub(super) async fn open(connector: &Connector) -> Result<PgConnection, FatalError> {
    connector.open().await.map(|(connection, _)| connection).map_err(|error| {
        let question = match &error.cause {
            Cause::NotContacted(_) | Cause::Postgres(_) | Cause::NoPartition(_) | Cause::Conflict(_) => "",
            cause if remedy::is_known(cause) => "",
            Cause::Connection(_) | Cause::Deadline(..) => "; is it running, and is `postgres.url` right?",
        };
        FatalError::Unavailable(format!("can't reach Postgres: {error}{question}"))
    })
}

/// Returns the error of a failed statement. `what` says what the command was doing.
pub(super) fn failed(what: &str, error: sqlx::Error) -> FatalError {
    failed_with(what, error, "")
}

pub(super) fn failed_with(what: &str, error: sqlx::Error, remedy: &str) -> FatalError {
    let error = WriteError { stage: Stage::Begin, cause: error::cause(error) };
    fatal(&error, format!("{what}: {error}{remedy}"))
}

/// Converts an error of Postgres to an error of the command. Errors are classified as at a pipeline's start: an outage becomes
/// [`FatalError::Unavailable`], and an error that a new plan may resolve becomes [`FatalError::Config`].
pub(super) fn fatal(error: &WriteError, text: String) -> FatalError {
    match (error.disposition_at_start(), error.postgres()) {
        (Disposition::Outage, _) => FatalError::Unavailable(text),
        (Disposition::Plan, _) => FatalError::Config(text),
        (_, Some(error)) => FatalError::Refused { text, sqlstate: error.sqlstate.clone() },
        (_, None) => FatalError::Stopped(text),
    }
}

pub(super) async fn migrate(connector: &Connector) -> Result<(), FatalError> {
    schema::migrate_and_close(open(connector).await?).await.map_err(|error| not_migrated(&error))
}

pub(super) fn not_migrated(error: &MigrationError) -> FatalError {
    match error {
        MigrationError::Postgres { cause, .. } => fatal(cause, error.to_string()),
        MigrationError::Mismatch(_) | MigrationError::Damaged(_) => FatalError::Stopped(error.to_string()),
    }
}

pub(super) fn unplanned(error: ReplanError) -> FatalError {
    match error {
        ReplanError::Unplannable(why) => FatalError::Config(why),
        ReplanError::Write(error) => fatal(&error, error.to_string()),
    }
}

pub(super) fn observer(config: &Config, pipeline: &Pipeline) -> Result<SharedObserver, FatalError> {
    let health = KafkaHealth::of_command(&config.kafka.bootstrap_servers, &pipeline.group);
    let of = settings::observer(&config.kafka, pipeline);
    SharedObserver::new(&of, Arc::new(health)).map_err(|error| FatalError::Config(settings::refused(&of, &error)))
}

/// Makes a request to Kafka. If the request fails, the error names the brokers.
pub(super) async fn ask<T: Send + 'static>(
    config: &Config,
    observer: &SharedObserver,
    question: impl FnOnce(&Observer) -> Answer<T> + Send + 'static,
) -> Result<T, FatalError> {
    observer.ask(question).await.map_err(|error| match error {
        AskError::Panicked(_) => FatalError::Stopped(error.to_string()),
        AskError::Answer(error) => {
            let (servers, error) = (&config.kafka.bootstrap_servers, error.to_string());
            // If a connection failed, the error may already contain the address.
            let text = if error.contains(servers) {
                "can't ask Kafka".to_owned()
            } else {
                format!("can't ask Kafka at {servers}")
            };
            FatalError::Unavailable(format!("{text}: {error}"))
        }
    })
}

/// Returns the pipeline's topics that exist, each with its number of partitions.
pub(super) async fn topics(
    config: &Config,
    observer: &SharedObserver,
    topics: &Topics,
) -> Result<BTreeMap<String, i32>, FatalError> {
    let topics = topics.clone();
    ask(config, observer, move |observer| observer.topics(&topics)).await
}

/// Returns an error if the pipeline was never started on this database.
pub(super) async fn registered(connection: &mut PgConnection, pipeline: &str) -> Result<(), FatalError> {
    if is_registered(connection, pipeline).await? { Ok(()) } else { Err(FatalError::Config(never_started(pipeline))) }
}

fn never_started(pipeline: &str) -> String {
    format!(
        "pipeline `{pipeline}` was never started on this database, so the ledger knows nothing of it: start it with `tidegate run`, or check `postgres.url` and the pipeline's name"
    )
}

/// The selected pipelines of a command that have been started on this database. `others` has one sentence for each that hasn't.
pub(super) struct Started<'a> {
    pub(super) pipelines: Vec<&'a Pipeline>,
    others: Vec<String>,
}

impl<'a> Started<'a> {
    /// Looks up in the ledger which of the selected pipelines have been started.
    ///
    /// # Errors
    /// If Postgres can't be queried, or if none of the pipelines was ever started.
    pub(super) async fn of(config: &Config, selected: Vec<&'a Pipeline>) -> Result<Self, FatalError> {
        let mut connection = open(&connector(config)).await?;
        let (mut pipelines, mut others) = (Vec::new(), Vec::new());
        for pipeline in selected {
            if is_registered(&mut connection, &pipeline.name).await? {
                pipelines.push(pipeline);
            } else {
                others.push(never_started(&pipeline.name));
            }
        }
        if pipelines.is_empty() { Err(FatalError::Config(others.join("\n"))) } else { Ok(Self { pipelines, others }) }
    }

    /// Returns the command's result. It is an error if the command found `faults`, or if a selected pipeline was never started.
    pub(super) fn result(self, faults: Vec<String>) -> Result<(), FatalError> {
        let is_sound = faults.is_empty();
        let text = faults.into_iter().chain(self.others).collect::<Vec<_>>().join("\n");
        match (is_sound, text.is_empty()) {
            (false, _) => Err(FatalError::Stopped(text)),
            (true, false) => Err(FatalError::Config(text)),
            (true, true) => Ok(()),
        }
    }
}

pub(super) async fn is_registered(connection: &mut PgConnection, pipeline: &str) -> Result<bool, FatalError> {
    let known = async {
        if !has_ledger(connection).await? {
            return Ok(false);
        }
        crate::postgres::register::is_known(connection, pipeline).await
    };
    known.await.map_err(|error| failed("can't read the ledger in schema `tidegate`", error))
}

/// Returns whether the tables `pipeline` and `ledger` of schema `tidegate` exist. The query doesn't call `to_regclass` for the
/// tables, because that fails for a role without the right to use the schema.
pub(super) async fn has_ledger(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "SELECT count(*) = 2 FROM pg_catalog.pg_class
         WHERE relnamespace = to_regnamespace('tidegate') AND relname IN ('pipeline', 'ledger')",
    );
    row.fetch_one(connection).await?.try_get(0)
}

/// Sends all of the pipeline's rows to `table`, whatever table the records name. If `table` is a plain table, `partition_by` is
/// switched off, because a plain table has no partitions to create.
pub(super) async fn redirect(
    connection: &mut PgConnection,
    pipeline: &mut Pipeline,
    table: TableName,
) -> Result<(), FatalError> {
    let plain = sqlx::query("SELECT FROM pg_catalog.pg_class WHERE oid = to_regclass($1) AND relkind = 'r'");
    let plain = plain.bind(table.quoted()).fetch_optional(connection).await;
    if plain.map_err(|error| failed("can't look the table up", error))?.is_some() {
        pipeline.table.partition_by = None;
    }
    pipeline.table.name = table;
    pipeline.table.route = None;
    Ok(())
}

/// An instance on which a pipeline runs or has stopped. `stopped` is the reason of the stop, or `None` if the pipeline runs.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// The instance's id: its name, its process, and a random part.
    pub(super) id: String,
    pub(super) stopped: Option<String>,
}

/// Returns the instances that have this pipeline, running or stopped, and that were alive in the last 15 s.
pub(super) async fn instances(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<Instance>, FatalError> {
    let failed = |error| failed("can't read the instances in `tidegate.instance`", error);
    let rows = sqlx::query(
        // If an older version created the table, it has no column `stopped`. So read the row as JSON, in which the column may
        // be absent.
        "SELECT id, to_jsonb(i) -> 'stopped' ->> $1 FROM tidegate.instance i
         WHERE consumers ? $1 AND seen_at > now() - interval '15 seconds' ORDER BY id",
    );
    let rows = rows.bind(pipeline).fetch_all(connection).await.map_err(failed)?;
    let read = |row: &sqlx::postgres::PgRow| Ok(Instance { id: row.try_get(0)?, stopped: row.try_get(1)? });
    rows.iter().map(read).collect::<Result<_, _>>().map_err(failed)
}

/// Returns the pids of the backends that serve this pipeline's instances. For a replay, they serve the commands that run it.
pub(super) async fn live(
    config: &Config,
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Vec<i32>, FatalError> {
    let name = Connector::new(Arc::new(config.postgres.clone()), Some(pipeline));
    let rows =
        sqlx::query("SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()")
            .bind(name.application_name())
            .fetch_all(connection)
            .await
            .map_err(|error| failed("can't read which instances are running", error))?;
    rows.iter()
        .map(|row| row.try_get(0).map_err(|error| failed("can't read which instances are running", error)))
        .collect()
}
