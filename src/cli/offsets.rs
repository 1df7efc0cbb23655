//! `tidegate offsets`: shows the ledger's positions, sets them, and moves them to a pipeline's new name.

mod copy;
mod set;

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{PgConnection, Row};

use super::show::{self, Table};
use super::{Common, reach};
use crate::error::FatalError;

/// Subcommands of `offsets`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Shows the position of each partition, and who claimed the partition last.
    Show(Show),
    /// Sets positions. Each partition gets a new claim, so that a running instance can't overwrite the new position.
    Set(set::Arguments),
    /// Moves registration, positions and dead letters to a pipeline's new name. Nothing is left under the old name.
    Copy(copy::Arguments),
}

/// Arguments of `offsets show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Positions {
    pipeline: String,
    partitions: Vec<Position>,
}

#[derive(Serialize)]
struct Position {
    topic: String,
    partition: i32,
    next_offset: i64,
    last_offset: Option<i64>,
    last_timestamp_ms: Option<i64>,
    epoch: i64,
    owner: Option<String>,
    updated_at_ms: i64,
}

pub(super) async fn run(command: &Command) -> Result<(), FatalError> {
    match command {
        Command::Show(arguments) => show(arguments).await,
        Command::Set(arguments) => set::run(arguments).await,
        Command::Copy(arguments) => copy::run(arguments).await,
    }
}

async fn show(arguments: &Show) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let started = reach::Started::of(&config, arguments.common.pipelines(&config)?).await?;
    let mut connection = reach::open(&reach::connector(&config)).await?;
    let mut all = Vec::new();
    for pipeline in &started.pipelines {
        let partitions = positions(&mut connection, &pipeline.name).await;
        let partitions = partitions.map_err(|error| reach::failed("can't read the ledger", error))?;
        all.push(Positions { pipeline: pipeline.name.clone(), partitions });
    }
    if arguments.common.json {
        show::json(&BTreeMap::from([("pipelines", &all)]))?;
    } else {
        show::print(&all.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    started.result(Vec::new())
}

async fn positions(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<Position>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT topic, partition, next_offset, last_offset, last_timestamp, epoch, owner,
             (extract(epoch FROM updated_at) * 1000)::int8
         FROM tidegate.ledger WHERE pipeline = $1 ORDER BY topic, partition",
    );
    let rows = rows.bind(pipeline).fetch_all(connection).await?;
    let position = |row: &sqlx::postgres::PgRow| {
        Ok(Position {
            topic: row.try_get(0)?,
            partition: row.try_get(1)?,
            next_offset: row.try_get(2)?,
            last_offset: row.try_get(3)?,
            last_timestamp_ms: row.try_get(4)?,
            epoch: row.try_get(5)?,
            owner: row.try_get(6)?,
            updated_at_ms: row.try_get(7)?,
        })
    };
    rows.iter().map(position).collect()
}

fn text(positions: &Positions) -> String {
    let mut table =
        Table::new(&["topic", "partition", "next offset", "last record", "its timestamp", "epoch", "updated", "owner"]);
    for position in &positions.partitions {
        let none = || "-".to_owned();
        table.row([
            position.topic.clone(),
            position.partition.to_string(),
            show::count(position.next_offset),
            position.last_offset.map_or_else(none, show::count),
            position.last_timestamp_ms.map_or_else(none, show::time),
            position.epoch.to_string(),
            show::time(position.updated_at_ms),
            position.owner.clone().unwrap_or_else(none),
        ]);
    }
    format!("pipeline {}\n{}", positions.pipeline, table.text("  "))
}
