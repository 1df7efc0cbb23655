//! The rights that the daemon needs in Postgres, and the statements that grant the missing ones.

use sqlx::{PgConnection, Row};
use tidegate_rows::catalog::{Catalog, TableName, quote_identifier};
use tidegate_rows::spec::{UnknownFields, WriteMode};
use tidegate_rows::write_mode::{computed, is_staged};

use super::report::PipelineReport;
use crate::config::Pipeline;
use crate::postgres::{partitions, schema};

/// Reports the missing rights on schema `tidegate`, and a state of the schema that this version can't use.
pub(super) async fn on_ledger(connection: &mut PgConnection, report: &mut PipelineReport) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "SELECT to_regnamespace('tidegate') IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),
             quote_ident(current_user), quote_ident(current_database()),
             coalesce(has_schema_privilege(to_regnamespace('tidegate'), 'USAGE'), false),
             coalesce(has_schema_privilege(to_regnamespace('tidegate'), 'CREATE'), false)",
    );
    let row = row.fetch_one(&mut *connection).await?;
    let (exists, may_create): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let (user, database): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    let (usage, create): (bool, bool) = (row.try_get(4)?, row.try_get(5)?);
    if !exists {
        if !may_create {
            report.grants.push(format!("CREATE SCHEMA tidegate AUTHORIZATION {user}"));
            report.faults.push(format!(
                "schema `tidegate` is missing and `{user}` may not create it; as a superuser run: CREATE SCHEMA tidegate AUTHORIZATION {user}; or, as an owner of the database, let `{user}` create the schema: GRANT CREATE ON DATABASE {database} TO {user};"
            ));
        }
        return Ok(());
    }
    if !usage {
        report.lacks(
            format!("`{user}` may not use schema `tidegate`"),
            format!("GRANT USAGE ON SCHEMA tidegate TO {user}"),
        );
    }
    let row = sqlx::query(
        "SELECT count(*) > 0,
             string_agg(c.relname, ', ' ORDER BY c.relname) FILTER (WHERE NOT (has_table_privilege(c.oid, 'SELECT')
                 AND (c.relname = '_sqlx_migrations' OR has_table_privilege(c.oid, 'INSERT')
                     AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))),
             coalesce(bool_or(c.relname = '_sqlx_migrations' AND has_table_privilege(c.oid, 'SELECT')), false),
             (SELECT quote_ident(r.rolname) FROM pg_catalog.pg_class o JOIN pg_catalog.pg_roles r ON r.oid = o.relowner
                 WHERE o.relnamespace = to_regnamespace('tidegate') AND o.relkind = 'r' AND NOT pg_has_role(o.relowner, 'USAGE')
                 LIMIT 1),
             (SELECT count(*) > 0 FROM pg_catalog.pg_proc p WHERE p.pronamespace = to_regnamespace('tidegate')
                 AND NOT has_function_privilege(p.oid, 'EXECUTE'))
         FROM pg_catalog.pg_class c WHERE c.relnamespace = to_regnamespace('tidegate') AND c.relkind = 'r'",
    );
    let row = row.fetch_one(&mut *connection).await?;
    let (made, refused): (bool, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    let (may_look, foreign): (bool, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    if let Some(tables) = refused {
        report.lacks(
            format!("`{user}` may not read and write {tables} in schema `tidegate`"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO {user}"),
        );
    }
    if row.try_get(4)? {
        report.lacks(
            format!("`{user}` may not call the functions of schema `tidegate`"),
            format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tidegate TO {user}"),
        );
    }
    let state = if usage && may_look { schema::state(connection).await? } else { schema::State::Current };
    if matches!(state, schema::State::Behind) {
        to_lock(connection, "pg_advisory_lock", report).await?;
    }
    match state {
        _ if !made && !create => report.lacks(
            format!("`{user}` may not create tables in schema `tidegate`"),
            format!("GRANT CREATE ON SCHEMA tidegate TO {user}"),
        ),
        schema::State::Current => {}
        schema::State::Behind => {
            if let Some(owner) = foreign {
                report.faults.push(format!(
                    "the tables of schema `tidegate` are of an older version, and only their owner `{owner}` may change them; start this version once as {owner}, or run: GRANT {owner} TO {user};"
                ));
            } else if !create {
                report.lacks(
                    format!(
                        "the tables of schema `tidegate` are of an older version, and `{user}` may not add to them"
                    ),
                    format!("GRANT CREATE ON SCHEMA tidegate TO {user}"),
                );
            }
        }
        schema::State::Other(why) => report.faults.push(why),
    }
    Ok(())
}

/// Returns whether the tables `pipeline`, `ledger` and `route` of schema `tidegate` exist and the role has the right to read
/// them. The query doesn't call `to_regclass` for the tables, because that fails for a role without the right to use the schema.
pub(super) async fn may_read_ledger(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "SELECT count(*) = 3 FROM pg_catalog.pg_class c
         WHERE c.relnamespace = to_regnamespace('tidegate') AND c.relname IN ('pipeline', 'ledger', 'route')
         AND has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')",
    );
    row.fetch_one(connection).await?.try_get(0)
}

/// Reports the rights that are missing to create the pipeline's table. Returns whether creating it can be tried.
pub(super) async fn to_make(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    report: &mut PipelineReport,
) -> Result<bool, sqlx::Error> {
    let name = &pipeline.table.name;
    let schema = quote_identifier(&name.schema);
    let row = sqlx::query(
        "SELECT to_regnamespace($1) IS NOT NULL, coalesce(has_schema_privilege(to_regnamespace($1), 'USAGE'), false),
             coalesce(has_schema_privilege(to_regnamespace($1), 'CREATE'), false), quote_ident(current_user)",
    );
    let row = row.bind(&schema).fetch_one(&mut *connection).await?;
    let (exists, usage, create): (bool, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let user: String = row.try_get(3)?;
    if !exists {
        report.lacks(
            format!("pipelines.{}.table.create: schema `{}` does not exist", pipeline.name, name.schema),
            format!("CREATE SCHEMA {schema} AUTHORIZATION {user}"),
        );
    } else if !usage || !create {
        report.lacks(
            format!(
                "pipelines.{}.table.create: `{user}` may not create tables in schema `{}`",
                pipeline.name, name.schema
            ),
            format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"),
        );
    }
    to_lock(connection, "pg_advisory_xact_lock", report).await?;
    to_stage(connection, pipeline, &Catalog::without_columns(name.clone()), report).await?;
    Ok(exists && usage && create)
}

/// Reports a missing right to call `function`, which takes an advisory lock. With such locks, only one instance at a time
/// migrates the ledger, or creates tables, columns or partitions.
async fn to_lock(
    connection: &mut PgConnection,
    function: &str,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let function = format!("pg_catalog.{function}(bigint)");
    let row = sqlx::query("SELECT has_function_privilege($1, 'EXECUTE'), quote_ident(current_user)");
    let row = row.bind(&function).fetch_one(connection).await?;
    if !row.try_get::<bool, _>(0)? {
        let user: String = row.try_get(1)?;
        report.lacks(
            format!("`{user}` may not call `{function}`"),
            format!("GRANT EXECUTE ON FUNCTION {function} TO {user}"),
        );
    }
    Ok(())
}

/// Returns whether the role may create temporary tables.
pub(super) async fn may_stage(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT has_database_privilege(current_database(), 'TEMP')");
    row.fetch_one(connection).await?.try_get(0)
}

/// Reports the missing right to create temporary tables, if the pipeline writes its rows through a staging table.
async fn to_stage(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    found: &Catalog,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    if !is_staged(&pipeline.rows(), found) {
        return Ok(());
    }
    let row = sqlx::query(
        "SELECT has_database_privilege(current_database(), 'TEMP'), quote_ident(current_user), quote_ident(current_database())",
    );
    let row = row.fetch_one(connection).await?;
    if !row.try_get::<bool, _>(0)? {
        let (user, database): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let why = match pipeline.table.mode {
            WriteMode::Append if found.row_security => format!("row-level security on `{}`", found.table),
            WriteMode::Append => format!("pipelines.{}.table.sort_by", pipeline.name),
            _ => format!("mode {}", pipeline.table.mode.word()),
        };
        report.lacks(
            format!("{why} requires that rows are staged in a temporary table, which `{user}` may not create"),
            format!("GRANT TEMP ON DATABASE {database} TO {user}"),
        );
    }
    Ok(())
}

pub(super) async fn on_table(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    found: &Catalog,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let (name, quoted) = (&pipeline.table.name, pipeline.table.name.quoted());
    let row = sqlx::query(
        "SELECT has_schema_privilege(c.relnamespace, 'USAGE'), quote_ident(current_user), pg_has_role(c.relowner, 'USAGE')
         FROM pg_catalog.pg_class c WHERE c.oid = $1::int8::oid",
    );
    let row = row.bind(i64::from(found.oid)).fetch_one(&mut *connection).await?;
    let (usage, user, owns): (bool, String, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let schema = quote_identifier(&name.schema);
    if !usage {
        report.lacks(
            format!("`{user}` may not use schema `{}`", name.schema),
            format!("GRANT USAGE ON SCHEMA {schema} TO {user}"),
        );
    }
    let mut verbs = vec![("INSERT", "insert into")];
    if !matches!(pipeline.table.mode, WriteMode::Append) {
        verbs.push(("SELECT", "read"));
    }
    if matches!(pipeline.table.mode, WriteMode::Upsert { .. } | WriteMode::Aggregate { .. }) {
        verbs.push(("UPDATE", "update"));
    }
    let mut lacking = Vec::new();
    let due = match &pipeline.table.partition_by {
        Some(by) => Some(partitions::look(connection, pipeline, by).await?),
        None => None,
    };
    // `evolve` requires that the role owns the table. So does `partition_by` if rows with the current time have no partition. An
    // owner has all the rights in `verbs`, so these rights are then not reported one by one.
    let will_own = pipeline.table.evolve || due.as_ref().is_some_and(|due| owns || !due.has_place);
    for (right, verb) in verbs {
        if !will_own && !has_on_columns(connection, pipeline, found, right).await? {
            lacking.push((right, verb));
        }
    }
    if matches!(pipeline.table.mode, WriteMode::Upsert { deletes: true, .. })
        && !will_own
        && !has_on_table(connection, found, "DELETE").await?
    {
        lacking.push(("DELETE", "delete from"));
    }
    if !lacking.is_empty() {
        let verbs: Vec<_> = lacking.iter().map(|(_, verb)| *verb).collect();
        let rights: Vec<_> = lacking.iter().map(|(right, _)| *right).collect();
        report.lacks(
            format!("`{user}` may not {} `{name}` (mode {})", verbs.join(", "), pipeline.table.mode.word()),
            format!("GRANT {} ON {quoted} TO {user}", rights.join(", ")),
        );
    }
    sequences(connection, found, &user, report).await?;
    to_stage(connection, pipeline, found, report).await?;
    if pipeline.table.evolve || pipeline.table.partition_by.is_some() || pipeline.table.route.is_some() {
        to_lock(connection, "pg_advisory_lock", report).await?;
    }
    if pipeline.table.evolve && !owns {
        report.lacks(
            format!(
                "pipelines.{}.table.evolve: `{user}` doesn't own `{name}`, and only an owner adds columns; leave evolve out, or change the owner",
                pipeline.name
            ),
            format!("ALTER TABLE {quoted} OWNER TO {user}"),
        );
    }
    if let Some(due) = due {
        to_partition(connection, pipeline, &due, report).await?;
    }
    Ok(())
}

/// Reports the rights that are missing to create partitions, and other relations that have the name of a future partition.
async fn to_partition(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    due: &partitions::Due,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let table = &pipeline.table.name;
    for partitions::Lack { what, statement } in partitions::lacking(connection, table).await? {
        if due.has_place {
            let why = format!("{what}; run: {statement}; or let the table's owner create the partitions");
            report.lacks_partitions(pipeline, why);
        } else {
            report.lacks(format!("pipelines.{}.table.partition_by: {what}", pipeline.name), statement);
        }
    }
    if due.taken.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = due.taken.iter().map(|name| format!("`{name}`")).collect();
    let what = format!(
        "pipelines.{}.table.partition_by: {} would be partitions of `{table}` by their names, but aren't: rename them, or attach them with ALTER TABLE {} ATTACH PARTITION",
        pipeline.name,
        names.join(", "),
        table.quoted()
    );
    if due.current_is_taken && !due.has_place {
        report
            .faults
            .push(format!("{what}; rows with the current time have no other partition, or the configured DEFAULT partition is missing, so the pipeline would stop"));
    } else {
        report.warnings.push(format!(
            "{what}; until then the pipeline stops at the first row of their times that no other partition accepts"
        ));
        report.taken.clone_from(&due.taken);
    }
    Ok(())
}

/// Reports sequences that column defaults use, if the role has no right to use them. An identity column needs no right on its
/// sequence.
async fn sequences(
    connection: &mut PgConnection,
    found: &Catalog,
    user: &str,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        "SELECT DISTINCT n.nspname::text, s.relname::text, a.attname::text
         FROM pg_catalog.pg_attrdef d
         JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_attrdef'::regclass AND e.objid = d.oid
             AND e.refclassid = 'pg_catalog.pg_class'::regclass
         JOIN pg_catalog.pg_class s ON s.oid = e.refobjid AND s.relkind = 'S'
         JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
         WHERE d.adrelid = $1::int8::oid
             -- Without CASE the planner may ask it of what is no sequence, which is an error.
             AND CASE WHEN s.relkind = 'S'
                 THEN NOT (has_sequence_privilege(s.oid, 'USAGE') OR has_sequence_privilege(s.oid, 'UPDATE')) END",
    );
    for row in rows.bind(i64::from(found.oid)).fetch_all(connection).await? {
        let sequence = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let column: String = row.try_get(2)?;
        report.lacks(
            format!("the default of column `{column}` uses sequence `{sequence}`, which `{user}` may not use"),
            format!("GRANT USAGE ON SEQUENCE {} TO {user}", sequence.quoted()),
        );
    }
    Ok(())
}

async fn has_on_table(connection: &mut PgConnection, found: &Catalog, right: &str) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT has_table_privilege($1::int8::oid, $2)");
    row.bind(i64::from(found.oid)).bind(right).fetch_one(connection).await?.try_get(0)
}

/// Returns whether the role has the right on every column that the pipeline fills. SELECT is also required on the generated
/// columns that the merge compares. UPDATE isn't required on the key's columns, because they are never updated.
async fn has_on_columns(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    found: &Catalog,
    right: &str,
) -> Result<bool, sqlx::Error> {
    if has_on_table(connection, found, right).await? {
        return Ok(true);
    }
    let key = pipeline.table.mode.key();
    let is_filled = |name: &str| match (&pipeline.columns, &pipeline.unknown_fields) {
        (None, _) => true,
        (Some(_), UnknownFields::Column(extra)) if extra == name => true,
        (Some(columns), _) => columns.iter().any(|column| column.name == name),
    };
    let names: Vec<&str> = found
        .columns
        .iter()
        .filter(|column| column.generated.is_none() && is_filled(&column.name))
        .map(|column| column.name.as_str())
        .filter(|name| right != "UPDATE" || !key.iter().any(|key| key == name))
        .chain(computed(&pipeline.table, found).filter(|_| right == "SELECT").map(|column| column.name.as_str()))
        .collect();
    let row = sqlx::query(
        "SELECT coalesce(bool_and(has_column_privilege($1::int8::oid, a.attnum, $3)), $3 = 'UPDATE')
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1::int8::oid AND a.attname = ANY ($2)",
    );
    row.bind(i64::from(found.oid)).bind(names).bind(right).fetch_one(connection).await?.try_get(0)
}
