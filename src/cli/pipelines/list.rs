//! `tidegate pipelines list`: the registered pipelines and replays.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;

use super::{Registered, registrations};
use crate::cli::show::{self, Table};
use crate::cli::{Common, reach};
use crate::error::FatalError;
use crate::postgres::dead_letter_cleanup;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// Whether the configuration has a pipeline of this name. Always false for a replay, which has a name of another form.
    configured: bool,
    registered: bool,
    /// The number of Postgres connections of the instances that run the pipeline now, or of the command that runs the replay.
    connections: usize,
    /// The instances on which the pipeline has stopped, each with the reason.
    stopped: BTreeMap<String, String>,
    table: String,
    /// Whether the registered table still exists. If records name their tables: whether at least one of these tables exists.
    /// `null` for a pipeline that isn't registered.
    table_exists: Option<bool>,
    group: String,
    topics: Vec<String>,
    partitions: i64,
    dead_letters: i64,
    registered_at_ms: Option<i64>,
    moved_at_ms: Option<i64>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    // The option `--pipeline` may name a pipeline that is only in the database, and not in the configuration.
    let wanted = |name: &str| arguments.common.pipeline.as_deref().is_none_or(|only| only == name);
    let mut connection = reach::open(&reach::connector(&config)).await?;
    let mut lines = Vec::new();
    for known in registrations(&mut connection).await?.into_iter().filter(|known| wanted(&known.name)) {
        let Registered { name, group, target, table_exists, topics, registered_ms, partitions, moved_ms, dead_letters } =
            known;
        lines.push(Line {
            configured: config.pipelines.iter().any(|pipeline| pipeline.name == name),
            registered: true,
            connections: reach::live(&config, &mut connection, &name).await?.len(),
            stopped: stopped(&mut connection, &name).await?,
            table: target,
            table_exists: Some(table_exists),
            group,
            topics,
            partitions,
            dead_letters,
            registered_at_ms: Some(registered_ms),
            moved_at_ms: moved_ms,
            name,
        });
    }
    let new = config.pipelines.iter().filter(|pipeline| wanted(&pipeline.name));
    let new: Vec<_> = new.filter(|pipeline| !lines.iter().any(|line| line.name == pipeline.name)).collect();
    lines.extend(new.into_iter().map(|pipeline| Line {
        name: pipeline.name.clone(),
        configured: true,
        registered: false,
        connections: 0,
        stopped: BTreeMap::new(),
        table: pipeline.table.name.to_string(),
        table_exists: None,
        group: pipeline.group.clone(),
        topics: Vec::new(),
        partitions: 0,
        dead_letters: 0,
        registered_at_ms: None,
        moved_at_ms: None,
    }));
    if arguments.common.json {
        return show::json(&BTreeMap::from([("pipelines", &lines)]));
    }
    show::print(&text(&lines))
}

async fn stopped(connection: &mut PgConnection, name: &str) -> Result<BTreeMap<String, String>, FatalError> {
    let instances = reach::instances(connection, name).await?.into_iter();
    Ok(instances.filter_map(|instance| Some((instance.id, instance.stopped?))).collect())
}

fn text(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "no pipelines".to_owned();
    }
    let mut table =
        Table::new(&["pipeline", "state", "table", "partitions", "dead letters", "last written", "registered"]);
    for line in lines {
        let none = || "-".to_owned();
        let state = match line {
            Line { registered: false, .. } => "never started",
            Line { connections: 1.., stopped, .. } if stopped.is_empty() => "runs",
            Line { connections: 1.., .. } => "stopped on some instances",
            Line { stopped, .. } if !stopped.is_empty() => "stopped",
            Line { configured: true, .. } => "doesn't run",
            Line { name, .. } if dead_letter_cleanup::is_replay(name) => "replay",
            Line { .. } => "not in the configuration",
        };
        let gone = if line.table_exists == Some(false) { " (dropped)" } else { "" };
        table.row([
            line.name.clone(),
            state.to_owned(),
            format!("{}{gone}", line.table),
            show::count(line.partitions),
            show::count(line.dead_letters),
            line.moved_at_ms.map_or_else(none, show::time),
            line.registered_at_ms.map_or_else(none, show::time),
        ]);
    }
    let mut text = table.text("");
    for line in lines {
        for (instance, why) in &line.stopped {
            text += &format!("{} stopped on {instance}: {why}\n", line.name);
        }
    }
    text
}
