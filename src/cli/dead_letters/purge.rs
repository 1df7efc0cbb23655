//! `tidegate dead-letters purge`: deletes dead letters.

use serde::Serialize;
use sqlx::Row;

use super::{Filter, failed, keys, matching, open};
use crate::cli::{Common, show};
use crate::error::FatalError;

/// Arguments of `purge`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters of the selected pipelines. Required without --id, --reason, --topic, --since, --until and --older-than,
    /// and refused with any of them.
    #[arg(long)]
    all: bool,
    /// Delete them. Without this option they are only counted.
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Report {
    removed: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let Arguments { common, filter, all, yes } = arguments;
    filter.check(*all)?;
    let config = common.load()?;
    let pipelines = common.pipelines(&config)?;
    let mut connection = open(&config).await?;
    let keys = keys(&mut connection, &pipelines).await?;
    filter.find_ids(&mut connection, &keys, &pipelines).await?;
    if !yes {
        let row = filter.bind(matching!("SELECT count(*) FROM tidegate.dead_letter", ""), &keys);
        let row = row.fetch_one(&mut connection).await.map_err(failed)?;
        let count: i64 = row.try_get(0).map_err(failed)?;
        return Err(FatalError::Config(format!(
            "{} would be removed for good, with the records that they hold: add --yes to remove them",
            show::counted(count.unsigned_abs(), "dead letter", "dead letters")
        )));
    }
    let done = filter.bind(matching!("DELETE FROM tidegate.dead_letter", ""), &keys);
    let removed = done.execute(&mut connection).await.map_err(failed)?.rows_affected();
    if common.json {
        return show::json(&Report { removed });
    }
    show::print(&format!("removed {}", show::counted(removed, "dead letter", "dead letters")))
}
