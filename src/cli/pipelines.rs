//! `tidegate pipelines`: the pipelines that are registered in the database, whether the configuration has them or not.

mod forget;
mod list;
mod resume;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::reach;
use crate::error::FatalError;
use crate::postgres::claims::committed_at;

/// Subcommands of `pipelines`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Lists the registered pipelines and replays, and the pipelines of the configuration that never ran.
    List(list::Arguments),
    /// Resumes a stopped pipeline on every instance where it has stopped. Other pipelines are not affected.
    Resume(resume::Arguments),
    /// Deletes the registration and the positions of a pipeline or a replay that is no longer used. Its table is kept.
    Forget(forget::Arguments),
}

pub(super) async fn run(command: &Command) -> Result<(), FatalError> {
    match command {
        Command::List(arguments) => list::run(arguments).await,
        Command::Resume(arguments) => resume::run(arguments).await,
        Command::Forget(arguments) => forget::run(arguments).await,
    }
}

struct Registered {
    name: String,
    group: String,
    target: String,
    /// Whether the registered table still exists. If records name their tables: whether at least one of these tables exists.
    table_exists: bool,
    topics: Vec<String>,
    registered_ms: i64,
    partitions: i64,
    /// When records were last committed, in Unix milliseconds. `None` if no commit is known.
    moved_ms: Option<i64>,
    dead_letters: i64,
}

/// Reads the registrations, sorted by name. Returns none if the database doesn't have the tables of schema `tidegate`.
async fn registrations(connection: &mut PgConnection) -> Result<Vec<Registered>, FatalError> {
    let failed = |error| reach::failed("can't read the pipelines in schema `tidegate`", error);
    if !reach::has_ledger(connection).await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!(
        "SELECT p.name, p.group_id, p.target,
             EXISTS (SELECT FROM pg_class c WHERE c.oid = p.target_oid::oid) OR EXISTS (
                 SELECT FROM tidegate.route r JOIN pg_class c ON c.oid = r.table_oid::oid WHERE r.pipeline = p.name
             ),
             ARRAY(SELECT jsonb_object_keys(p.topics) ORDER BY 1),
             (extract(epoch FROM p.registered_at) * 1000)::int8,
             count(l.*), (extract(epoch FROM max(",
        committed_at!(read),
        ")) * 1000)::int8,
             (SELECT count(*) FROM tidegate.dead_letter d WHERE d.pipeline = p.name)
         FROM tidegate.pipeline p LEFT JOIN tidegate.ledger l ON l.pipeline = p.name GROUP BY p.name ORDER BY p.name"
    ));
    let registered = |row: &PgRow| {
        Ok(Registered {
            name: row.try_get(0)?,
            group: row.try_get(1)?,
            target: row.try_get(2)?,
            table_exists: row.try_get(3)?,
            topics: row.try_get(4)?,
            registered_ms: row.try_get(5)?,
            partitions: row.try_get(6)?,
            moved_ms: row.try_get(7)?,
            dead_letters: row.try_get(8)?,
        })
    };
    let rows = rows.fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(registered).collect::<Result<_, _>>().map_err(failed)
}
