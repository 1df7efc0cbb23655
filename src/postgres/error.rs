//! Converts sqlx's errors to the error types of `tidegate_protocol`.

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tidegate_protocol::retry::Severity;
use tidegate_protocol::store::{Cause, PostgresError};

use super::remedy;

/// Converts an error of sqlx.
pub fn cause(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => Cause::Postgres(postgres_error(error)),
            None => Cause::Connection(error.to_string()),
        },
        other => Cause::Connection(other.to_string()),
    }
}

/// Returns whether the error says that the table has no partition for a row. A violated CHECK constraint has the same
/// SQLSTATE, 23514, and the message depends on the server's language. So only the error's routine tells the two apart.
pub(super) fn is_no_partition(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| error.code() == "23514" && error.routine() == Some("ExecFindPartition"))
}

/// Returns an error like the one that Postgres returns if a table has no partition for a row. Used if the row would go
/// to the DEFAULT partition.
pub(super) fn only_the_default() -> PostgresError {
    PostgresError {
        severity: Severity::Error,
        sqlstate: "23514".to_owned(),
        message: "some rows have no partition but the default one".to_owned(),
        row: None,
        column: None,
        policy: false,
        note: None,
    }
}

/// Returns an error like the one that Postgres returns for a value whose type isn't that of its column. Binary COPY
/// doesn't detect every such value.
pub(super) fn retyped(column: &str) -> PostgresError {
    PostgresError {
        severity: Severity::Error,
        sqlstate: "42804".to_owned(),
        message: format!("the type of column `{column}` has changed since the rows were encoded"),
        row: None,
        column: Some(column.to_owned()),
        policy: false,
        note: None,
    }
}

fn postgres_error(error: &PgDatabaseError) -> PostgresError {
    let message = match error.detail() {
        Some(detail) => format!("{} ({detail})", error.message()),
        None => error.message().to_owned(),
    };
    // The message depends on the server's language. The routine tells whether a policy refused the row or a right is
    // missing.
    let policy = error.routine() == Some("ExecWithCheckOptions");
    let note = if policy { None } else { remedy::of_statement(error.code(), &message) };
    PostgresError {
        severity: match error.severity() {
            PgSeverity::Fatal => Severity::Fatal,
            PgSeverity::Panic => Severity::Panic,
            _ => Severity::Error,
        },
        sqlstate: error.code().to_owned(),
        message,
        row: error.r#where().and_then(copy_line).map(|line| line - 1),
        column: error.column().map(str::to_owned).or_else(|| error.r#where().and_then(copy_column)),
        policy,
        note: note.map(str::to_owned),
    }
}

/// Returns the line number in an error's context, `COPY telemetry, line 3, column lat`: the number after the last `, line `. If
/// the column is itself called `x, line 9`, the number is wrong, which only costs one more COPY.
fn copy_line(context: &str) -> Option<u32> {
    let (_, copy) = context.lines().find_map(|line| line.split_once("COPY "))?;
    let (_, rest) = copy.rsplit_once(", line ")?;
    let digits: &str = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|line| *line > 0)
}

fn copy_column(context: &str) -> Option<String> {
    let (_, copy) = context.lines().find_map(|line| line.split_once("COPY "))?;
    let (_, rest) = copy.rsplit_once(", column ")?;
    Some(rest.split([':', '\n']).next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_copy_is_read_from_the_context() {
        assert_eq!(copy_line("COPY telemetry, line 3, column lat"), Some(3));
        assert_eq!(copy_line("COPY t, line 17"), Some(17));
        assert_eq!(copy_line("PL/pgSQL function f() line 3 at RAISE\nCOPY t, line 4: \"x\""), Some(4));
        assert_eq!(copy_line("SQL statement \"SELECT 1\""), None);
        assert_eq!(copy_column("COPY t, line 3, column lat: \"x\"").as_deref(), Some("lat"));
    }
}
