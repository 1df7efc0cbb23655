//! Checks whether the server can serve the daemon at all: whether it allows enough connections, and whether a COMMIT would be
//! answered.

use sqlx::{PgConnection, Row};

use super::report::PipelineReport;
use crate::cli::show;
use crate::config::Config;

/// How many connections a pipeline keeps open besides those of its consumers: one for claims, and one for lag. Its maintenance
/// opens further connections for a short time.
const PER_PIPELINE: i64 = 2;
/// How many connections the daemon keeps open for itself: one for the list of instances.
const PER_DAEMON: i64 = 1;

pub(super) async fn check(
    connection: &mut PgConnection,
    config: &Config,
    report: &mut PipelineReport,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "SELECT quote_ident(r.rolname), quote_ident(d.datname), CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END::int8,
             CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END::int8,
             current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
                 - coalesce(current_setting('reserved_connections', true)::int8, 0),
             current_setting('synchronous_standby_names'),
             current_setting('synchronous_commit') NOT IN ('off', 'local') AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication)
         FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
         WHERE r.rolname = session_user AND d.datname = current_database()",
    );
    let row = row.fetch_one(connection).await?;
    let (role, database): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    // Without these connections, a pipeline doesn't flow.
    let needed: i64 = config.pipelines.iter().map(|pipeline| i64::from(pipeline.consumers.get()) + PER_PIPELINE).sum();
    let kept = needed + PER_DAEMON;
    for (limit, whose, remedy) in [
        (
            row.try_get::<i64, _>(2)?,
            format!("role {role}"),
            format!("run: ALTER ROLE {role} CONNECTION LIMIT {}", kept + 1),
        ),
        (
            row.try_get(3)?,
            format!("database {database}"),
            format!("run: ALTER DATABASE {database} CONNECTION LIMIT {}", kept + 1),
        ),
        (row.try_get(4)?, "the server".to_owned(), "raise `max_connections`".to_owned()),
    ] {
        // A negative limit means that there is no limit.
        if limit < 0 || limit > kept {
            continue;
        }
        let text = format!(
            "{whose} allows at most {}, and the daemon keeps {kept}: one for each consumer, two more for each pipeline, and one for the list of instances; {remedy}, or lower `consumers`",
            show::counted(u64::try_from(limit).unwrap_or(0), "connection", "connections")
        );
        if limit < needed {
            report.faults.push(text);
        } else {
            report.warnings.push(format!("{text}: no connection is left for maintenance and commands"));
        }
    }
    let standbys: String = row.try_get(5)?;
    if !standbys.is_empty() && row.try_get(6)? {
        report.faults.push(format!(
            "a COMMIT would wait forever: `synchronous_standby_names` is '{}', and no standby is connected; start one, or set it to an empty value on the server",
            show::safe(&standbys)
        ));
    }
    Ok(())
}
