//! `tidegate offsets copy OLD NEW`: a renamed pipeline continues from its old positions.
//!
//! One transaction renames the registration, the ledger's rows and the dead letters, and gives each ledger row a new
//! claim. This fences an instance that still runs under the old name: its next write finds no row to advance, and is
//! rolled back.

use serde::Serialize;
use sqlx::{Connection, PgConnection, Row};

use crate::cli::{Files, load_quietly, reach, show};
use crate::config::Pipeline;
use crate::error::FatalError;
use crate::postgres::claims::committed_at;
use crate::postgres::dead_letter_cleanup;

/// Arguments of `offsets copy`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// The pipeline's old name, under which it ran until now.
    from: String,
    /// The pipeline's new name, as in the configuration.
    to: String,
    /// Proceed even if an instance still runs the pipeline under the old name.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    from: &'a str,
    to: &'a str,
    partitions: u64,
    dead_letters: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let Arguments { files, from, to, yes, json } = arguments;
    let config = load_quietly(files)?;
    let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.name == *to) else {
        return Err(FatalError::Config(format!(
            "the configuration has no pipeline `{to}`; it has {}: TO is the name that the pipeline has now",
            crate::cli::names(&config)
        )));
    };
    let mut connection = reach::open(&reach::connector(&config)).await?;
    reach::registered(&mut connection, from).await?;
    let live = reach::live(&config, &mut connection, from).await?;
    if !live.is_empty() && !yes {
        return Err(FatalError::Config(format!(
            "an instance of pipeline `{from}` is running ({} to this database): stop it first; or say --yes, then its next write is refused",
            show::counted(live.len() as u64, "connection", "connections")
        )));
    }
    let (partitions, dead_letters) = rename(&mut connection, from, pipeline).await?;
    if *json {
        return show::json(&Report { from, to, partitions, dead_letters });
    }
    show::print(&format!(
        "pipeline {to} continues from the positions of {from}: {} and {} copied; {from} is no longer registered",
        show::counted(partitions, "partition", "partitions"),
        show::counted(dead_letters, "dead letter", "dead letters")
    ))
}

/// Renames the replays of pipeline `from`, so that they belong to pipeline `to`. Each keeps the table that its dead letters were
/// meant for.
async fn rename_replays(connection: &mut PgConnection, from: &str, to: &str) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT name FROM tidegate.pipeline").fetch_all(&mut *connection).await?;
    for row in rows {
        let old: String = row.try_get(0)?;
        if old == from || dead_letter_cleanup::pipeline_of(&old) != from {
            continue;
        }
        let new = format!("{to}{}", &old[from.len()..]);
        for statement in [
            "INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, topics, version)
             SELECT $2, cluster_id, group_id, target, target_oid, topics, version FROM tidegate.pipeline WHERE name = $1",
            "UPDATE tidegate.ledger SET pipeline = $2 WHERE pipeline = $1",
            "DELETE FROM tidegate.pipeline WHERE name = $1 AND $2 <> $1",
        ] {
            sqlx::query(statement).bind(&old).bind(&new).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn rename(connection: &mut PgConnection, from: &str, to: &Pipeline) -> Result<(u64, u64), FatalError> {
    let failed = |error| reach::failed("can't copy the positions", error);
    let mut transaction = connection.begin().await.map_err(failed)?;
    // Take the lock that registrations take, so that only one registration or rename runs at a time.
    let lock = sqlx::query("LOCK TABLE tidegate.pipeline IN SHARE ROW EXCLUSIVE MODE");
    lock.execute(&mut *transaction).await.map_err(failed)?;
    if crate::postgres::register::is_known(&mut transaction, &to.name).await.map_err(failed)? {
        return Err(FatalError::Config(format!(
            "pipeline `{}` is already registered with its own positions; `tidegate offsets set` changes those",
            to.name
        )));
    }
    let row = sqlx::query("SELECT target FROM tidegate.pipeline WHERE name = $1").bind(from);
    let row = row.fetch_optional(&mut *transaction).await.map_err(failed)?;
    let target: Option<String> = row.map(|row| row.try_get(0)).transpose().map_err(failed)?;
    match target {
        Some(target) if target == to.table.name.to_string() => {}
        Some(target) => {
            return Err(FatalError::Config(format!(
                "pipeline `{from}` fed `{target}`, and `{}` feeds `{}`: the rows that the ledger counts are in the other table; set `pipelines.{}.table.name` back",
                to.name, to.table.name, to.name
            )));
        }
        None => {
            return Err(FatalError::Config(format!("pipeline `{from}` was removed meanwhile")));
        }
    }
    let added = sqlx::query(
        "INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, topics, version)
         SELECT $2, cluster_id, $3, target, target_oid, topics, $4 FROM tidegate.pipeline WHERE name = $1",
    );
    let added = added.bind(from).bind(&to.name).bind(&to.group).bind(env!("CARGO_PKG_VERSION"));
    added.execute(&mut *transaction).await.map_err(failed)?;
    // Lock the rows in the order in which every writer locks them, and then update them. So a batch of the old name is
    // either committed before this transaction or refused after it.
    let locked = sqlx::query("SELECT 1 FROM tidegate.ledger WHERE pipeline = $1 ORDER BY topic, partition FOR UPDATE");
    locked.bind(from).execute(&mut *transaction).await.map_err(failed)?;
    let moved = sqlx::query(concat!(
        "UPDATE tidegate.ledger l SET pipeline = $2, claim_id = gen_random_uuid(),
             epoch = greatest(l.epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::int8),
             owner = 'tidegate offsets copy', updated_at = now(), committed_at = ",
        committed_at!(),
        " WHERE pipeline = $1"
    ));
    let moved = moved.bind(from).bind(&to.name).execute(&mut *transaction).await.map_err(failed)?;
    let keys = dead_letter_cleanup::keys(&mut transaction, &[from]).await.map_err(failed)?;
    let letters = sqlx::query(
        "UPDATE tidegate.dead_letter SET pipeline = $2 || substr(pipeline, length($1) + 1) WHERE pipeline = ANY ($3)",
    );
    let letters = letters.bind(from).bind(&to.name).bind(keys).execute(&mut *transaction).await.map_err(failed)?;
    rename_replays(&mut transaction, from, &to.name).await.map_err(failed)?;
    crate::postgres::routes::rename(&mut transaction, from, &to.name).await.map_err(failed)?;
    let removed = sqlx::query("DELETE FROM tidegate.pipeline WHERE name = $1").bind(from);
    removed.execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok((moved.rows_affected(), letters.rows_affected()))
}
