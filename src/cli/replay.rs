//! `tidegate replay`: writes a range of the topics once more, with the daemon's own writer. A replay has its own key in the
//! ledger, in place of a pipeline's name.
//!
//! The rows of this key in `tidegate.ledger` say where the range begins and ends, and how much of it is written. So a
//! replay writes each record exactly once, like a pipeline. If it is killed at any point, the next run resumes it. If
//! two runs overlap, the later one fences the earlier one. A replay joins no group, and doesn't disturb a daemon that
//! runs meanwhile.

mod reading;
mod replay_progress;
pub(in crate::cli) mod safe;

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::partition::Outcome;
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::writer::Writer;
use tidegate_rows::catalog::TableName;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::replay_progress::{OffsetRange, ReplayProgress};
use super::log_position::LogPosition;
use super::progress::Progress;
use super::{Common, reach, show};
use crate::config::{Config, Pipeline, Start, table_name};
use crate::error::FatalError;
use crate::kafka::observer::{Answer, Observer, partitions_of};
use crate::metrics::WriterMetrics;
use crate::plan::PlanSource;
use crate::postgres::connect::Connector;
use crate::postgres::{PgStore, dead_letter_cleanup};
use crate::report::Counts;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("pipeline", super::one_pipeline))]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Only this topic. Default: all topics of the pipeline.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition. Default: all partitions.
    #[arg(long, value_name = "P")]
    partition: Option<i32>,
    /// The first record to write: an offset, `earliest`, or an RFC 3339 time (the first record at or after it).
    #[arg(long, value_name = "N|earliest|TIME")]
    from: LogPosition,
    /// The end, exclusive: an offset, `latest` (the end of the log now), or an RFC 3339 time that isn't in the future.
    #[arg(long, value_name = "N|latest|TIME", default_value = "latest")]
    to: LogPosition,
    /// Write into this table instead of the pipeline's own.
    #[arg(long, value_name = "SCHEMA.TABLE")]
    into: Option<String>,
    /// The replay's name in the ledger. A command with the same name resumes the same replay.
    /// Default: derived from --from, --to, --topic, --partition and --into.
    #[arg(long)]
    name: Option<String>,
    /// Forget this replay's ranges and how far it came, and start over.
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    pipeline: String,
    /// The replay's key in the ledger and in the dead letters.
    replay: String,
    table: String,
    /// Whether an earlier run has begun this replay. If so, this run only writes the records that were left.
    resumed: bool,
    /// The number of records that this run has handled. `rows`, `deletes` and `dead_letters` also count this run only.
    /// `stretches` are the whole ranges, including the records that earlier runs wrote.
    records: u64,
    rows: u64,
    deletes: u64,
    dead_letters: u64,
    stretches: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    topic: String,
    partition: i32,
    from: i64,
    to: i64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    arguments.from.not_in_future("--from")?;
    arguments.to.not_in_future("--to")?;
    let config = arguments.common.load()?;
    let pipeline = arguments.common.only(&config)?.clone();
    let own = pipeline.table.name.clone();
    let into = arguments.into.as_deref().map(table_name).transpose();
    let into = into.map_err(|why| FatalError::Config(format!("--into: {why}")))?;
    if into.as_ref().is_none_or(|into| *into == own)
        && let Some(why) = safe::refuses(&pipeline.table.mode, pipeline.columns.as_deref().unwrap_or_default())
    {
        return Err(FatalError::Config(format!(
            "can't replay into `{own}`: {why}; name another table by --into SCHEMA.TABLE"
        )));
    }
    let report = replay(&config, pipeline, into, arguments).await?;
    if arguments.common.json {
        return show::json(&report);
    }
    show::print(&text(&report))
}

async fn replay(
    config: &Config,
    mut pipeline: Pipeline,
    into: Option<TableName>,
    arguments: &Arguments,
) -> Result<Report, FatalError> {
    let key = key(&pipeline, arguments);
    // The connections have the replay's name, so that other commands see that it runs.
    let connector = Connector::new(Arc::new(config.postgres.clone()), Some(&key));
    reach::migrate(&connector).await?;
    let mut connection = reach::open(&connector).await?;
    if let Some(into) = into {
        reach::redirect(&mut connection, &mut pipeline, into).await?;
    }
    let pipeline = &pipeline;
    let plans = Arc::new(PlanSource::load(pipeline, &mut connection).await.map_err(reach::unplanned)?);
    let planned = plans.current();
    let cluster_id = {
        let observer = reach::observer(config, pipeline)?;
        reach::ask(config, &observer, Observer::cluster_id).await?
    };
    let replay_progress = ReplayProgress::open(key, cluster_id, pipeline, planned.table.catalog.oid);
    if arguments.again {
        replay_progress.forget(&mut connection).await?;
    }
    let mut stretches = replay_progress.known(&mut connection).await?;
    let resumed = !stretches.is_empty();
    if !resumed {
        stretches = resolve(config, pipeline, arguments).await?;
        replay_progress.begin(&mut connection, &stretches).await?;
    }
    let lines = stretches.iter().map(|stretch| Line {
        topic: stretch.source.topic.to_string(),
        partition: stretch.source.partition,
        from: stretch.first.get(),
        to: stretch.end.get(),
    });
    let mut report = Report {
        pipeline: pipeline.name.clone(),
        replay: replay_progress.key().to_owned(),
        table: pipeline.table.name.to_string(),
        resumed,
        records: 0,
        rows: 0,
        deletes: 0,
        dead_letters: 0,
        stretches: lines.collect(),
    };
    let claimed = replay_progress.claim(&connector, &mut connection, &stretches).await?;
    if claimed.is_empty() {
        return Ok(report);
    }
    let claims = claimed.iter().map(|open| open.claim.id).collect::<Vec<_>>();
    let progress = Progress::start("replay");
    progress.expect(claimed.iter().map(|open| open.end.distance_from(open.next)).sum());
    let (outbox, mut batches) = mpsc::channel(1);
    let reading = reading::Reading::new(config, pipeline, planned, claimed, outbox).map_err(FatalError::Config)?;
    let reading = spawn_blocking(move || reading.run());
    let name: Arc<str> = replay_progress.key().into();
    let (metrics, counts) = (WriterMetrics::new(&name), Arc::new(Counts::default()));
    let store = PgStore::new(name, connector, plans, metrics);
    let budget = DeadLetterBudget::new(pipeline.dead_letters);
    let mut writer = Writer::new(store, budget, fastrand::Rng::new(), Arc::clone(&counts) as _);
    while let Some(mut batch) = batches.recv().await {
        let outcomes = writer.write(&mut batch).await.map_err(|stopped| {
            FatalError::Stopped(format!("{stopped}; what is written is kept, and the same command resumes from there"))
        })?;
        if outcomes.iter().flatten().any(|outcome| !matches!(outcome, Outcome::Committed(_))) {
            return Err(FatalError::Stopped(format!(
                "`{}` was taken over by another run, or the database was restored: run the command again, and it resumes from the ledger",
                replay_progress.key()
            )));
        }
        report.records += u64::from(batch.len());
        progress.add(batch.len().into());
    }
    let read = reading.await.map_err(FatalError::bug)?;
    report.deletes = read
        .map_err(|why| FatalError::Unavailable(format!("{why}; run the command again: it resumes where it stopped")))?;
    replay_progress.end(&mut reach::open(&reach::connector(config)).await?, &claims).await?;
    (report.rows, report.dead_letters) = (counts.rows().saturating_sub(report.deletes), counts.dead_letters());
    Ok(report)
}

/// Returns the replay's key in the ledger. The same arguments give the same key, so that they resume the same replay.
fn key(pipeline: &Pipeline, arguments: &Arguments) -> String {
    let Arguments { topic, partition, from, to, into, name, .. } = arguments;
    let name = name.clone().unwrap_or_else(|| {
        let part =
            |word: &str, value: Option<String>| value.map(|value| format!(" {word} {value}")).unwrap_or_default();
        format!(
            "from {from} to {to}{}{}{}",
            part("topic", topic.clone()),
            part("partition", partition.map(|partition| partition.to_string())),
            part("into", into.clone()),
        )
    });
    dead_letter_cleanup::replay_key(&pipeline.name, &name)
}

/// Returns the selected range of each partition. Leaves out empty ranges. Fails if a range reaches beyond its log, or if no
/// range is left.
async fn resolve(config: &Config, pipeline: &Pipeline, arguments: &Arguments) -> Result<Vec<OffsetRange>, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    if let Some(topic) = arguments.topic.as_ref().filter(|topic| !topics.contains_key(*topic)) {
        return Err(FatalError::Config(format!("--topic: pipeline `{}` reads no topic `{topic}`", pipeline.name)));
    }
    let is_meant = |source: &TopicPartition| {
        arguments.topic.as_deref().is_none_or(|topic| *source.topic == *topic)
            && arguments.partition.is_none_or(|partition| source.partition == partition)
    };
    let sources: Vec<_> = partitions_of(&topics).into_iter().filter(is_meant).collect();
    if sources.is_empty() {
        let partition = arguments.partition.map(|partition| format!(" partition {partition} of")).unwrap_or_default();
        return Err(FatalError::Config(format!(
            "Kafka has no{partition} a topic that pipeline `{}` reads",
            pipeline.name
        )));
    }
    let (from, to) = (arguments.from.clone(), arguments.to.clone());
    let places = reach::ask(config, &observer, move |observer| {
        let (low, high) = (observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?);
        let at = |target: &LogPosition| -> Answer<HashMap<TopicPartition, Offset>> {
            match target {
                LogPosition::At(offset) => Ok(sources.iter().map(|source| (source.clone(), *offset)).collect()),
                LogPosition::Start(Start::Earliest) => Ok(low.clone()),
                LogPosition::Start(Start::Latest) => Ok(high.clone()),
                LogPosition::Start(start) => Ok(observer.starts(&sources, start)?.into_iter().collect()),
            }
        };
        let (from, to) = (at(&from)?, at(&to)?);
        let place = |source: TopicPartition| {
            let (first, end, low, high) = (from[&source], to[&source], low[&source], high[&source]);
            (source, first, end, low, high)
        };
        Ok(sources.into_iter().map(place).collect::<Vec<_>>())
    });
    let places = places.await?;
    let mut stretches = Vec::new();
    for (source, first, end, low, high) in places {
        if first < low || end > high {
            return Err(FatalError::Config(format!(
                "{source}: {first} to {end} is outside of the log, which goes from {low} to {high}; write earliest or latest, or another --partition"
            )));
        }
        if first < end {
            stretches.push(OffsetRange { source, first, next: first, end });
        }
    }
    if stretches.is_empty() {
        return Err(FatalError::Config("there is no record between --from and --to".to_owned()));
    }
    Ok(stretches)
}

fn text(report: &Report) -> String {
    let Report { pipeline, replay, table, resumed, records, rows, deletes, dead_letters, stretches } = report;
    if *resumed && *records == 0 {
        return format!("`{replay}` was done already; --again starts over\n");
    }
    let resumed = if *resumed { ", the rest of an earlier run" } else { "" };
    let deletes = match deletes {
        0 => String::new(),
        n => format!(", {}", show::counted(*n, "delete", "deletes")),
    };
    let letters = match dead_letters {
        0 => "no dead letters".to_owned(),
        n => format!(
            "{}: `tidegate dead-letters list --pipeline {pipeline}` shows them, as `{replay}`",
            show::counted(*n, "dead letter", "dead letters")
        ),
    };
    format!(
        "{pipeline}: {} of {} replayed into {table}{resumed}: {}{deletes}, {letters}\n",
        show::counted(*records, "record", "records"),
        show::counted(stretches.len() as u64, "partition", "partitions"),
        show::counted(*rows, "row", "rows"),
    )
}
