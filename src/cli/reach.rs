//! What every command needs: a runtime that ends, Kafka and Postgres within reach, and errors that say which of them isn't.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use rdkafka::error::KafkaResult;
use sqlx::{PgConnection, Row};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::{Cause, WriteError};

use crate::config::{Config, Pipeline, Topics};
use crate::error::FatalError;
use crate::kafka::observer::{AskError, Observer, SharedObserver};
use crate::kafka::settings;
use crate::postgres::connect::Connector;
use crate::postgres::error;

/// Runs a command to its end.
pub(super) fn block_on(command: impl Future<Output = Result<(), FatalError>>) -> Result<(), FatalError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| FatalError::Stopped(format!("can't start: {error}")))?;
    let outcome = runtime.block_on(command);
    // A question to a Kafka that is away blocks for seconds, and nobody waits for its answer any more.
    runtime.shutdown_background();
    outcome
}

/// Connections for commands. They carry another `application_name` than the daemon's, so that nobody takes a command for an
/// instance.
pub(super) fn connector(config: &Config) -> Connector {
    Connector::new(Arc::new(config.postgres.clone()), None)
}

/// Opens one.
pub(super) async fn open(connector: &Connector) -> Result<PgConnection, FatalError> {
    connector.open().await.map(|(connection, _)| connection).map_err(|error| {
        let remedy = match &error.cause {
            Cause::Postgres(error) => match error.sqlstate.as_str() {
                "28P01" | "28000" => "; check the user and the password in `postgres.url` or `postgres.password_file`",
                "3D000" => "; make the database, or name another one in `postgres.url`",
                "53300" => "; wait, or raise `max_connections`",
                _ => "",
            },
            Cause::NoPartition(_) | Cause::Conflict(_) => "",
            Cause::Connection(_) | Cause::Deadline(..) => "; is it running, and is `postgres.url` right?",
        };
        FatalError::Unavailable(format!("can't reach Postgres: {error}{remedy}"))
    })
}

/// An error of a statement, with what the command was doing.
pub(super) fn failed(what: &str, error: sqlx::Error) -> FatalError {
    let error = WriteError { stage: Stage::Begin, cause: error::cause(error) };
    match &error.cause {
        Cause::Postgres(postgres) => {
            let text = format!("{what}: Postgres {} {}", postgres.sqlstate, postgres.message);
            match postgres.sqlstate.get(..2) {
                Some("42") => FatalError::Config(text),
                Some("55" | "57" | "53") => FatalError::Unavailable(text),
                _ => FatalError::Stopped(text),
            }
        }
        Cause::Conflict(_) => FatalError::Stopped(format!("{what}: {error}")),
        Cause::Connection(_) | Cause::Deadline(..) | Cause::NoPartition(_) => {
            FatalError::Unavailable(format!("{what}: {error}"))
        }
    }
}

/// Questions about a pipeline's topics.
pub(super) fn observer(config: &Config, pipeline: &Pipeline) -> Result<SharedObserver, FatalError> {
    SharedObserver::new(&settings::observer(&config.kafka, pipeline))
        .map_err(|error| FatalError::Config(format!("librdkafka refuses `kafka.properties`: {error}")))
}

/// Asks Kafka; an error says what to check.
pub(super) async fn ask<T: Send + 'static>(
    config: &Config,
    observer: &SharedObserver,
    question: impl FnOnce(&Observer) -> KafkaResult<T> + Send + 'static,
) -> Result<T, FatalError> {
    observer.ask(question).await.map_err(|error| match error {
        AskError::Panicked(_) => FatalError::Stopped(error.to_string()),
        AskError::Answer(error) => FatalError::Unavailable(format!(
            "can't reach Kafka at {}: {error}; is it running, and are `kafka.bootstrap_servers` and `kafka.properties` right?",
            config.kafka.bootstrap_servers
        )),
    })
}

/// The pipeline's topics that exist, with their partitions.
pub(super) async fn topics(
    config: &Config,
    observer: &SharedObserver,
    topics: &Topics,
) -> Result<BTreeMap<String, i32>, FatalError> {
    let topics = topics.clone();
    ask(config, observer, move |observer| observer.topics(&topics)).await
}

/// Holds that the pipeline has been started on this database.
pub(super) async fn registered(connection: &mut PgConnection, pipeline: &str) -> Result<(), FatalError> {
    if is_registered(connection, pipeline).await? {
        return Ok(());
    }
    Err(FatalError::Config(format!(
        "pipeline `{pipeline}` was never started on this database, so the ledger knows nothing of it: start it with `tidegate run`, or check `postgres.url` and the pipeline's name"
    )))
}

/// Whether the pipeline has been started on this database.
pub(super) async fn is_registered(connection: &mut PgConnection, pipeline: &str) -> Result<bool, FatalError> {
    let known = async {
        if !has_ledger(connection).await? {
            return Ok(false);
        }
        crate::postgres::register::is_known(connection, pipeline).await
    };
    known.await.map_err(|error| failed("can't read the ledger in schema `tidegate`", error))
}

/// Whether the tables of schema `tidegate` are there.
pub(super) async fn has_ledger(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "SELECT to_regclass('tidegate.pipeline') IS NOT NULL AND to_regclass('tidegate.ledger') IS NOT NULL",
    );
    row.fetch_one(connection).await?.try_get(0)
}

/// Connections that a running instance of this pipeline has open now, by their backends' pids.
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
            .map_err(|error| failed("can't look for running instances", error))?;
    rows.iter().map(|row| row.try_get(0).map_err(|error| failed("can't look for running instances", error))).collect()
}
