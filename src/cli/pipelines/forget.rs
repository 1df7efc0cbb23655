//! `tidegate pipelines forget NAME`: removes a registration.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use super::{Registered, registrations};
use crate::cli::{Files, parse, reach, show, start_command_logging};
use crate::config::Config;
use crate::error::FatalError;
use crate::postgres::dead_letter_cleanup;

/// Arguments of `forget`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// The name of the pipeline or the replay, as `list` shows it.
    name: String,
    /// Also delete its dead letters, and those of its replays. Their records are lost unless Kafka still has them.
    #[arg(long)]
    dead_letters: bool,
    /// Delete without asking. Required if standard input is not a terminal.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    /// The names that were removed: a pipeline with its replays, or one replay.
    forgotten: Vec<String>,
    partitions: i64,
    dead_letters: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let Arguments { files, name, dead_letters, yes, json } = arguments;
    let config = parse(files)?;
    start_command_logging(&config);
    let mut connection = reach::open(&reach::connector(&config)).await?;
    let all = registrations(&mut connection).await?;
    let Some(pipeline) = all.iter().find(|known| known.name == *name) else {
        let known: Vec<_> = all.iter().map(|known| format!("`{}`", known.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(FatalError::Config(format!(
            "no pipeline `{name}` is registered in the database; registered are {known}"
        )));
    };
    let family: Vec<&Registered> = all
        .iter()
        .filter(|known| known.name == *name || dead_letter_cleanup::pipeline_of(&known.name) == name)
        .collect();
    refuse(&config, &mut connection, pipeline, &family).await?;
    let stock: i64 = family.iter().map(|known| known.dead_letters).sum();
    if stock > 0 && !dead_letters {
        return Err(FatalError::Config(format!(
            "`{name}` has {}, whose records are in no table: check them with `tidegate dead-letters list`, or delete them too with --dead-letters",
            show::counted(stock.unsigned_abs(), "dead letter", "dead letters")
        )));
    }
    let partitions = family.iter().map(|known| known.partitions).sum();
    if !yes {
        confirm(name, partitions, &pipeline.target)?;
    }
    let forgotten: Vec<String> = family.iter().map(|known| known.name.clone()).collect();
    let dead_letters = remove(&mut connection, &forgotten, *dead_letters)
        .await
        .map_err(|error| reach::failed("can't remove the pipeline from schema `tidegate`", error))?;
    let report = Report { forgotten, partitions, dead_letters };
    if *json {
        return show::json(&report);
    }
    let replays = match report.forgotten.len() - 1 {
        0 => String::new(),
        n => format!(" with {}", show::counted(n as u64, "replay", "replays")),
    };
    show::print(&format!(
        "forgot `{name}`{replays}: {} and {}; table `{}` stays as it is; {}",
        show::counted(report.partitions.unsigned_abs(), "position", "positions"),
        show::counted(report.dead_letters, "dead letter", "dead letters"),
        pipeline.target,
        after(name)
    ))
}

/// Returns an error if the pipeline or one of its replays is running. A replay is running while a command has connections for it.
/// Also returns an error if both the pipeline's table and its configuration still exist: the next start would then write the
/// table's rows a second time.
async fn refuse(
    config: &Config,
    connection: &mut PgConnection,
    pipeline: &Registered,
    family: &[&Registered],
) -> Result<(), FatalError> {
    let Registered { name, target, table_exists, .. } = pipeline;
    for known in family {
        let connections = reach::live(config, connection, &known.name).await?.len();
        if connections > 0 {
            return Err(FatalError::Config(format!(
                "`{}` runs: its instances have {} to this database; stop it first",
                known.name,
                show::counted(connections as u64, "connection", "connections")
            )));
        }
    }
    if *table_exists && config.pipelines.iter().any(|pipeline| pipeline.name == *name) {
        return Err(FatalError::Config(format!(
            "`{name}` is in the configuration, and its table `{target}` has the rows that the ledger says are written: a new start would write them once more. Remove it from the configuration, or drop the table, or change its positions with `tidegate offsets set`"
        )));
    }
    Ok(())
}

/// Returns a sentence about the next run of the pipeline or replay `name`, after the registration was forgotten.
fn after(name: &str) -> String {
    if dead_letter_cleanup::is_replay(name) {
        return "the same `tidegate replay` would write its rows again".to_owned();
    }
    format!(
        "the next start of a pipeline named `{name}` reads its topics from `start` on, by default from the beginning, and writes those rows again"
    )
}

fn confirm(name: &str, partitions: i64, target: &str) -> Result<(), FatalError> {
    let partitions = show::counted(partitions.unsigned_abs(), "position", "positions");
    let what = format!("{partitions} of `{name}` into `{target}` would be forgotten for good: {}", after(name));
    if !std::io::stdin().is_terminal() {
        return Err(FatalError::Config(format!("{what}: say --yes")));
    }
    let mut answer = String::new();
    // If standard input or standard error is closed, nobody can be asked, and the answer is no.
    let asked = write!(std::io::stderr(), "{what}. Go on? [y/N] ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    if asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(FatalError::Config("nothing was forgotten".to_owned()))
}

/// Removes registrations, with their positions, their claims, and the lists of the tables that their records name. If
/// `dead_letters` is true, also deletes their dead letters. Returns how many dead letters were deleted.
async fn remove(connection: &mut PgConnection, names: &[String], dead_letters: bool) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("DELETE FROM tidegate.pipeline WHERE name = ANY ($1)").bind(names).execute(&mut *transaction).await?;
    let removed = if dead_letters {
        let gone = sqlx::query("DELETE FROM tidegate.dead_letter WHERE pipeline = ANY ($1)").bind(names);
        gone.execute(&mut *transaction).await?.rows_affected()
    } else {
        0
    };
    transaction.commit().await?;
    Ok(removed)
}
