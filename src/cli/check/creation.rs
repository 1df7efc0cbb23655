//! Creates the missing table in a transaction that is rolled back. ROLLBACK doesn't undo `nextval`, nor what a function did
//! outside the database. So a statement of `after_create` runs only if it can have no such effect and locks no other table.
//! Postgres only parses the other statements: it looks up the names, types and functions of a query, and runs nothing.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Executor, PgConnection, Row};
use tidegate_rows::catalog::Catalog;
use tidegate_rows::ddl;

use super::event_triggers::{EventTriggers, words};
use super::report::PipelineReport;
use super::rights;
use crate::cli::{reach, show};
use crate::config::Pipeline;
use crate::error::FatalError;
use crate::postgres::catalog;

/// Creates the table, reads its catalog, and rolls back. Returns the catalog, and the SQL that creates the table again in a
/// trial. Returns `None` if the mapping, a missing right or a statement of `after_create` prevents this; the report then says
/// why. Fails if Postgres refuses to create the table.
pub(super) async fn would_make(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    triggers: Option<&EventTriggers>,
    report: &mut PipelineReport,
) -> Result<Option<(Catalog, String)>, FatalError> {
    let failed = |error| reach::failed("can't read from the database", error);
    let allowed = rights::to_make(connection, pipeline, report).await.map_err(failed)?;
    let statements = match ddl::make_table(&pipeline.rows()) {
        Ok(statements) => statements,
        Err(faults) => {
            report.faults.extend(faults.iter().map(ToString::to_string));
            return Ok(None);
        }
    };
    report.ddl = Some(statements.join(";\n"));
    if !allowed {
        return Ok(None);
    }
    let (create, after) = statements.split_at(statements.len() - pipeline.table.after_create.len());
    let create = create.join(";\n");
    let begin = format!("BEGIN;\n{create}");
    let what = format!("can't create `{}` (pipelines.{}.table.create)", pipeline.table.name, pipeline.name);
    if let Err(error) = connection.execute(begin.as_str()).await {
        let remedy = triggers.map(|triggers| format!("; {}", triggers.remedy())).unwrap_or_default();
        return Err(reach::failed_with(&what, error, &remedy));
    }
    let faults = report.faults.len();
    let ran = after_create(connection, pipeline, after, report).await.map_err(failed)?;
    let found = catalog::load(connection, &pipeline.table.name).await.map_err(failed)?;
    if let Some(triggers) = triggers {
        triggers.effects(connection, &format!("`{}`", pipeline.table.name), report).await.map_err(failed)?;
    }
    connection.execute("ROLLBACK").await.map_err(failed)?;
    if report.faults.len() > faults {
        return Ok(None);
    }
    let trial: Vec<&str> = std::iter::once(create.as_str()).chain(ran).collect();
    Ok(found.map(|found| (found, trial.join(";\n"))))
}

/// Runs the statements of `after_create` that are safe, and lets Postgres parse the others. Returns the statements that ran.
async fn after_create<'s>(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    statements: &'s [String],
    report: &mut PipelineReport,
) -> Result<Vec<&'s str>, sqlx::Error> {
    let key = format!("pipelines.{}.table.after_create", pipeline.name);
    let (mut ran, mut skipped) = (Vec::new(), Vec::new());
    for (n, sql) in statements.iter().enumerate() {
        connection.execute("SAVEPOINT tidegate_after_create").await?;
        let parsed = match parse(connection, sql).await {
            Ok(Parsed::Statement) if is_about(connection, pipeline, sql).await? => {
                connection.execute(sql.as_str()).await.map(|_| true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        match parsed {
            Ok(true) => ran.push(sql.as_str()),
            Ok(false) => skipped.push(sql),
            Err(sqlx::Error::Database(error)) if skipped.is_empty() => report.faults.push(format!(
                "{key}[{n}]: Postgres refuses `{}`: {}; correct it, or the daemon creates no table",
                show::safe(sql),
                words(&*error)
            )),
            // This statement may refer to something that a skipped statement would have created, so only warn.
            Err(sqlx::Error::Database(error)) => report.warnings.push(format!(
                "{key}[{n}]: Postgres refuses `{}` where the statements before it did not run: {}",
                show::safe(sql),
                words(&*error)
            )),
            Err(error) => return Err(error),
        }
        // A statement that ran keeps its effect. Parsing a statement takes locks, which the rollback to the savepoint releases.
        if ran.last() == Some(&sql.as_str()) {
            connection.execute("RELEASE SAVEPOINT tidegate_after_create").await?;
        } else {
            connection.execute("ROLLBACK TO SAVEPOINT tidegate_after_create").await?;
        }
    }
    if !skipped.is_empty() {
        let each: Vec<_> = skipped.iter().map(|sql| format!("`{}`", show::safe(sql))).collect();
        let warning = format!(
            "{key}: parsed but not run, since a rollback may not undo what they do, or they may lock another table: {}; the newest records were tried without their effect",
            each.join(", ")
        );
        // This function runs once per table, and records may name many tables. So don't repeat the same warning.
        if !report.warnings.contains(&warning) {
            report.warnings.push(warning);
        }
    }
    Ok(ran)
}

enum Parsed {
    Statement,
    /// The text has several statements. Postgres has checked only their syntax.
    Several,
}

/// Lets Postgres parse `sql` without running it. If `sql` is a query, Postgres also looks up the names in it.
async fn parse(connection: &mut PgConnection, sql: &str) -> Result<Parsed, sqlx::Error> {
    match connection.prepare(sql).await {
        Ok(_) => Ok(Parsed::Statement),
        // Postgres refuses to prepare a text with several statements. The SQLSTATE of this error is that of a syntax error, so
        // recognize it by the C function that raised it.
        Err(sqlx::Error::Database(error))
            if error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine)
                == Some("exec_parse_message") =>
        {
            Ok(Parsed::Several)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether a statement only describes the new table: for example, it creates an index or grants a right. Because the
/// table has no rows, such a statement evaluates no volatile default and no index expression, and runs no trigger of the table.
async fn is_about(connection: &mut PgConnection, pipeline: &Pipeline, sql: &str) -> Result<bool, sqlx::Error> {
    let Some(name) = described_table(sql) else { return Ok(false) };
    let row = sqlx::query("SELECT to_regclass($1) = to_regclass($2)").bind(name).bind(pipeline.table.name.quoted());
    Ok(row.fetch_one(connection).await?.try_get::<Option<bool>, _>(0)? == Some(true))
}

/// Returns the name of the table that a statement describes, as the statement writes it. Returns `None` for any statement that
/// may do more than describe a table, or that locks another table.
fn described_table(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let words: Vec<String> = tokens.iter().map(|token| token.to_ascii_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.iter().any(|word| matches!(*word, "REFERENCES" | "ATTACH" | "DETACH" | "INHERIT")) {
        return None;
    }
    let after = |marker: &str| words.iter().position(|word| *word == marker).map(|at| at + 1);
    let (mut at, is_column) = match words.as_slice() {
        ["CREATE", "INDEX", ..]
        | ["CREATE", "UNIQUE", "INDEX", ..]
        | ["CREATE", "POLICY" | "TRIGGER", ..]
        | ["CREATE", "CONSTRAINT", "TRIGGER", ..]
        | ["CREATE", "OR", "REPLACE", "TRIGGER", ..]
        | ["GRANT" | "REVOKE", ..] => (after("ON")?, false),
        ["CREATE", "STATISTICS", ..] => (after("FROM")?, false),
        ["CREATE", "TABLE", _, "PARTITION", "OF", ..] => (5, false),
        ["CREATE", "TABLE", _, ".", _, "PARTITION", "OF", ..] => (7, false),
        ["ALTER", "TABLE", ..] => (2, false),
        ["COMMENT", "ON", "TABLE", ..] => (3, false),
        ["COMMENT", "ON", "COLUMN", ..] => (3, true),
        _ => return None,
    };
    while matches!(words.get(at), Some(&("TABLE" | "ONLY" | "IF" | "EXISTS"))) {
        at += 1;
    }
    let mut parts = vec![*tokens.get(at)?];
    while tokens.get(at + 1) == Some(&".") {
        parts.push(tokens.get(at + 2)?);
        at += 2;
    }
    if is_column {
        parts.pop();
    }
    // GRANT may list several tables. Such a statement describes other tables too.
    let is_one = (1..=2).contains(&parts.len()) && tokens.get(at + 1) != Some(&",");
    is_one.then(|| parts.join("."))
}

/// Splits SQL into words, quoted names, literals and single characters. Leaves out spaces and comments.
fn tokens(sql: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), sql);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => {
                rest = rest.trim_start();
                continue;
            }
            '-' if rest.starts_with("--") => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                rest = rest.split_once("*/").map_or("", |(_, rest)| rest);
                continue;
            }
            '"' | '\'' => rest.get(1..).and_then(|text| text.find(first)).map_or(rest.len(), |end| end + 2),
            _ if first.is_alphanumeric() || first == '_' => {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (token, left) = rest.split_at(length);
        tokens.push(token);
        rest = left;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::described_table;

    #[test]
    fn statements_that_describe_one_table_name_it_and_no_others_do() {
        for (sql, name) in [
            ("CREATE INDEX by_v ON t (v)", "t"),
            ("create unique index if not exists \"on\" on only public.t (lower(v))", "public.t"),
            ("CREATE /* ON x */ INDEX ON \"public\" . \"T\" (v)", "\"public\".\"T\""),
            ("ALTER TABLE IF EXISTS ONLY t ADD COLUMN pk bigserial", "t"),
            ("CREATE TRIGGER a BEFORE INSERT OR UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION f()", "t"),
            ("CREATE TABLE t_rest PARTITION OF t DEFAULT", "t"),
            ("CREATE TABLE app.t_rest PARTITION OF t DEFAULT", "t"),
            ("GRANT SELECT, INSERT (v) ON TABLE t TO reporting", "t"),
            ("-- who may read\nREVOKE ALL ON t FROM public", "t"),
            ("COMMENT ON COLUMN public.t.v IS 'it''s'", "public.t"),
            ("CREATE STATISTICS s ON a, b FROM t", "t"),
        ] {
            assert_eq!(described_table(sql).as_deref(), Some(name), "{sql}");
        }
        for sql in [
            "SELECT create_hypertable('t', by_range('ts'))",
            "INSERT INTO t VALUES (1)",
            "DO $$BEGIN PERFORM nextval('s'); END$$",
            "CREATE TABLE other AS SELECT nextval('s')",
            "CREATE TABLE other (v int)",
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
            "ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES big",
            "ALTER TABLE t ATTACH PARTITION big FOR VALUES IN (1)",
            "GRANT SELECT ON t, other TO reporting",
            "CALL p()",
            "COPY t FROM PROGRAM 'x'",
            "",
        ] {
            assert_eq!(described_table(sql), None, "{sql}");
        }
    }
}
