//! Reads from Postgres what `check` reports: the role, its rights, the kind of table, and whether the mapping suits the
//! table.

use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::{Executor, PgConnection, Row};
use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_protocol::partition::{LossCondition, resolve_start};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::store::ReplanError;
use tidegate_rows::catalog::{Catalog, RelationKind, TableName, quote_identifier};
use tidegate_rows::mapping::Plan;
use tidegate_rows::spec::{PartitionBy, WriteMode};
use tidegate_rows::write_mode::is_staged;
use tidegate_rows::write_mode::partitions::Bounds;

use super::creation::would_make;
use super::event_triggers::EventTriggers;
use super::report::PipelineReport;
use super::rights;
use super::stand_in::Trials;
use super::{KafkaReport, capacity};
use crate::cli::reach;
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::plan::{PlanSource, no_table};
use crate::postgres::register::{self, RegisterError, Registration};
use crate::postgres::{catalog, partitions, routes};

#[derive(Debug, Serialize)]
pub(super) struct PostgresReport {
    pub(super) version: String,
    pub(super) database: String,
    pub(super) user: String,
    /// Whether the pipeline has already been started on this database; false also if the role has no right to read the ledger.
    pub(super) registered: bool,
    pub(super) table_exists: bool,
}

impl PostgresReport {
    pub(super) fn text(&self) -> String {
        let Self { version, database, user, .. } = self;
        let known = if self.registered { "registered" } else { "not registered yet" };
        format!("  Postgres    {version}, database {database} as {user}; the pipeline is {known}\n")
    }
}

/// The plans of a pipeline. `make_table` is the SQL that creates the missing tables in a trial; `None` if no table is missing.
/// `triggers` are the event triggers that may refuse the daemon's statements; `None` if this session runs none.
#[derive(Debug)]
pub(super) struct Plans {
    pub(super) source: PlanSource,
    pub(super) make_table: Option<String>,
    pub(super) triggers: Option<EventTriggers>,
}

/// Checks the pipeline's database. Returns `None` if there is no plan; the report then says why.
pub(super) async fn check(
    config: &Config,
    pipeline: &Pipeline,
    report: &mut PipelineReport,
) -> Result<Option<Plans>, FatalError> {
    let failed = |error| reach::failed("can't read from the database", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    let open = &mut connection;
    server(open, pipeline, report).await.map_err(failed)?;
    capacity::check(open, config, report).await.map_err(failed)?;
    let triggers = EventTriggers::read(open).await.map_err(failed)?;
    if pipeline.table.route.is_some() {
        ledger(open, triggers.as_ref(), report).await.map_err(failed)?;
        if !report.grants.is_empty() {
            return Ok(None);
        }
        let looked = PlanSource::look(pipeline, open).await;
        let source = planned(looked, report)?;
        return Ok(source.map(|source| Plans { source, make_table: None, triggers }));
    }
    let found = catalog::load(open, &pipeline.table.name).await.map_err(failed)?;
    if let Some(postgres) = &mut report.postgres {
        postgres.table_exists = found.is_some();
    }
    ledger(open, triggers.as_ref(), report).await.map_err(failed)?;
    let (found, make_table) = match found {
        Some(found) => {
            table(open, pipeline, &found, report).await.map_err(failed)?;
            (found, None)
        }
        None if pipeline.table.create => match would_make(open, pipeline, triggers.as_ref(), report).await? {
            Some((found, ddl)) => (found, Some(ddl)),
            None => return Ok(None),
        },
        None => {
            let elsewhere = catalog::elsewhere(open, &pipeline.table.name).await.map_err(failed)?;
            report.faults.push(no_table(pipeline, &elsewhere));
            return Ok(None);
        }
    };
    mapping(pipeline, &found, report);
    let source = planned(PlanSource::for_trial(pipeline, found), report)?;
    let Some(source) = source else { return Ok(None) };
    accepted(open, pipeline, Plans { source, make_table, triggers }, report).await.map_err(failed)
}

async fn ledger(
    connection: &mut PgConnection,
    triggers: Option<&EventTriggers>,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let faults = report.faults.len();
    rights::on_ledger(connection, report).await?;
    if report.faults.len() == faults
        && let Some(triggers) = triggers
    {
        triggers.on_ledger(connection, report).await?;
    }
    Ok(())
}

/// Tries the statements that the plans need and that an event trigger may refuse. Returns the plans, or `None` if Postgres
/// refuses a statement that the daemon can't do without. The report then has the refusal.
async fn accepted(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    plans: Plans,
    report: &mut PipelineReport,
) -> Result<Option<Plans>, sqlx::Error> {
    // If rights are missing, Postgres would refuse the statements for that reason, so don't try them.
    let Some(triggers) = plans.triggers.as_ref().filter(|_| report.grants.is_empty()) else { return Ok(Some(plans)) };
    Ok(triggers.on_tables(connection, pipeline, &plans, report).await?.then_some(plans))
}

/// Puts the plan into the report, and returns it. If there is no plan, reports why and returns `None`. Fails if a query of
/// Postgres failed.
fn planned(
    made: Result<PlanSource, ReplanError>,
    report: &mut PipelineReport,
) -> Result<Option<PlanSource>, FatalError> {
    match made {
        Ok(source) => {
            report.planned(&source.current().plan);
            Ok(Some(source))
        }
        Err(ReplanError::Unplannable(why)) => {
            report.faults.extend(why.lines().map(str::to_owned));
            Ok(None)
        }
        Err(ReplanError::Write(error)) => Err(FatalError::Unavailable(error.to_string())),
    }
}

/// Makes the plans for the tables that the pipeline knows already, and for those that the newest records name, as far as
/// `max_tables` allows. If a table doesn't exist yet, the plan is made for the table that the daemon would create.
pub(super) async fn for_named(
    config: &Config,
    pipeline: &Pipeline,
    named: &BTreeSet<TableName>,
    triggers: Option<EventTriggers>,
    report: &mut PipelineReport,
) -> Result<Option<Plans>, FatalError> {
    let failed = |error| reach::failed("can't read from the database", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    let open = &mut connection;
    let max_tables = pipeline.table.route.as_ref().map_or(0, |route| route.max_tables as usize);
    let mut named: Vec<TableName> = named.iter().cloned().collect();
    let before = routes::known(open, &pipeline.name).await.map_err(failed)?;
    named.retain(|table| !before.contains(table));
    named.truncate(max_tables.saturating_sub(before.len()));
    let there = routes::existing(open, &named).await.map_err(failed)?;
    let (mut catalogs, mut statements, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for table in before.iter().chain(&named) {
        let of_table = Pipeline { table: pipeline.table.named(table), ..pipeline.clone() };
        if let Some(found) = catalog::load(open, table).await.map_err(failed)? {
            if before.contains(table) || Plan::refusal(&pipeline.rows(), &found).is_none() {
                self::table(open, &of_table, &found, report).await.map_err(failed)?;
            }
            catalogs.push(found);
        } else if pipeline.table.create
            && !there.contains(table)
            && let Some((found, ddl)) = would_make(open, &of_table, triggers.as_ref(), report).await?
        {
            catalogs.push(found);
            statements.push(ddl);
        }
        shown.extend(report.ddl.take());
    }
    let make_table = (!statements.is_empty()).then(|| statements.join(";\n"));
    report.ddl = (!shown.is_empty()).then(|| shown.join(";\n"));
    let source = planned(PlanSource::of_routes(pipeline, catalogs), report)?;
    let Some(source) = source else { return Ok(None) };
    accepted(open, pipeline, Plans { source, make_table, triggers }, report).await.map_err(failed)
}

/// Returns whether one of the time ranges `wanted` has no existing partition that accepts its rows. Also returns true if Postgres
/// can't evaluate the conditions of the partitions.
pub(super) async fn lack_place(
    config: &Config,
    pipeline: &Pipeline,
    by: &PartitionBy,
    wanted: &[Bounds],
) -> Result<bool, FatalError> {
    let mut connection = reach::open(&reach::connector(config)).await?;
    let without = partitions::without_place(&mut connection, &pipeline.table.name, by, wanted).await;
    without
        .map(|without| !without.is_empty())
        .map_err(|error| reach::failed("can't read the table's partitions", error))
}

/// Returns how the newest records can be tried without a lasting change. Returns `None` if there is no such way; the report then
/// says why.
pub(super) async fn trials(
    config: &Config,
    pipeline: &Pipeline,
    plans: &Plans,
    report: &mut PipelineReport,
) -> Result<Option<Trials>, FatalError> {
    let failed = |error| reach::failed("can't read from the database", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    let open = &mut connection;
    let (planned, mut trials) = (plans.source.current(), Trials::default());
    let single = (!planned.plan.is_routed()).then_some(&planned.table);
    // `after_create` may add triggers and defaults to a new table. They too may write to tables or draw numbers from sequences,
    // so create the missing tables before reading the catalogs.
    let begin = format!("BEGIN;\n{}", plans.make_table.as_deref().unwrap_or_default());
    open.execute(begin.as_str()).await.map_err(failed)?;
    for table in planned.routes.iter().chain(single) {
        let Some(found) = catalog::load(open, &table.catalog.table).await.map_err(failed)? else { continue };
        trials.add(open, pipeline, &found, table.catalog.oid).await.map_err(failed)?;
    }
    open.execute("ROLLBACK").await.map_err(failed)?;
    if !trials.exhausted.is_empty() {
        let faults = trials.exhausted.iter().map(|what| format!("pipelines.{}.table: {what}", pipeline.name));
        report.faults.extend(faults);
        return Ok(None);
    }
    if trials.needs_temp() && !rights::may_stage(open).await.map_err(failed)? {
        report.warnings.push(
            "the newest records were not tried: the table's defaults or triggers may draw from sequences, which no rollback undoes, and the role may not create the temporary table that replaces it (GRANT TEMP ON DATABASE)"
                .to_owned(),
        );
        return Ok(None);
    }
    if let Some(triggers) = &plans.triggers
        && !triggers.on_trials(open, plans.make_table.as_deref(), &trials, report).await.map_err(failed)?
    {
        return Ok(None);
    }
    Ok(Some(trials))
}

async fn server(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_setting('server_version'), current_database()::text, current_user::text,
             pg_is_in_recovery(), current_setting('synchronous_commit'), current_setting('default_transaction_read_only')::bool,
             pg_encoding_to_char(d.encoding)::text, current_setting('session_replication_role')
         FROM pg_catalog.pg_database d WHERE d.datname = current_database()",
    );
    let row = row.fetch_one(&mut *connection).await?;
    let database: String = row.try_get(1)?;
    if row.try_get(3)? {
        report.faults.push("postgres.url: the server is a standby, which is read-only; name the primary".to_owned());
    } else if row.try_get(5)? {
        let user: String = row.try_get(2)?;
        report.faults.push(format!(
            "`default_transaction_read_only` is on for `{user}` in `{database}`, so that nothing can be written; run the one that applies: ALTER ROLE {0} RESET default_transaction_read_only; ALTER DATABASE {1} RESET default_transaction_read_only;",
            quote_identifier(&user),
            quote_identifier(&database)
        ));
    }
    let encoding: &str = row.try_get(6)?;
    if encoding != "UTF8" {
        report.warnings.push(format!(
            "database {database} is encoded in {encoding}, and not in UTF8: a record with a character that {encoding} lacks is dead-lettered"
        ));
    }
    if row.try_get::<&str, _>(7)? == "replica" {
        report.warnings.push(
            "session_replication_role is `replica`: foreign keys and triggers of the table are not applied to its rows"
                .to_owned(),
        );
    }
    if row.try_get::<&str, _>(4)? == "off" {
        report.warnings.push(
            "postgres.session.synchronous_commit is off: a crash of the server undoes the last commits, rows and ledger together; they are read again from Kafka"
                .to_owned(),
        );
    }
    let registered =
        rights::may_read_ledger(connection).await? && register::is_known(connection, &pipeline.name).await?;
    report.postgres = Some(PostgresReport {
        version: row.try_get(0)?,
        database,
        user: row.try_get(2)?,
        registered,
        table_exists: false,
    });
    Ok(())
}

/// Checks the role's rights on an existing table, and reports properties of the table that affect the pipeline's writes.
async fn table(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    found: &Catalog,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let name = &pipeline.table.name;
    rights::on_table(connection, pipeline, found, report).await?;
    let row = sqlx::query(
        "SELECT c.relpersistence::text,
             NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
         FROM pg_catalog.pg_class c WHERE c.oid = $1::int8::oid",
    );
    let row = row.bind(i64::from(found.oid)).fetch_one(&mut *connection).await?;
    let (persistence, without_partitions): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
    if found.row_security {
        report.warnings.push(format!(
            "row-level security of `{name}` applies to `{}`: rows are written by INSERT, since COPY refuses such a table, and a row that a policy refuses becomes a dead letter",
            report.postgres.as_ref().map_or("", |postgres| &postgres.user)
        ));
    }
    if found.kind == RelationKind::Partitioned && pipeline.table.partition_by.is_none() && without_partitions {
        report.faults.push(format!(
            "`{name}` is partitioned and has no partition, so it accepts no row; create its partitions, or set pipelines.{}.table.partition_by",
            pipeline.name
        ));
    }
    surprises(connection, pipeline, found, report).await?;
    if found.kind == RelationKind::Foreign {
        report.warnings.push(format!(
            "`{name}` is a foreign table: its server commits on its own, so a crash between the two commits may write records twice"
        ));
    }
    if persistence == "u" {
        report.warnings.push(format!(
            "`{name}` is unlogged: a crash of the server empties it, while the ledger says that its rows are written"
        ));
    }
    Ok(())
}

/// Reports the table's triggers on insert, and its rules on insert or update, with their effect on the pipeline's writes.
async fn surprises(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    found: &Catalog,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    // In tgtype, INSERT is the bit with the value 4. Partitions have copies of their parent's triggers, so look at the parent
    // only.
    let row = sqlx::query(
        "SELECT (SELECT string_agg(tgname::text, ', ' ORDER BY tgname) FROM pg_catalog.pg_trigger
                 WHERE tgrelid = $1::int8::oid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 4 <> 0),
             (SELECT string_agg(rulename::text, ', ' ORDER BY rulename) FROM pg_catalog.pg_rewrite
                 WHERE ev_class = $1::int8::oid AND ev_type IN ('2', '3') AND ev_enabled <> 'D')",
    );
    let row = row.bind(i64::from(found.oid)).fetch_one(connection).await?;
    let name = &found.table;
    if let Some(triggers) = row.try_get::<Option<String>, _>(0)? {
        report.warnings.push(format!(
            "`{name}` has triggers that run on insert ({triggers}): they may change or skip rows, and a row for which they raise an error becomes a dead letter"
        ));
    }
    if let Some(rules) = row.try_get::<Option<String>, _>(1)? {
        match pipeline.table.mode {
            WriteMode::Append if is_staged(&pipeline.rows(), found) => {
                report.warnings.push(format!("`{name}` has rules ({rules}), which change what an INSERT does"));
            }
            WriteMode::Append => report.warnings.push(format!("`{name}` has rules ({rules}), which COPY ignores")),
            _ => report.faults.push(format!(
                "mode {} merges by ON CONFLICT, which Postgres refuses for `{name}`, since it has rules on insert or update ({rules}); drop them, or use triggers",
                pipeline.table.mode.word()
            )),
        }
    }
    Ok(())
}

/// Warns of effects of the mapping that are likely to surprise its user.
fn mapping(pipeline: &Pipeline, found: &Catalog, report: &mut PipelineReport) {
    let Some(columns) = &pipeline.columns else { return };
    for column in columns {
        let Some(target) = found.columns.iter().find(|target| target.name == column.name) else { continue };
        let note = match target.base_type.as_str() {
            "timestamp" if column.unit.is_none() => {
                "is a timestamp without time zone: times with an offset other than Z are dead letters; timestamptz takes both"
            }
            "json" => "is json: it keeps the text unchanged, and can't be indexed; most tables use jsonb",
            "bpchar" => "is char(n): Postgres pads its values with spaces",
            "float4" => "is float4: values are rounded to about 7 digits",
            _ => continue,
        };
        report.warnings.push(format!("column `{}` {note}", column.name));
    }
    let unfilled: Vec<_> = found
        .columns
        .iter()
        .filter(|target| target.generated.is_none() && !columns.iter().any(|column| column.name == target.name))
        .filter(|target| !matches!(&pipeline.unknown_fields, tidegate_rows::spec::UnknownFields::Column(name) if *name == target.name))
        .map(|target| format!("`{}`", target.name))
        .collect();
    if !unfilled.is_empty() {
        report.warnings.push(format!("nothing is mapped to {}: their defaults apply", unfilled.join(", ")));
    }
    let generated: Vec<_> = found
        .columns
        .iter()
        .filter(|target| target.generated.is_some())
        .map(|target| format!("`{}`", target.name))
        .collect();
    if !generated.is_empty() {
        report.warnings.push(format!("Postgres fills {} itself", generated.join(", ")));
    }
}

/// Compares the pipeline's cluster, group and table with those that were registered under its name. If they are the same, also
/// compares the ledger's positions with the logs. If the pipeline isn't registered, checks that no other pipeline writes the same
/// topic to the table. Does nothing if the role has no right to read the ledger.
pub(super) async fn registration(
    config: &Config,
    pipeline: &Pipeline,
    kafka: &KafkaReport,
    target_oid: u32,
    report: &mut PipelineReport,
) -> Result<(), FatalError> {
    let failed = |error| reach::failed("can't read the pipeline's registration", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    if !rights::may_read_ledger(&mut connection).await.map_err(failed)? {
        return Ok(());
    }
    let wanted = Registration {
        pipeline: pipeline.name.clone(),
        cluster_id: kafka.cluster_id.clone(),
        group_id: pipeline.group.clone(),
        target: pipeline.table.name.to_string(),
        target_oid,
        topics: kafka.topics.iter().map(|(topic, found)| (topic.clone(), found.partitions)).collect(),
    };
    match register::is_as_registered(&mut connection, &wanted).await {
        Ok(false) => Ok(()),
        Ok(true) => positions(&mut connection, pipeline, kafka, report).await.map_err(failed),
        Err(RegisterError::Differs(why)) => {
            report.faults.push(why);
            Ok(())
        }
        Err(RegisterError::Database(error)) => Err(failed(error)),
    }
}

/// Compares the ledger's positions with the logs, as a consumer does when it claims a partition.
async fn positions(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    kafka: &KafkaReport,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        "SELECT t.topic, p.partition::int4, (SELECT l.next_offset FROM tidegate.ledger l
             WHERE l.pipeline = r.name AND l.topic = t.topic AND l.partition = p.partition
             ORDER BY l.next_offset DESC LIMIT 1)
         FROM tidegate.pipeline r CROSS JOIN LATERAL jsonb_each_text(r.topics) AS t (topic, partitions)
         CROSS JOIN LATERAL generate_series(0, t.partitions::int4 - 1) AS p (partition) WHERE r.name = $1",
    );
    for row in rows.bind(&pipeline.name).fetch_all(connection).await? {
        let source = TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?);
        // Nobody will claim a partition that Kafka doesn't have.
        let Some((low, high)) = kafka.logs.get(&source) else { continue };
        let condition = match row.try_get::<Option<i64>, _>(2)? {
            None => Some(LossCondition::LedgerLost),
            Some(next) => resolve_start(Offset::new(next), None, *low, *high).err(),
        };
        if let Some(condition) = condition {
            let list = match pipeline.on_offset_loss {
                OffsetLossPolicy::Fail => &mut report.faults,
                OffsetLossPolicy::Earliest | OffsetLossPolicy::Latest => &mut report.warnings,
            };
            list.push(format!("{source}: {condition}"));
        }
    }
    Ok(())
}
