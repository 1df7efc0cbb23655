//! If the database has event triggers, tries the statements by which `run` creates and changes tables, and rolls each trial back.
//! An event trigger may refuse any of them, whatever rights the role has. So only running a statement shows whether Postgres
//! accepts the statement.
//!
//! Without event triggers, this module tries nothing: the role's rights then show whether a statement would succeed, and a trial
//! would take locks.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Executor, PgConnection, Row};

use super::database::Plans;
use super::report::PipelineReport;
use super::stand_in::Trials;
use crate::cli::{reach, show};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::postgres::{error, partitions, schema};

/// The settings of a trial's transaction. They keep other sessions from waiting long for its locks.
const BRIEF: &str = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'";
/// The SQLSTATEs of a statement that exceeds the limits of [`BRIEF`]: `lock_not_available` and `query_canceled`.
const WAITED: [&str; 2] = ["55P03", "57014"];

/// The event triggers that this session runs. `names` has their names in backticks, separated by commas.
#[derive(Debug)]
pub(super) struct EventTriggers {
    names: String,
    count: usize,
}

enum Tried {
    Accepted,
    Refused {
        why: String,
        /// Whether the statement creates a partition, and Postgres refused it for a reason that concerns only this partition.
        of_one: bool,
    },
    /// The statement reached a limit of [`BRIEF`], most likely because another session holds a lock on what it changes.
    Locked,
}

impl EventTriggers {
    /// Reads the event triggers that a statement of this session may run; `None` if there are none.
    ///
    /// # Errors
    /// The error of the query.
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        // The setting `event_triggers` exists since PostgreSQL 17. Login triggers are left out: they run only at a login, and
        // this session has already logged in.
        let rows = sqlx::query(
            "SELECT evtname::text FROM pg_catalog.pg_event_trigger
             WHERE evtevent <> 'login' AND coalesce(current_setting('event_triggers', true), 'on') <> 'off'
                 AND evtenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
             ORDER BY evtname",
        );
        let rows = rows.fetch_all(connection).await?;
        let names: Vec<String> = rows
            .iter()
            .map(|row| Ok(format!("`{}`", row.try_get::<&str, _>(0)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        Ok((!names.is_empty()).then(|| Self { count: names.len(), names: names.join(", ") }))
    }

    /// Returns the remedy for a statement that an event trigger refuses. Postgres doesn't name the event trigger, so
    /// the text names all of them.
    pub(super) fn remedy(&self) -> String {
        let whose = if self.count == 1 { "event trigger" } else { "one of the event triggers" };
        format!(
            "{whose} {} may refuse this: exempt this role in the trigger's function, or disable the trigger",
            self.names
        )
    }

    /// Runs statements in a transaction that is rolled back. Warns about tables and sequences to which event triggers
    /// write: the rollback undoes the writes to tables, but doesn't return the numbers of a sequence. `what` names the
    /// statements' purpose in the warning.
    async fn try_out(
        &self,
        connection: &mut PgConnection,
        what: &str,
        statements: &[&str],
        report: &mut PipelineReport,
    ) -> Result<Tried, sqlx::Error> {
        connection.execute(format!("BEGIN; {BRIEF}").as_str()).await?;
        let mut tried = Tried::Accepted;
        for sql in statements {
            match connection.execute(*sql).await {
                Ok(_) => {}
                Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| WAITED.contains(&&*code)) => {
                    tried = Tried::Locked;
                }
                Err(sqlx::Error::Database(error)) => {
                    let of_one = partitions::reason_for_this_partition(&*error).is_some();
                    tried = Tried::Refused { why: words(&*error), of_one };
                }
                Err(error) => return Err(error),
            }
            if !matches!(tried, Tried::Accepted) {
                break;
            }
        }
        if matches!(tried, Tried::Accepted) {
            self.effects(connection, what, report).await?;
        }
        connection.execute("ROLLBACK").await?;
        Ok(tried)
    }

    /// Warns about the user's tables and sequences to which the open transaction has written. Tables and sequences that
    /// the transaction has created or altered don't count. Must be called before the rollback.
    ///
    /// # Errors
    /// The error of the query.
    pub(super) async fn effects(
        &self,
        connection: &mut PgConnection,
        what: &str,
        report: &mut PipelineReport,
    ) -> Result<(), sqlx::Error> {
        // A write to a table and a `nextval` of a sequence take a RowExclusiveLock, which lasts until the transaction
        // ends. A transaction that has created or altered a relation also holds a stronger lock on it.
        let rows = sqlx::query(
            "SELECT c.relkind = 'S', pg_catalog.format('%I.%I', n.nspname, c.relname)
             FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
                 AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                 AND c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
                 AND n.nspname NOT IN ('pg_catalog', 'tidegate')
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks o WHERE o.pid = l.pid AND o.relation = l.relation
                     AND o.database = l.database AND o.mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock'))
             ORDER BY 2",
        );
        let (mut tables, mut sequences) = (Vec::new(), Vec::new());
        for row in rows.fetch_all(connection).await? {
            let list = if row.try_get(0)? { &mut sequences } else { &mut tables };
            list.push(row.try_get::<String, _>(1)?);
        }
        let mut did = Vec::new();
        if !tables.is_empty() {
            did.push(format!("wrote to {}, which was rolled back", tables.join(", ")));
        }
        if !sequences.is_empty() {
            did.push(format!("drew numbers from {}, which no rollback undoes", sequences.join(", ")));
        }
        if !did.is_empty() {
            let whose = if self.count == 1 { "event trigger" } else { "event triggers" };
            let warning = format!("{whose} {}: the trial of {what} {}", self.names, did.join(", and "));
            if !report.warnings.contains(&warning) {
                report.warnings.push(warning);
            }
        }
        Ok(())
    }

    /// Tries statements of the daemon. If Postgres refuses one, reports a fault and returns false. Returns true if
    /// Postgres accepts them or if they can't be tried now.
    async fn accept(
        &self,
        connection: &mut PgConnection,
        what: &str,
        statements: &[&str],
        report: &mut PipelineReport,
    ) -> Result<bool, sqlx::Error> {
        let tried = self.try_out(connection, what, statements, report).await?;
        Ok(self.judge(tried, what, report))
    }

    /// Reports a fault if Postgres refused a statement, and a warning if another session's lock kept a statement from being
    /// tried. Returns false only if Postgres refused a statement.
    fn judge(&self, tried: Tried, what: &str, report: &mut PipelineReport) -> bool {
        match tried {
            Tried::Accepted => true,
            Tried::Locked => {
                report.warnings.push(format!(
                    "{what} could not be tried, because another session holds a lock; {}",
                    self.remedy()
                ));
                true
            }
            Tried::Refused { why, .. } => {
                report.faults.push(format!("Postgres refuses {what}: {why}; {}", self.remedy()));
                false
            }
        }
    }

    /// Tries to create or update the tables of schema `tidegate`, if they aren't up to date.
    ///
    /// # Errors
    /// If a query fails, or if the connection breaks.
    pub(super) async fn on_ledger(
        &self,
        connection: &mut PgConnection,
        report: &mut PipelineReport,
    ) -> Result<(), sqlx::Error> {
        if let Some(sql) = schema::pending_sql(connection).await? {
            self.accept(connection, "the creation of schema `tidegate` and its tables", &[&sql], report).await?;
        }
        Ok(())
    }

    /// Tries to create the staging tables of the plan, to create a partition and to remove one expired partition, as
    /// a start of the daemon does. Returns false if Postgres refuses something that the daemon can't run without.
    ///
    /// # Errors
    /// If a query fails, or if the connection breaks.
    pub(super) async fn on_tables(
        &self,
        connection: &mut PgConnection,
        pipeline: &Pipeline,
        plans: &Plans,
        report: &mut PipelineReport,
    ) -> Result<bool, sqlx::Error> {
        let planned = plans.source.current();
        let made = plans.make_table.as_deref().unwrap_or("SELECT");
        let single = (!planned.plan.is_routed()).then_some(&planned.table);
        for table in planned.routes.iter().chain(single) {
            let Some(merge) = &table.merge else { continue };
            let what = format!("the staging table for `{}`", table.catalog.table);
            if !self.accept(connection, &what, &[made, &merge.create], report).await? {
                return Ok(false);
            }
        }
        // Without the rights to create partitions, Postgres would refuse the statements for that reason, so don't try them.
        let by = pipeline.table.partition_by.as_ref().filter(|_| report.no_new_partitions.is_none());
        let Some(by) = by else { return Ok(true) };
        let partitions::Due { create, remove, has_place, .. } = partitions::look(connection, pipeline, by).await?;
        let what = |what| format!("{what} (pipelines.{}.table.partition_by)", pipeline.name);
        if let Some(sql) = remove.first() {
            let what = what("the removal of an expired partition");
            // The daemon would only warn, and keep the partition.
            if let Tried::Refused { why, .. } = self.try_out(connection, &what, &[made, sql], report).await? {
                report.warnings.push(format!("Postgres refuses {what}: {why}; {}", self.remedy()));
            }
        }
        let what = what("a new partition");
        for sql in &create {
            match self.try_out(connection, &what, &[made, sql], report).await? {
                // The reason concerns only this partition, so try the next one.
                Tried::Refused { why, of_one: true } => {
                    report.warnings.push(format!("Postgres refuses {what}: {why}"));
                    continue;
                }
                Tried::Refused { why, .. } if has_place => {
                    report.lacks_partitions(pipeline, format!("Postgres refuses {what}: {why}; {}", self.remedy()));
                }
                tried => return Ok(self.judge(tried, &what, report)),
            }
            break;
        }
        Ok(true)
    }

    /// Tries to create the temporary tables, views and sequences that only the trials of `check` need. Returns whether
    /// the trials can be made; if not, a warning says why.
    ///
    /// # Errors
    /// If a query fails, or if the connection breaks.
    pub(super) async fn on_trials(
        &self,
        connection: &mut PgConnection,
        made: Option<&str>,
        trials: &Trials,
        report: &mut PipelineReport,
    ) -> Result<bool, sqlx::Error> {
        let bare = (!trials.suspects.is_empty()).then_some(&trials.bare);
        for setup in [trials.guarded.as_ref(), Some(&trials.direct), bare].into_iter().flatten() {
            let sql = setup.make.join(";\n");
            let statements = [made.unwrap_or("SELECT"), &sql];
            if let Tried::Refused { why, .. } =
                self.try_out(connection, "the newest records", &statements, report).await?
            {
                report.warnings.push(format!(
                    "the newest records were not tried: the table's defaults or triggers may draw from sequences, which no rollback undoes, and Postgres refuses the temporary objects that replace them: {why}; {}",
                    self.remedy()
                ));
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Tries the statement that adds columns for new fields.
///
/// # Errors
/// If a query fails, or if no connection can be opened.
pub(super) async fn on_columns(
    config: &Config,
    pipeline: &Pipeline,
    triggers: &EventTriggers,
    alter: &str,
    report: &mut PipelineReport,
) -> Result<(), FatalError> {
    let failed = |error| reach::failed("can't try to add columns", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    let what = format!("columns for new fields (pipelines.{}.table.evolve)", pipeline.name);
    triggers.accept(&mut connection, &what, &[alter], report).await.map(drop).map_err(failed)
}

/// Returns an error as `Postgres SQLSTATE: message`, with the function that raised it if Postgres names one.
pub(super) fn words(error: &dyn sqlx::error::DatabaseError) -> String {
    let message = error.try_downcast_ref::<PgDatabaseError>().map(error::message);
    let code = error.code().unwrap_or_default();
    format!("Postgres {code}: {}", show::safe(&message.unwrap_or_else(|| error.message().to_owned())))
}
