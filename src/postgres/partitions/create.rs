//! Creates partitions. If Postgres refuses a partition, decides whether the pipeline can continue: it can if existing partitions
//! accept the rows.

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
use super::{existing, lacking, lock};
use crate::config::Pipeline;
use crate::postgres::error::{cause, is_raised};
use crate::repeats::Repeats;

/// The reason for creating partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Rows that will be written later. The first of the wanted partitions is the current one. Some partition must accept rows
    /// with the current time.
    InAdvance,
    /// Rows that wait to be written. Each of them needs a partition that accepts it.
    Rows,
}

/// A partition that doesn't exist, with the SQL that creates it.
pub(super) struct Missing {
    name: TableName,
    /// The partition's range; `None` for the DEFAULT partition.
    bounds: Option<Bounds>,
    pub(super) sql: String,
}

impl Missing {
    pub(super) fn is_of(&self, bounds: &Bounds) -> bool {
        self.bounds.as_ref() == Some(bounds)
    }
}

/// Creates the partitions of `wanted` that are missing, and the DEFAULT partition if it is configured and missing.
///
/// If Postgres refuses a partition and existing partitions accept its rows, a warning is logged. A partition is left out with a
/// warning if the DEFAULT partition holds rows of its range, or if Postgres doesn't accept its bounds. `logged` suppresses
/// warnings that were logged shortly before.
///
/// # Errors
/// The error of the database. A refusal is an error in three cases:
/// - No existing partition accepts the rows of the refused one. With [`Purpose::InAdvance`], only the current partition counts.
/// - `purpose` is [`Purpose::Rows`], and waiting resolves the refusal.
/// - The DEFAULT partition is configured and doesn't exist.
pub async fn create(
    connection: &mut PgConnection,
    config: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
    purpose: Purpose,
    logged: &mut Repeats,
) -> Result<(), sqlx::Error> {
    let table = &config.table.name;
    lock(connection, table).await?;
    let existing = existing(connection, table).await?;
    let mut refused = AllRefused::default();
    for missing in missing(config, by, wanted, &existing) {
        let partition = &missing.name;
        match connection.execute(missing.sql.as_str()).await {
            Ok(_) => info!(pipeline = config.name, %partition, "created a partition"),
            Err(sqlx::Error::Database(error)) if is_refusal(&*error) => {
                let why = reason_for_this_partition(&*error);
                if let Some(why) = why
                    && logged.take(format!("{partition}: {error}"), Instant::now()).is_some()
                {
                    warn!(pipeline = config.name, %partition, %error, "can't create a partition: {why}");
                }
                // Leave out a partition that can't be created. Either its rows go to DEFAULT, or Postgres accepts no partition
                // for their times.
                if why.is_some() && !may_be_mended(&*error) {
                    continue;
                }
                let waits = is_outage(&*error);
                refused.0.push(Refused { missing, of_one: why.is_some(), error: sqlx::Error::Database(error) });
                // The other partitions would wait for the same lock, so don't try them.
                if waits {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    refused.judge(connection, config, by, wanted, purpose, logged).await
}

struct Refused {
    missing: Missing,
    /// Whether the reason of the refusal concerns this partition alone. Such a refusal has already been logged.
    of_one: bool,
    error: sqlx::Error,
}

/// The partitions that Postgres refuses. A refusal that waiting resolves is the last one, because no more partitions are tried
/// after it.
#[derive(Default)]
struct AllRefused(Vec<Refused>);

impl AllRefused {
    /// Decides whether the refusals are an error; if not, logs a warning.
    ///
    /// # Errors
    /// The error of the last refusal, in two cases:
    /// - The DEFAULT partition is configured and doesn't exist. Without it, rows outside of all ranges have no partition.
    /// - `purpose` is [`Purpose::Rows`], and waiting resolves the last refusal.
    ///
    /// Otherwise the error of the first refused partition whose rows no existing partition accepts. With [`Purpose::InAdvance`],
    /// only the current partition counts.
    async fn judge(
        mut self,
        connection: &mut PgConnection,
        config: &Pipeline,
        by: &PartitionBy,
        wanted: &[Bounds],
        purpose: Purpose,
        logged: &mut Repeats,
    ) -> Result<(), sqlx::Error> {
        let Some(last) = self.0.last() else { return Ok(()) };
        let table = &config.table.name;
        let waits = matches!(&last.error, sqlx::Error::Database(error) if is_outage(&**error));
        let lacks_default = lacks_default(by, &existing(connection, table).await?);
        if (lacks_default || purpose == Purpose::Rows && waits)
            && let Some(last) = self.0.pop()
        {
            return Err(last.error);
        }
        let refused = self.0.iter().filter_map(|refused| refused.missing.bounds);
        let needed: Vec<Bounds> = match purpose {
            Purpose::InAdvance => refused.filter(|bounds| wanted.first() == Some(bounds)).collect(),
            Purpose::Rows => refused.collect(),
        };
        let outside = without_place(connection, table, by, &needed).await?;
        if let Some(at) = self.0.iter().position(|refused| outside.iter().any(|bounds| refused.missing.is_of(bounds))) {
            return Err(self.0.swap_remove(at).error);
        }
        self.0.retain(|refused| !refused.of_one);
        let partitions: Vec<String> = self.0.iter().map(|refused| refused.missing.name.to_string()).collect();
        let Some(first) = self.0.into_iter().next() else { return Ok(()) };
        let lacking = if waits { Vec::new() } else { lacking(connection, table).await? };
        let error = WriteError { stage: Stage::Begin, cause: cause(first.error) }.to_string();
        if logged.take(error.clone(), Instant::now()).is_some() {
            warn!(
                pipeline = config.name,
                partitions = partitions.join(", "),
                error,
                "can't create partitions, retrying later; rows are still written, because existing partitions accept them; {}",
                remedy(&lacking)
            );
        }
        Ok(())
    }
}

pub(super) fn lacks_default(by: &PartitionBy, existing: &[(TableName, bool)]) -> bool {
    by.default && !existing.iter().any(|(_, is_default)| *is_default)
}

fn remedy(lacking: &[super::Lack]) -> String {
    let why: Vec<_> = lacking.iter().map(|lack| format!("{}; run: {};", lack.what, lack.statement)).collect();
    match why.as_slice() {
        [] => "if it stays so, let the table's owner create the partitions".to_owned(),
        why => format!("{} or let the table's owner create the partitions", why.join(" ")),
    }
}

/// Returns whether the error is a refused statement after which the session can still be used.
fn is_refusal(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() == PgSeverity::Error)
}

/// Returns whether waiting resolves a refusal: another session holds a lock, or the server is temporarily unable to create a
/// table.
fn is_outage(error: &dyn DatabaseError) -> bool {
    let sqlstate = error.code().unwrap_or_default();
    classify(Stage::Begin, Severity::Error, &sqlstate) == Disposition::Outage
}

/// Returns why Postgres refuses a partition; `None` if the reason may concern other partitions too. The errors of an event
/// trigger may have any SQLSTATE. So the result for them is `None`.
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

/// Returns whether a user can remove the reason of the refusal: another table has the partition's name, or another partition
/// overlaps its range. Until then, possibly no partition accepts rows of this range.
fn may_be_mended(error: &dyn DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("42P07" | "42P17"))
}

/// Returns the partitions of `wanted` that don't exist, each with the statements that create it. Adds the DEFAULT partition if it
/// is configured and doesn't exist.
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
    if lacks_default(by, existing) {
        missing.push(create(default_name(table), None));
    }
    missing
}
