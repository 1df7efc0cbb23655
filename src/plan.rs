//! The plan of a pipeline, shared by its poll threads and writers: made from configuration and catalog, made anew when the
//! catalog changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::{Executor, PgConnection};
use tracing::{info, warn};

use crate::batch::Reject;
use crate::catalog::Catalog;
use crate::config::Pipeline;
use crate::ddl;
use crate::mapping::Plan;
use crate::modes;
pub use crate::modes::Merge;
use crate::postgres::{catalog, error};
use crate::retry::Stage;
use crate::status::lock;
use crate::store::{ReplanError, WriteError};
use crate::value::Rejection;

/// Where a pipeline's plans come from.
#[derive(Debug)]
pub struct PlanSource {
    config: Pipeline,
    /// The contenders are poll threads and writers, each once a new version.
    current: Mutex<Arc<Planned>>,
    version: AtomicU64,
}

/// A plan, and the SQL that follows from it.
#[derive(Debug)]
pub struct Planned {
    /// Grows with each plan.
    pub version: u64,
    /// How records become rows.
    pub plan: Arc<Plan>,
    /// The COPY statement.
    pub copy: String,
    /// What follows the COPY, for modes that don't copy straight into the table.
    pub merge: Option<Merge>,
    /// The table that it was planned for.
    pub catalog: Catalog,
}

impl PlanSource {
    /// Reads the catalog, makes the table where `create` asks for it, and plans.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] names every fault.
    pub async fn load(config: &Pipeline, connection: &mut PgConnection) -> Result<Self, ReplanError> {
        let mut catalog = read(config, connection).await?;
        if catalog.is_none() && config.table.create {
            create(config, connection).await?;
            catalog = read(config, connection).await?;
        }
        Self::of(config, catalog)
    }

    /// Plans for a catalog at hand, and makes nothing: for commands that only look.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] names every fault.
    pub fn of(config: &Pipeline, catalog: Option<Catalog>) -> Result<Self, ReplanError> {
        let planned = Arc::new(plan(config, catalog, 1)?);
        Ok(Self { config: config.clone(), current: Mutex::new(planned), version: AtomicU64::new(1) })
    }

    /// The pipeline that is planned for.
    pub fn config(&self) -> &Pipeline {
        &self.config
    }

    /// The newest plan.
    pub fn current(&self) -> Arc<Planned> {
        Arc::clone(&lock(&self.current))
    }

    /// The newest plan's version, for the price of a relaxed load.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Reads the catalog again. The plan is a new one only where the catalog differs.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] where the table is gone, is another one, or the mapping no longer fits it.
    pub async fn replan(&self, connection: &mut PgConnection) -> Result<Arc<Planned>, ReplanError> {
        let catalog = read(&self.config, connection).await?;
        let mut current = lock(&self.current);
        if catalog.as_ref() == Some(&current.catalog) {
            return Ok(Arc::clone(&current));
        }
        if let Some(catalog) = &catalog
            && catalog.oid != current.catalog.oid
        {
            return Err(ReplanError::Unplannable(format!(
                "table `{}` was dropped and made again, while the ledger says that its rows are written: restore it, or give the pipeline a new name to read the topic again",
                self.config.table.name
            )));
        }
        let planned = Arc::new(plan(&self.config, catalog, current.version + 1)?);
        info!(pipeline = self.config.name, version = planned.version, "planned anew after a change of the catalog");
        *current = Arc::clone(&planned);
        self.version.store(planned.version, Ordering::Relaxed);
        Ok(planned)
    }
}

async fn read(config: &Pipeline, connection: &mut PgConnection) -> Result<Option<Catalog>, ReplanError> {
    catalog::load(connection, &config.table.name).await.map_err(database)
}

fn database(error: sqlx::Error) -> ReplanError {
    ReplanError::Write(WriteError { stage: Stage::Connect, cause: error::cause(error) })
}

/// Two instances may make the same table at once: one does, under a lock, and the other finds it there.
async fn create(config: &Pipeline, connection: &mut PgConnection) -> Result<(), ReplanError> {
    let sql = ddl::create_table(config).map_err(|faults| unplannable(&faults))?;
    info!(pipeline = config.name, sql, "making the table");
    let name = config.table.name.quoted().replace('\'', "''");
    // The registration will name this table by its oid: a crash must not take it back, whatever the session's setting.
    let sql = format!(
        "SELECT set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock(hashtextextended('tidegate {name}', 0)); {sql}"
    );
    connection.execute(sql.as_str()).await.map_err(database)?;
    Ok(())
}

fn plan(config: &Pipeline, catalog: Option<Catalog>, version: u64) -> Result<Planned, ReplanError> {
    let Some(catalog) = catalog else {
        return Err(ReplanError::Unplannable(format!(
            "table `{}` does not exist: make it, or set `pipelines.{}.table.create = true`",
            config.table.name, config.name
        )));
    };
    let plan = Plan::new(config, &catalog).map_err(|faults| unplannable(&faults))?;
    for warning in plan.warnings() {
        warn!(pipeline = config.name, warning);
    }
    let merge = modes::merge(config, &plan, &catalog);
    let copy = merge.as_ref().map_or_else(|| plan.copy_statement().to_owned(), |merge| merge.copy.clone());
    Ok(Planned { version, plan: Arc::new(plan), copy, merge, catalog })
}

fn unplannable(faults: &[crate::mapping::PlanFault]) -> ReplanError {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    ReplanError::Unplannable(lines.join("\n"))
}

/// A rejection, with the names that the plan knows.
#[cold]
pub fn reject_of(plan: &Plan, rejection: Rejection) -> Reject {
    Reject {
        record: 0,
        reason: rejection.reason.code(),
        sqlstate: None,
        column: rejection.column.and_then(|column| plan.column_name(column)).map(Into::into),
        detail: rejection.detail.into(),
    }
}
