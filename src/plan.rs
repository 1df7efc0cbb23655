//! The plan of a pipeline: how records become rows, and the SQL that writes the rows. A plan is made from the configuration and
//! the catalog. When the catalog has changed, a new plan replaces it. The pipeline's poll threads and writers share the plan.

mod encoder;
mod unseen;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::{Connection, Executor, PgConnection};
use tidegate_protocol::retry::{Disposition, Stage};
use tidegate_protocol::store::{ReplanError, WriteError};
use tidegate_rows::catalog::{Catalog, CatalogColumn, TableName};
use tidegate_rows::ddl;
use tidegate_rows::mapping::evolve::{GivenUp, NewFields};
use tidegate_rows::mapping::shapes::Shapes;
use tidegate_rows::mapping::{Plan, Taken};
use tidegate_rows::spec::RowSpec;
use tidegate_rows::write_mode::{Merge, MergeTarget};
use tracing::{info, warn};

pub use encoder::{PlannedEncoder, rejected_record};
pub use unseen::NeverSeen;

use crate::config::Pipeline;
use crate::postgres::connect::lock_for_session;
use crate::postgres::routes::{self, TableClaim};
use crate::postgres::{catalog, error, register};
use crate::registry::CachedSchemas;
use crate::status::lock;
use unseen::Unseen;

/// Makes the plans of one pipeline, and has the newest one. The pipeline's poll threads and writers share it.
#[derive(Debug)]
pub struct PlanSource {
    config: Pipeline,
    /// The registry's cached schemas, which all plans share; `None` if the format needs no registry.
    schemas: Option<Arc<CachedSchemas>>,
    /// The newest plan. Encoders lock it only after `version` has changed.
    current: Mutex<Arc<Planned>>,
    version: AtomicU64,
    /// New fields that can't become columns. In the daemon, only writers lock this, when they make a new plan.
    given_up: Mutex<GivenUp>,
    /// Tables that records named and that can't receive rows, each with the reason. Only writers lock this.
    refused: Mutex<BTreeMap<TableName, String>>,
    /// Counts the fields that records lack. Poll threads and writers lock this about once per batch.
    unseen: Mutex<Unseen>,
}

/// A plan, and the SQL derived from it.
#[derive(Debug)]
pub struct Planned {
    /// Higher than the versions of the pipeline's earlier plans.
    pub version: u64,
    pub plan: Arc<Plan>,
    /// The table for which the plan was made. If records name their table, this is a table without columns.
    pub table: PlannedTable,
    /// If records name their table: the tables that can receive rows. The mark in front of an encoded row has the index of the
    /// row's table in this list.
    pub routes: Vec<PlannedTable>,
    /// The catalogs from which `routes` was made. If the current catalogs differ from these, a new plan is needed.
    known: Vec<Catalog>,
}

/// A table into which rows are written, and the SQL that writes them.
#[derive(Clone, Debug)]
pub struct PlannedTable {
    pub catalog: Catalog,
    /// The columns of a complete row: one that leaves no column out.
    columns: Vec<String>,
    /// The COPY statement for complete rows.
    pub copy: String,
    /// The statements that stage rows and merge them into the table; `None` if COPY writes directly into the table.
    pub merge: Option<Merge>,
    /// The columns that a row may leave out.
    pub shapes: Shapes,
    /// The index of the table, if records name their table. `None` if the pipeline has one table.
    number: Option<u16>,
}

impl PlannedTable {
    fn new(config: &Pipeline, taken: Taken, number: Option<u16>) -> Self {
        let Taken { catalog, columns, copy, shapes } = taken;
        let mut planned = Self { catalog, columns, copy, merge: None, shapes, number };
        planned.merge = planned.with(&config.rows(), |target| target.merge());
        if let Some(merge) = &planned.merge {
            planned.copy.clone_from(&merge.copy);
        }
        planned
    }

    /// Returns the columns that have a default and that some row of this table may leave out.
    pub fn may_default(&self) -> impl Iterator<Item = &CatalogColumn> {
        let given = |name: &str| !self.has(name) || self.shapes.columns().any(|(_, of)| of.name == name);
        self.catalog.columns.iter().filter(move |column| column.default_oid.is_some() && given(&column.name))
    }

    /// Returns whether rows of this table may have the column; a row may still leave it out.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// Returns the same plan for another table or view with the same columns.
    fn on(&self, config: &Pipeline, catalog: Catalog) -> Self {
        let Self { columns, copy, shapes, number, .. } = self;
        let taken = Taken { catalog, columns: columns.clone(), copy: copy.clone(), shapes: shapes.clone() };
        Self::new(config, taken, *number)
    }

    /// Calls `ask` with this table as the target of a merge, and returns the result of `ask`. `spec` has the settings of the
    /// pipeline.
    pub fn with<T>(&self, spec: &RowSpec<'_>, ask: impl FnOnce(MergeTarget<'_>) -> T) -> T {
        let Self { catalog, columns, shapes, number, .. } = self;
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        ask(MergeTarget { spec, catalog, columns: &columns, shapes, number: *number })
    }
}

impl PlanSource {
    /// Reads the catalog, and makes a plan. With `create = true`, first creates the table if it doesn't exist. If records name
    /// their tables, creates no table, and plans for the tables that they have named so far.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] if no plan is possible, or if Postgres refuses to create the table with its
    /// `after_create`; the text says why. [`ReplanError::Write`] if Postgres returns another error.
    pub async fn load(config: &Pipeline, connection: &mut PgConnection) -> Result<Self, ReplanError> {
        if config.table.route.is_some() {
            return Self::of_routes(config, known(config, connection).await?);
        }
        let mut catalog = read(config, connection).await?;
        if catalog.is_none() && config.table.create {
            create(&config.rows(), connection).await?;
            catalog = read(config, connection).await?;
        }
        match catalog {
            Some(catalog) => Self::of(config, catalog),
            None => Err(missing(config, connection).await),
        }
    }

    /// Like [`Self::load`], but creates nothing: for commands.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn look(config: &Pipeline, connection: &mut PgConnection) -> Result<Self, ReplanError> {
        if config.table.route.is_some() {
            return Self::of_routes(config, known(config, connection).await?);
        }
        match read(config, connection).await? {
            Some(catalog) => Self::of(config, catalog),
            None => Err(missing(config, connection).await),
        }
    }

    /// Returns the columns of the mapping whose field no record has had since the newest plan. Returns none before this plan has
    /// encoded 1000 rows. Leaves out columns with a default, and columns for which the mapping says what a missing field means.
    pub fn never_seen(&self) -> Vec<NeverSeen> {
        lock(&self.unseen).never_seen()
    }

    /// Returns whether the records are expected to have a column's field: the mapping names the field, and doesn't say what a
    /// missing one means.
    fn expects_field(&self, column: &str) -> bool {
        let mut mapped = self.config.columns.iter().flatten();
        mapped.any(|mapped| mapped.name == column && mapped.missing.is_none())
    }

    /// Makes a plan for the existing tables `known`, for a pipeline whose records name their tables.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_routes(config: &Pipeline, known: Vec<Catalog>) -> Result<Self, ReplanError> {
        let schemas = schemas(config)?;
        Ok(Self::starting_with(config, plan_routes(config, known, &BTreeMap::new(), 1, schemas.clone())?, schemas))
    }

    fn starting_with(config: &Pipeline, planned: Planned, schemas: Option<Arc<CachedSchemas>>) -> Self {
        Self {
            config: config.clone(),
            schemas,
            version: AtomicU64::new(planned.version),
            current: Mutex::new(Arc::new(planned)),
            given_up: Mutex::default(),
            refused: Mutex::default(),
            unseen: Mutex::default(),
        }
    }

    fn of(config: &Pipeline, catalog: Catalog) -> Result<Self, ReplanError> {
        let schemas = schemas(config)?;
        Ok(Self::starting_with(config, plan(config, catalog, 1, schemas.clone())?, schemas))
    }

    /// Makes a plan for this catalog, for a trial. Nothing is created, and no new field becomes a column.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] if no plan is possible; the text says why.
    pub fn for_trial(config: &Pipeline, catalog: Catalog) -> Result<Self, ReplanError> {
        let schemas = schemas(config)?;
        let mut planned = plan(config, catalog, 1, schemas.clone())?;
        planned.plan = Arc::new(Arc::unwrap_or_clone(planned.plan).giving_up(GivenUp::All));
        Ok(Self { given_up: Mutex::new(GivenUp::All), ..Self::starting_with(config, planned, schemas) })
    }

    /// Returns the same plan with some tables replaced, for a trial. `targets` maps the oid of a table to the catalog of its
    /// replacement. With `no_partitions`, no partition is created for rows.
    pub fn retargeted(&self, targets: &BTreeMap<u32, Catalog>, no_partitions: bool) -> Self {
        let current = self.current();
        let mut config = self.config.clone();
        config.table.partition_by = config.table.partition_by.filter(|_| !no_partitions);
        let on = |table: &PlannedTable| {
            let catalog = targets.get(&table.catalog.oid).unwrap_or(&table.catalog);
            table.on(&config, catalog.clone())
        };
        let is_routed = current.plan.is_routed();
        let planned = Planned {
            version: current.version,
            plan: Arc::clone(&current.plan),
            table: if is_routed { current.table.clone() } else { on(&current.table) },
            routes: current.routes.iter().map(on).collect(),
            known: current.known.clone(),
        };
        let given_up = Mutex::new(lock(&self.given_up).clone());
        Self { given_up, ..Self::starting_with(&config, planned, self.schemas.clone()) }
    }

    pub fn config(&self) -> &Pipeline {
        &self.config
    }

    pub fn schemas(&self) -> Option<&Arc<CachedSchemas>> {
        self.schemas.as_ref()
    }

    pub fn current(&self) -> Arc<Planned> {
        Arc::clone(&lock(&self.current))
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Reads the catalog again. Makes a new plan only if the catalog differs.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] if the table doesn't exist or was replaced by another one, or if
    /// no plan is possible for its new catalog. [`ReplanError::Write`] if Postgres returns an error.
    pub async fn replan(&self, connection: &mut PgConnection) -> Result<Arc<Planned>, ReplanError> {
        if self.config.table.route.is_some() {
            return self.reroute(known(&self.config, connection).await?, BTreeMap::new());
        }
        let catalog = read(&self.config, connection).await?;
        self.replan_for(catalog, &NewFields::default())
    }

    /// Plans again after columns were added for these fields. Fields that still have no column are from now on handled
    /// as `unknown_fields` says.
    ///
    /// # Errors
    /// As [`Self::replan`].
    pub(crate) async fn evolved(
        &self,
        connection: &mut PgConnection,
        fields: &NewFields,
    ) -> Result<Arc<Planned>, ReplanError> {
        let catalog = read(&self.config, connection).await?;
        self.replan_for(catalog, fields)
    }

    /// Registers the tables in `wanted`, which records named, for the pipeline, up to its `max_tables`. With `create = true`,
    /// first creates tables that are missing. Then makes a plan for all tables of the pipeline that can receive rows. Takes a
    /// session lock, so that no other instance creates or registers a table meanwhile. The caller must use the connection for
    /// nothing else.
    ///
    /// # Errors
    /// [`ReplanError::Unplannable`] if another pipeline feeds one of these tables from a topic of this pipeline, or if
    /// Postgres refuses to create a table, for example because the role lacks the right. [`ReplanError::Write`] in an outage.
    pub(crate) async fn route(
        &self,
        connection: &mut PgConnection,
        wanted: &[TableName],
    ) -> Result<Arc<Planned>, ReplanError> {
        let config = &self.config;
        let max_tables = config.table.route.as_ref().map_or(0, |route| route.max_tables);
        lock_for_session(connection, &format!("tidegate routes of {}", config.name)).await.map_err(fault)?;
        let there = routes::existing(connection, wanted).await.map_err(fault)?;
        let mut refused = BTreeMap::new();
        let (mut claimed, mut full) = (0, false);
        let takeable = wanted.iter().filter(|table| config.table.create || there.contains(table));
        // Without this limit, a batch full of unintended names would cause one query per name.
        for table in takeable.take(max_tables as usize) {
            let table_spec = config.table.named(table);
            let of_table = RowSpec { table: &table_spec, ..config.rows() };
            if !there.contains(table) {
                // Create nothing if the pipeline has `max_tables` tables by now. For example, another instance registered the
                // last one.
                if routes::known(connection, &config.name).await.map_err(fault)?.len() >= max_tables as usize {
                    full = true;
                    continue;
                }
                create(&of_table, connection).await?;
            }
            let Some(catalog) = catalog::load(connection, table).await.map_err(fault)? else { continue };
            if let Some(why) = Plan::refusal(&config.rows(), &catalog) {
                refused.insert(table.clone(), why);
                continue;
            }
            match routes::claim(connection, &config.name, max_tables, &catalog).await.map_err(fault)? {
                TableClaim::Ours => claimed += 1,
                TableClaim::Full => full = true,
                TableClaim::Fed { by } => {
                    return Err(ReplanError::Unplannable(format!(
                        "a record is for `{table}`, but pipeline `{by}` already writes a topic of pipeline `{}` into `{table}`, so the table would have every record twice: use another table for one of the two pipelines",
                        config.name
                    )));
                }
            }
        }
        if claimed == 0 && refused.is_empty() && !full {
            return Ok(self.current());
        }
        self.reroute(known(config, connection).await?, refused)
    }

    fn reroute(&self, known: Vec<Catalog>, refused: BTreeMap<TableName, String>) -> Result<Arc<Planned>, ReplanError> {
        let mut current = lock(&self.current);
        let mut all = lock(&self.refused);
        let news = refused.iter().any(|(table, why)| all.get(table) != Some(why));
        if known == current.known && !news {
            return Ok(Arc::clone(&current));
        }
        all.extend(refused);
        all.retain(|table, _| !known.iter().any(|catalog| catalog.table == *table));
        let planned = Arc::new(plan_routes(&self.config, known, &all, current.version + 1, self.schemas.clone())?);
        info!(
            pipeline = self.config.name,
            version = planned.version,
            tables = planned.routes.len(),
            "made a new plan for the tables that records name"
        );
        *current = Arc::clone(&planned);
        self.version.store(planned.version, Ordering::Relaxed);
        Ok(planned)
    }

    fn replan_for(&self, catalog: Option<Catalog>, fields: &NewFields) -> Result<Arc<Planned>, ReplanError> {
        let mut current = lock(&self.current);
        let oid = catalog.as_ref().map_or(0, |catalog| catalog.oid);
        let Some(catalog) = catalog.filter(|found| found.oid == current.table.catalog.oid) else {
            let (name, table) = (&self.config.name, &self.config.table.name);
            return Err(ReplanError::Unplannable(register::other_table(name, table, oid)));
        };
        let same = catalog == current.table.catalog;
        if same && fields.0.is_empty() {
            return Ok(Arc::clone(&current));
        }
        let mut planned = plan(&self.config, catalog, current.version + 1, self.schemas.clone())?;
        let mut given_up = lock(&self.given_up);
        let without = fields.0.keys().filter(|name| !planned.plan.reads(name));
        let without: Vec<String> = without.cloned().collect();
        if !without.is_empty() {
            warn!(pipeline = self.config.name, fields = ?without, "these fields can't become columns; they are handled as `unknown_fields` says");
        }
        if !given_up.add(without.into_iter()) && same {
            return Ok(Arc::clone(&current));
        }
        planned.plan = Arc::new(Arc::unwrap_or_clone(planned.plan).giving_up(given_up.clone()));
        let planned = Arc::new(planned);
        info!(pipeline = self.config.name, version = planned.version, "made a new plan after a change of the catalog");
        *current = Arc::clone(&planned);
        self.version.store(planned.version, Ordering::Relaxed);
        Ok(planned)
    }
}

/// Starts the client of the schema registry, if the format uses a registry.
fn schemas(config: &Pipeline) -> Result<Option<Arc<CachedSchemas>>, ReplanError> {
    let schemas =
        config.schema_registry.as_deref().map(|registry| CachedSchemas::start(registry, &config.name)).transpose();
    schemas.map_err(ReplanError::Unplannable)
}

async fn read(config: &Pipeline, connection: &mut PgConnection) -> Result<Option<Catalog>, ReplanError> {
    catalog::load(connection, &config.table.name).await.map_err(database)
}

/// Reads the catalogs of the tables that records have named so far, if the tables still exist.
async fn known(config: &Pipeline, connection: &mut PgConnection) -> Result<Vec<Catalog>, ReplanError> {
    let mut known = Vec::new();
    for table in routes::known(connection, &config.name).await.map_err(database)? {
        known.extend(catalog::load(connection, &table).await.map_err(database)?);
    }
    Ok(known)
}

fn plan_routes(
    config: &Pipeline,
    known: Vec<Catalog>,
    refused: &BTreeMap<TableName, String>,
    version: u64,
    schemas: Option<Arc<CachedSchemas>>,
) -> Result<Planned, ReplanError> {
    let (plan, taken) = Plan::routed(&config.rows(), known.clone(), refused).map_err(|faults| unplannable(&faults))?;
    let plan = plan.with_schemas(schemas);
    let routes = taken.into_iter().zip(0_u16..).map(|(taken, number)| PlannedTable::new(config, taken, Some(number)));
    let routes = routes.collect();
    let table = PlannedTable {
        catalog: Catalog::without_columns(config.table.name.clone()),
        columns: Vec::new(),
        copy: String::new(),
        merge: None,
        shapes: Shapes::default(),
        number: None,
    };
    Ok(Planned { version, plan: Arc::new(plan), table, routes, known })
}

/// Converts the error of a statement that writes no records: either to an outage, or to a fault that stops the pipeline.
fn fault(error: sqlx::Error) -> ReplanError {
    let error = WriteError { stage: Stage::Begin, cause: error::cause(error) };
    match error.disposition() {
        Disposition::Outage => ReplanError::Write(error),
        _ => ReplanError::Unplannable(error.to_string()),
    }
}

fn database(error: sqlx::Error) -> ReplanError {
    ReplanError::Write(WriteError { stage: Stage::Connect, cause: error::cause(error) })
}

/// Creates the table. If two instances do so at the same time, one creates it under a lock, and the other then finds it.
async fn create(spec: &RowSpec<'_>, connection: &mut PgConnection) -> Result<(), ReplanError> {
    let sql = ddl::make_table(spec).map_err(|faults| unplannable(&faults))?.join(";\n");
    let making = async {
        let mut transaction = connection.begin().await?;
        let name = spec.table.name.quoted().replace('\'', "''");
        // The registration will contain the oid of this table. So a crash must not undo its creation, even if the
        // session sets `synchronous_commit` to off.
        let settings = format!(
            "SELECT set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock(hashtextextended('tidegate {name}', 0))"
        );
        transaction.execute(settings.as_str()).await?;
        if routes::existing(&mut transaction, std::slice::from_ref(&spec.table.name)).await?.is_empty() {
            info!(pipeline = spec.pipeline, sql, "creating the table");
            transaction.execute(sql.as_str()).await?;
        }
        transaction.commit().await
    };
    match making.await {
        // A client that doesn't use Tidegate's lock has created the table, or its row type, meanwhile.
        Err(sqlx::Error::Database(error))
            if spec.table.after_create.is_empty()
                && matches!(error.code().as_deref(), Some("42P07" | "23505" | "42710")) =>
        {
            Ok(())
        }
        Err(error) if !spec.table.after_create.is_empty() => {
            let error = WriteError { stage: Stage::Begin, cause: error::cause(error) };
            match error.disposition() {
                Disposition::Outage => Err(ReplanError::Write(error)),
                _ => Err(ReplanError::Unplannable(format!(
                    "pipelines.{}.table.after_create: can't create `{}` with it: {error}; nothing was created",
                    spec.pipeline, spec.table.name
                ))),
            }
        }
        outcome => outcome.map_err(if spec.table.route.is_some() { fault } else { database }),
    }
}

/// Returns the error that the pipeline's table doesn't exist, for a pipeline that doesn't create its table.
async fn missing(config: &Pipeline, connection: &mut PgConnection) -> ReplanError {
    match catalog::elsewhere(connection, &config.table.name).await {
        Ok(elsewhere) => ReplanError::Unplannable(no_table(config, &elsewhere)),
        Err(error) => database(error),
    }
}

/// Returns the message that the pipeline's table doesn't exist, with the remedy. `elsewhere` are other schemas with a table of
/// the same name.
pub(crate) fn no_table(config: &Pipeline, elsewhere: &[String]) -> String {
    let Pipeline { name, table, .. } = config;
    let found: Vec<_> = elsewhere.iter().map(|schema| format!("`{schema}.{}`", table.name.name)).collect();
    let hint = if found.is_empty() {
        String::new()
    } else {
        format!("; {} exists: if that is the table, name it with its schema in `table.name`", found.join(", "))
    };
    format!("table `{}` does not exist: create it, or set `pipelines.{name}.table.create = true`{hint}", table.name)
}

fn plan(
    config: &Pipeline,
    catalog: Catalog,
    version: u64,
    schemas: Option<Arc<CachedSchemas>>,
) -> Result<Planned, ReplanError> {
    let plan = Plan::new(&config.rows(), &catalog).map_err(|faults| unplannable(&faults))?.with_schemas(schemas);
    for warning in plan.warnings() {
        warn!(pipeline = config.name, warning);
    }
    let taken = Taken {
        columns: plan.column_names().map(str::to_owned).collect(),
        copy: plan.copy_statement().to_owned(),
        shapes: plan.shapes().clone(),
        catalog,
    };
    let table = PlannedTable::new(config, taken, None);
    Ok(Planned { version, plan: Arc::new(plan), table, routes: Vec::new(), known: Vec::new() })
}

fn unplannable(faults: &[tidegate_rows::fault::PlanFault]) -> ReplanError {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    ReplanError::Unplannable(lines.join("\n"))
}
