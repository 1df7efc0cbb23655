//! Creates partitions. If Postgres refuses one, decides whether the pipeline can go on: it can if the rows have another place.

use std::time::Instant;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use sqlx::{Executor, PgConnection};
use tidegate_protocol::retry::{Disposition, Severity, Stage, classify};
use tidegate_protocol::store::WriteError;
use tidegate_rows::catalog::TableName;
use tidegate_rows::ddl;
use tidegate_rows::spec::PartitionBy;
use tidegate_rows::write_mode::partitions::{Bounds, default_name, name};
use tracing::{info, warn};

use super::places::without_place;
use super::{existing, lacking};
use crate::config::Pipeline;
use crate::postgres::connect::lock_for_session;
use crate::postgres::error::{cause, is_raised};
use crate::repeats::Repeats;

/// The reason for creating partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Rows that will come. The first partition is the current one, and only rows of the present must have a place.
    InAdvance,
    /// Rows that wait to be written. All of them must have a place.
    Rows,
}

/// A partition that doesn't exist.
pub(super) struct Missing {
    name: TableName,
    /// `None` for the DEFAULT partition.
    bounds: Option<Bounds>,
    /// The statements that create it.
    pub(super) sql: String,
}

impl Missing {
    /// Returns whether this is the partition of the given time.
    pub(super) fn is_of(&self, bounds: &Bounds) -> bool {
        self.bounds.as_ref() == Some(bounds)
    }
}

/// Creates those of these partitions that are missing, and the DEFAULT partition if it is configured.
///
/// A partition whose refusal says nothing about others is left out, with a warning. If Postgres refuses a partition for another
/// reason, such as a missing right, a warning says so, provided that the rows have a place in other partitions. A warning that
/// `logged` holds back is not repeated.
///
/// # Errors
/// The error of the database. A refusal is an error if rows have no place, and if waiting resolves it while rows wait.
pub async fn create(
    connection: &mut PgConnection,
    config: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
    purpose: Purpose,
    logged: &mut Repeats,
) -> Result<(), sqlx::Error> {
    let table = &config.table.name;
    lock_for_session(connection, &format!("tidegate partitions {table}")).await?;
    let existing = existing(connection, table).await?;
    let mut refused = Refused::default();
    for missing in missing(config, by, wanted, &existing) {
        let partition = &missing.name;
        match connection.execute(missing.sql.as_str()).await {
            Ok(_) => info!(pipeline = config.name, %partition, "created a partition"),
            Err(sqlx::Error::Database(error)) if is_refusal(&*error) => {
                if let Some(why) = reason_for_this_partition(&*error) {
                    if logged.take(format!("{partition}: {error}"), Instant::now()).is_some() {
                        warn!(pipeline = config.name, %partition, %error, "can't create a partition: {why}");
                    }
                    continue;
                }
                let waits = is_outage(&*error);
                refused.add(missing, sqlx::Error::Database(error));
                // Every other partition would wait for the same lock.
                if waits {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    refused.judge(connection, config, by, wanted, purpose, logged).await
}

/// The partitions that Postgres refuses, and its first error.
#[derive(Default)]
struct Refused {
    names: Vec<TableName>,
    bounds: Vec<Bounds>,
    error: Option<sqlx::Error>,
}

impl Refused {
    fn add(&mut self, missing: Missing, error: sqlx::Error) {
        self.names.push(missing.name);
        self.bounds.extend(missing.bounds);
        self.error.get_or_insert(error);
    }

    /// Warns if the rows have a place.
    ///
    /// # Errors
    /// The first error, if they don't, or if they wait and waiting resolves it.
    async fn judge(
        self,
        connection: &mut PgConnection,
        config: &Pipeline,
        by: &PartitionBy,
        wanted: &[Bounds],
        purpose: Purpose,
        logged: &mut Repeats,
    ) -> Result<(), sqlx::Error> {
        let Some(error) = self.error else { return Ok(()) };
        let (table, waits) =
            (&config.table.name, matches!(&error, sqlx::Error::Database(error) if is_outage(&**error)));
        let needed: Vec<Bounds> = match purpose {
            Purpose::InAdvance => self.bounds.iter().filter(|bounds| wanted.first() == Some(bounds)).copied().collect(),
            Purpose::Rows if waits => return Err(error),
            Purpose::Rows => self.bounds,
        };
        if !without_place(connection, table, by, &needed).await?.is_empty() {
            return Err(error);
        }
        let lacking = if waits { Vec::new() } else { lacking(connection, table).await? };
        let error = WriteError { stage: Stage::Begin, cause: cause(error) }.to_string();
        if logged.take(error.clone(), Instant::now()).is_some() {
            let partitions: Vec<String> = self.names.iter().map(ToString::to_string).collect();
            warn!(
                pipeline = config.name,
                partitions = partitions.join(", "),
                error,
                "can't create partitions, retrying later; rows go on, since they have a place now; {}",
                remedy(&lacking)
            );
        }
        Ok(())
    }
}

fn remedy(lacking: &[super::Lack]) -> String {
    let why: Vec<_> = lacking.iter().map(|lack| format!("{}; run: {};", lack.what, lack.statement)).collect();
    match why.as_slice() {
        [] => "if it stays so, let the table's owner create the partitions".to_owned(),
        why => format!("{} or let the table's owner create the partitions", why.join(" ")),
    }
}

/// Returns whether Postgres refused a statement and its session goes on.
fn is_refusal(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() == PgSeverity::Error)
}

/// Returns whether waiting resolves a refusal: another session holds a lock, or the server can't do it now.
fn is_outage(error: &dyn DatabaseError) -> bool {
    let sqlstate = error.code().unwrap_or_default();
    classify(Stage::Begin, Severity::Error, &sqlstate) == Disposition::Outage
}

/// Returns why Postgres refuses a partition, if that says nothing about other partitions. An event trigger may raise any
/// SQLSTATE, and then refuses others too.
pub fn reason_for_this_partition(error: &dyn DatabaseError) -> Option<&'static str> {
    if is_raised(error) {
        return None;
    }
    let sqlstate = error.code().unwrap_or_default();
    match &*sqlstate {
        "42P17" => Some("it overlaps another one"),
        "23514" => Some("DEFAULT holds rows of its range, and accepts more; move them to create it"),
        "42P07" => Some("its name is taken by a table that isn't a partition of this table; rename that table"),
        _ if sqlstate.starts_with("22") => Some("Postgres doesn't accept its bounds"),
        _ => None,
    }
}

/// Returns those of these partitions that don't exist, and the DEFAULT partition if it is configured, each with the statements
/// that create it.
pub(super) fn missing(
    config: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
    existing: &[(TableName, bool)],
) -> Vec<Missing> {
    let (table, options) = (&config.table.name, ddl::fillfactor(&config.table.mode));
    let create = |partition: TableName, bounds: Option<Bounds>| {
        let values = bounds.map_or_else(|| "DEFAULT".to_owned(), |bounds| bounds.for_values());
        let sql = format!(
            "CREATE TABLE {0} (LIKE {1} INCLUDING ALL EXCLUDING IDENTITY){options}; ALTER TABLE {1} ATTACH PARTITION {0} {values}",
            partition.quoted(),
            table.quoted(),
        );
        Missing { name: partition, bounds, sql }
    };
    let wanted = wanted.iter().map(|bounds| (name(table, by, bounds), bounds));
    let mut missing: Vec<_> = wanted
        .filter(|(name, _)| !existing.iter().any(|(known, _)| known == name))
        .map(|(name, bounds)| create(name, Some(*bounds)))
        .collect();
    if by.default && !existing.iter().any(|(_, is_default)| *is_default) {
        missing.push(create(default_name(table), None));
    }
    missing
}
