//! Converts sqlx's errors to the error types of `tidegate_protocol`.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tidegate_protocol::retry::Severity;
use tidegate_protocol::store::{Cause, PostgresError};

use super::remedy;

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

/// Returns an error like the one that Postgres returns if a table has no partition for a row. Used if only the DEFAULT partition
/// would accept the row.
pub(super) fn only_the_default() -> PostgresError {
    PostgresError::new("23514", "some rows have no partition but the default one")
}

/// Returns an error like the one that Postgres returns for a value that doesn't have its column's type. Needed because binary
/// COPY doesn't detect every such value.
pub(super) fn retyped(column: &str) -> PostgresError {
    let message = format!("the type of column `{column}` has changed since the rows were encoded");
    PostgresError { column: Some(column.to_owned()), ..PostgresError::new("42804", message) }
}

fn postgres_error(error: &PgDatabaseError) -> PostgresError {
    let message = message(error);
    // The message depends on the server's language. The routine distinguishes a policy from a missing right.
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

/// Returns the message of an error, followed by its detail, and by the function that raised it, if they are known.
pub(crate) fn message(error: &PgDatabaseError) -> String {
    let mut message = error.message().to_owned();
    if let Some(detail) = error.detail() {
        message += &format!(" ({detail})");
    }
    if let Some(function) = error.r#where().and_then(function) {
        message += &format!("; raised in {function}");
    }
    message
}

/// Returns whether the error has a context, in which Postgres says where the error occurred. The error of a statement that
/// creates a table has a context only if a function failed, such as an event trigger's.
pub(crate) fn is_raised(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::r#where).is_some()
}

/// Returns the line of an error's context that names the innermost function, such as
/// `PL/pgSQL function rides_guard() line 3 at RAISE`.
///
/// Other lines are never shown, because they may contain values, as in `COPY rides, line 1, column name: "…"`. A value may
/// contain a line break and then text that looks like a function's line. So the search skips only lines with a whole statement,
/// and ends at the first other line. This line is returned only if it has exactly the form of a function's line.
fn function(context: &str) -> Option<&str> {
    let is_statement = |line: &&str| line.starts_with("SQL statement \"") && line.ends_with('"');
    context.lines().find(|line| !is_statement(line)).filter(|line| names_function(line))
}

fn names_function(line: &str) -> bool {
    let is_name = |name: &str| {
        (1..=200).contains(&name.len()) && name.chars().all(|c| c.is_alphanumeric() || " _$.,\"()[]".contains(c))
    };
    if let Some(rest) = line.strip_prefix("PL/pgSQL function ") {
        let Some((name, at)) = rest.rsplit_once(" line ") else {
            return rest.strip_suffix(" during function entry").is_some_and(is_name);
        };
        let is_place = at.split_once(" at ").is_some_and(|(line, statement)| {
            line.parse::<u32>().is_ok() && statement.chars().all(|c| c.is_ascii_alphabetic() || " /".contains(c))
        });
        return is_place && is_name(name);
    }
    let of_others = ["SQL function \"", "PL/Python function \"", "PL/Perl function \""];
    let Some(rest) = of_others.iter().find_map(|prefix| line.strip_prefix(prefix)) else { return false };
    rest.rsplit_once('"').is_some_and(|(name, at)| {
        let at = at.trim_start_matches(" statement ");
        is_name(name) && (at.is_empty() || at.parse::<u32>().is_ok())
    })
}

/// Returns the number after the last `, line ` in an error's context, such as 3 in `COPY telemetry, line 3, column lat`. With a
/// column that is called `x, line 9`, the number is wrong. This costs only one more COPY.
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
    fn of_a_context_only_the_function_is_shown() {
        let raised = "PL/pgSQL function rides_guard() line 3 at RAISE";
        for (context, shown) in [
            (format!("{raised}\nCOPY rides, line 1, column name: \"secret\""), Some(raised)),
            (format!("SQL statement \"INSERT INTO t VALUES ('secret')\"\n{raised}"), Some(raised)),
            (
                format!("{raised}\nSQL statement \"SELECT 'secret'\"\nPL/pgSQL function f() line 1 at PERFORM"),
                Some(raised),
            ),
            ("SQL function \"f\" statement 1".to_owned(), Some("SQL function \"f\" statement 1")),
            ("PL/Python function \"f\"".to_owned(), Some("PL/Python function \"f\"")),
            (
                "PL/pgSQL function app.f(integer,text[]) during function entry".to_owned(),
                Some("PL/pgSQL function app.f(integer,text[]) during function entry"),
            ),
            // Values with line breaks that look like a line of a function.
            (format!("COPY rides, line 1, column name: \"\n{raised}\""), None),
            (format!("COPY rides, line 1, column name: \"\n{raised}\n\""), None),
            (format!("SQL statement \"INSERT INTO t VALUES ('\n{raised}\n')\""), None),
            ("PL/pgSQL function f() line 3 at RAISE: secret".to_owned(), None),
            ("PL/pgSQL function f('secret') line 3 at RAISE".to_owned(), None),
            ("PL/pgSQL function f() line secret at RAISE".to_owned(), None),
            ("PL/pgSQL assignment \"x := 'secret'\"".to_owned(), None),
            ("SQL function \"f\" secret".to_owned(), None),
            ("COPY rides, line 1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(function(&context), shown, "{context}");
        }
    }

    #[test]
    fn the_line_of_a_copy_is_read_from_the_context() {
        assert_eq!(copy_line("COPY telemetry, line 3, column lat"), Some(3));
        assert_eq!(copy_line("COPY t, line 17"), Some(17));
        assert_eq!(copy_line("PL/pgSQL function f() line 3 at RAISE\nCOPY t, line 4: \"x\""), Some(4));
        assert_eq!(copy_line("SQL statement \"SELECT 1\""), None);
        assert_eq!(copy_column("COPY t, line 3, column lat: \"x\"").as_deref(), Some("lat"));
    }
}
