//! `tidegate offsets set`: sets positions by hand, in one transaction, with a new claim.
//!
//! The new claim fences the partition's owner: from then on, no record can be written under the old claim. The ledger
//! refuses the partition's records in the batch that is in flight, so the owner drops them. After `limits.claim_grace`,
//! the owner claims the partition again, from the new position. An instance doesn't learn of the new claim at once, so
//! the command requires `--yes` while an instance is running.

use serde::Serialize;
use sqlx::{Connection, PgConnection, Row};
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_rows::spec::WriteMode;

use crate::cli::log_position::LogPosition;
use crate::cli::show::{self, Table};
use crate::cli::{Common, reach};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::postgres::claims::committed_at;

/// Arguments of `offsets set`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("pipeline", crate::cli::one_pipeline))]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The topic. Optional if the pipeline reads only one.
    #[arg(long)]
    topic: Option<String>,
    /// The partition. Default: all partitions of the topic.
    #[arg(long, value_name = "P")]
    partition: Option<i32>,
    /// The next offset to read: a number, `earliest`, `latest`, or an RFC 3339 time (the first record at or after it).
    #[arg(long, value_name = "N|earliest|latest|TIME")]
    offset: LogPosition,
    /// Set the position even if an instance is running, or if records would be written twice.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Move {
    topic: String,
    partition: i32,
    /// The position before the change; `null` if the ledger had no row for the partition.
    from: Option<i64>,
    to: i64,
    /// How many offsets of the log will be read again. Fewer records may be read again, because an offset may hold no record.
    read_again: u64,
    /// How many offsets of the log will never be read. Fewer records may be skipped, because an offset may hold no record.
    skipped: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    pipeline: &'a str,
    moved: &'a [Move],
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    arguments.offset.not_in_future("--offset")?;
    let config = arguments.common.load()?;
    let pipeline = arguments.common.only(&config)?;
    let mut connection = reach::open(&reach::connector(&config)).await?;
    reach::registered(&mut connection, &pipeline.name).await?;
    let targets = resolve(&config, pipeline, arguments).await?;
    if !arguments.yes {
        refuse_beside_an_instance(&config, &mut connection, pipeline).await?;
    }
    let moved = apply(&mut connection, pipeline, &targets, arguments.yes).await?;
    if arguments.common.json {
        return show::json(&Report { pipeline: &pipeline.name, moved: &moved });
    }
    show::print(&text(pipeline, &moved))
}

struct Target {
    source: TopicPartition,
    to: Offset,
    low: Offset,
    high: Offset,
}

/// Returns the new position of each selected partition, checked against its log.
async fn resolve(config: &Config, pipeline: &Pipeline, arguments: &Arguments) -> Result<Vec<Target>, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    let usage = |text: String| Err(FatalError::Config(text));
    let listed = || topics.keys().map(|topic| format!("`{topic}`")).collect::<Vec<_>>().join(", ");
    let topic = match (&arguments.topic, topics.len()) {
        (Some(topic), _) => topic.clone(),
        (None, 1) => topics.keys().next().cloned().unwrap_or_default(),
        (None, _) => return usage(format!("--topic: name one; pipeline `{}` reads {}", pipeline.name, listed())),
    };
    let Some(count) = topics.get(&topic).copied() else {
        return usage(format!(
            "--topic: pipeline `{}` reads no topic `{topic}` on this cluster; it reads {}",
            pipeline.name,
            listed()
        ));
    };
    let partitions = match arguments.partition {
        Some(partition) if !(0..count).contains(&partition) => {
            return usage(format!(
                "--partition: topic `{topic}` has no partition {partition}; it has 0 to {}",
                count - 1
            ));
        }
        Some(partition) => vec![partition],
        None => (0..count).collect(),
    };
    let sources: Vec<_> = partitions.into_iter().map(|n| TopicPartition::new(topic.as_str(), n)).collect();
    let target = arguments.offset.clone();
    let (targets, low, high): (Vec<_>, _, _) = reach::ask(config, &observer, move |observer| {
        let targets = match &target {
            LogPosition::At(offset) => sources.iter().map(|source| (source.clone(), *offset)).collect(),
            LogPosition::Start(start) => observer.starts(&sources, start)?,
        };
        Ok((targets, observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?))
    })
    .await?;
    let mut found = Vec::new();
    for (source, to) in targets {
        let (low, high) = (low[&source], high[&source]);
        if to < low || to > high {
            return usage(format!(
                "--offset: {to} lies outside of the log of {source}, which holds {low} up to {high}; write earliest for {low}, latest for {high}"
            ));
        }
        found.push(Target { source, to, low, high });
    }
    found.sort_by(|a, b| a.source.cmp(&b.source));
    Ok(found)
}

async fn refuse_beside_an_instance(
    config: &Config,
    connection: &mut PgConnection,
    pipeline: &Pipeline,
) -> Result<(), FatalError> {
    let live = reach::live(config, connection, &pipeline.name).await?;
    if live.is_empty() {
        return Ok(());
    }
    Err(FatalError::Config(format!(
        "an instance of pipeline `{}` is running ({} to this database): stop it first; or say --yes, then it is fenced at its next write to the partition, drops that batch, and continues from the new position after `limits.claim_grace`",
        pipeline.name,
        show::counted(live.len() as u64, "connection", "connections")
    )))
}

const UPDATE: &str = concat!(
    "
UPDATE tidegate.ledger l SET next_offset = $4, claim_id = gen_random_uuid(),
    first_offset = CASE WHEN $4 > l.next_offset THEN $4 ELSE least(l.first_offset, $4) END,
    epoch = l.epoch + 1, owner = 'tidegate offsets set', last_offset = NULL, last_timestamp = NULL, last_digest = NULL,
    updated_at = now(), committed_at = ",
    committed_at!(),
    "
WHERE l.pipeline = $1 AND l.topic = $2 AND l.partition = $3"
);

const INSERT: &str = "
INSERT INTO tidegate.ledger (pipeline, topic, partition, next_offset, first_offset, claim_id, epoch, owner)
VALUES ($1, $2, $3, $4, $4, gen_random_uuid(), 1, 'tidegate offsets set')";

/// Sets the positions in one transaction. First locks the ledger rows, so that each batch is either committed before this
/// transaction or refused after it. Every writer locks the rows in the same order, so there is no deadlock.
async fn apply(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    targets: &[Target],
    yes: bool,
) -> Result<Vec<Move>, FatalError> {
    let failed = |error| reach::failed("can't set the position", error);
    let mut transaction = connection.begin().await.map_err(failed)?;
    let mut moved = Vec::new();
    for Target { source, to, low, high } in targets {
        let row = sqlx::query(
            "SELECT next_offset FROM tidegate.ledger WHERE pipeline = $1 AND topic = $2 AND partition = $3 FOR NO KEY UPDATE",
        );
        let row = row.bind(&pipeline.name).bind(&*source.topic).bind(source.partition);
        let row = row.fetch_optional(&mut *transaction).await.map_err(failed)?;
        let from = row.map(|row| row.try_get::<i64, _>(0)).transpose().map_err(failed)?;
        // The ledger's position may be outside of the log: before its beginning if retention has deleted records, or after its
        // end if the topic was recreated.
        let within = from.map(|from| Offset::new(from.clamp(low.get(), high.get())));
        moved.push(Move {
            topic: source.topic.to_string(),
            partition: source.partition,
            from,
            to: to.get(),
            read_again: within.map_or(0, |from| from.distance_from(*to)),
            skipped: within.map_or(0, |from| to.distance_from(from)),
        });
    }
    let again: u64 = moved.iter().map(|m| m.read_again).sum();
    if again > 0 && pipeline.table.mode == WriteMode::Append && !yes {
        return Err(FatalError::Config(format!(
            "up to {} would be read again, and mode append would write their rows twice: remove the rows from `{}` first, or say --yes; if the topic was recreated, those rows are of the old log: keep them, and say --yes",
            show::counted(again, "record", "records"),
            pipeline.table.name
        )));
    }
    for Target { source, to, .. } in targets {
        // `verify` counts rows from `first_offset` on. If the position moves forward, UPDATE moves `first_offset` to it, so that
        // skipped records don't count as missing. If the position moves back below `first_offset`, `first_offset` moves back with
        // it. If no row exists, INSERT adds one. If another session inserts the row meanwhile, a trigger of the ledger skips our
        // INSERT, and the second UPDATE changes the other session's row.
        let mut set = 0;
        for sql in [UPDATE, INSERT, UPDATE] {
            let set_one =
                sqlx::query(sql).bind(&pipeline.name).bind(&*source.topic).bind(source.partition).bind(to.get());
            set = set_one.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
            if set > 0 {
                break;
            }
        }
        if set == 0 {
            return Err(FatalError::Unavailable(format!(
                "another command changes the ledger's row of {source} at the same time; try again"
            )));
        }
    }
    transaction.commit().await.map_err(failed)?;
    Ok(moved)
}

fn text(pipeline: &Pipeline, moved: &[Move]) -> String {
    let mut table = Table::new(&["topic", "partition", "from", "to", ""]);
    for Move { topic, partition, from, to, read_again, skipped } in moved {
        let means = match (read_again, skipped) {
            (0, 0) if *from == Some(*to) => "as it was".to_owned(),
            (0, 0) => "the log has no record in between".to_owned(),
            (0, skipped) => format!("up to {} will not be read", show::counted(*skipped, "record", "records")),
            (again, _) => format!("up to {} will be read again", show::counted(*again, "record", "records")),
        };
        let means = if from.is_none() { "the ledger had no row".to_owned() } else { means };
        let from = from.map_or_else(|| "-".to_owned(), show::count);
        table.row([topic.clone(), partition.to_string(), from, show::count(*to), means]);
    }
    format!("pipeline {}: set, with a new claim\n{}", pipeline.name, table.text("  "))
}
