//! `tidegate verify`: compares the ledger with Kafka, and the table with both.
//!
//! Ledger and table are read in one snapshot, so a running daemon doesn't affect the result. Offsets that are neither in the
//! table nor in the dead letters are looked up in Kafka. Offsets that hold no record (compacted away, transaction markers) are
//! not losses. For offsets that Kafka has deleted, it can't be known whether a row is missing.

mod report;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use rdkafka::message::Message as _;
use report::{PartitionReport, PipelineReport};
use sqlx::{Executor, PgConnection, Row};
use tidegate_protocol::batch::{LastRecord, last_record};
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::partition::{LossCondition, resolve_start};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::spec::WriteMode;
use tokio::task::spawn_blocking;

use super::progress::Progress;
use super::{Common, reach, show};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::kafka::observer::partitions_of;
use crate::kafka::reader::{Reader, incoming};
use crate::kafka::settings::{self, Settings};
use crate::postgres::routes;
use crate::status::lock;

/// A gap is a range of offsets that have neither a row nor a dead letter. If at least this many offsets lie between two gaps,
/// seeking to the second gap is cheaper than reading these offsets.
const SEEK_FROM: i64 = 20_000;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let started = reach::Started::of(&config, arguments.common.pipelines(&config)?).await?;
    let mut reports = Vec::new();
    for pipeline in &started.pipelines {
        reports.push(verify(&config, pipeline).await?);
    }
    if arguments.common.json {
        show::json(&BTreeMap::from([("pipelines", &reports)]))?;
    } else {
        show::print(&reports.iter().map(PipelineReport::text).collect::<Vec<_>>().join("\n"))?;
    }
    started.result(reports.iter().flat_map(PipelineReport::faults).collect())
}

/// A partition's row in the ledger. `first` is the offset at which the pipeline began, or `None` if an older version wrote the
/// row. `last` identifies the newest committed record, or is `None` if the row has none.
struct Position {
    source: TopicPartition,
    next: Offset,
    first: Option<Offset>,
    last: Option<LastRecord>,
}

async fn verify(config: &Config, pipeline: &Pipeline) -> Result<PipelineReport, FatalError> {
    let progress = Progress::start("verify");
    progress.doing(format!("pipeline `{}`", pipeline.name));
    let failed = |error| reach::failed("can't verify", error);
    let mut connection = reach::open(&reach::connector(config)).await?;
    // Read ledger and table in one snapshot. Switch the timeouts off, because counting a large table takes longer than
    // a batch.
    connection
        .execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(failed)?;
    let positions = positions(&mut connection, &pipeline.name).await.map_err(failed)?;
    // Request the logs' ends after taking the snapshot, so that the ledger's positions aren't beyond these ends.
    let observer = reach::observer(config, pipeline)?;
    let sources: Vec<_> = positions.iter().map(|position| position.source.clone()).collect();
    let wanted = pipeline.topics.clone();
    let (topics, low, high) = reach::ask(config, &observer, move |observer| {
        let topics = observer.topics(&wanted)?;
        let there =
            |source: &&TopicPartition| topics.get(&*source.topic).is_some_and(|count| source.partition < *count);
        let sources: Vec<_> = sources.iter().filter(there).cloned().collect();
        let (low, high) = (observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?);
        Ok((topics, low, high))
    })
    .await?;
    let settings = settings::reader(&config.kafka, pipeline);
    let mut report = PipelineReport::new(pipeline);
    let known = |source: &TopicPartition| positions.iter().any(|position| position.source == *source);
    report.not_in_ledger =
        partitions_of(&topics).iter().filter(|source| !known(source)).map(ToString::to_string).collect();
    for position in &positions {
        progress.doing(format!("comparing {} with Kafka", position.source));
        let ends = low.get(&position.source).copied().zip(high.get(&position.source).copied());
        report.partitions.push(against_kafka(&settings, position, ends).await?);
    }
    progress.doing(format!("comparing `{}` with the ledger", pipeline.table.name));
    against_table(&mut connection, pipeline, &settings, &positions, &low, &mut report).await?;
    Ok(report)
}

async fn positions(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<Position>, sqlx::Error> {
    // If this command is newer than the daemon, the column `first_offset` possibly doesn't exist yet. So read the row as JSON.
    let rows = sqlx::query(
        "SELECT topic, partition, next_offset, (to_jsonb(l) ->> 'first_offset')::int8, last_offset, last_timestamp,
             last_digest
         FROM tidegate.ledger l WHERE pipeline = $1 ORDER BY topic, partition",
    );
    let rows = rows.bind(pipeline).fetch_all(connection).await?;
    let position = |row: &sqlx::postgres::PgRow| {
        let (offset, digest): (Option<i64>, Option<i64>) = (row.try_get(4)?, row.try_get(6)?);
        let timestamp_ms: Option<i64> = row.try_get(5)?;
        Ok(Position {
            source: TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?),
            next: Offset::new(row.try_get(2)?),
            first: row.try_get::<Option<i64>, _>(3)?.map(Offset::new),
            last: offset.zip(digest).map(|(offset, digest)| LastRecord {
                offset: Offset::new(offset),
                timestamp_ms,
                digest,
            }),
        })
    };
    rows.iter().map(position).collect()
}

/// Checks that the position is within the log, and that the log is the one that the ledger knows.
async fn against_kafka(
    settings: &Settings,
    position: &Position,
    ends: Option<(Offset, Offset)>,
) -> Result<PartitionReport, FatalError> {
    let mut report = PartitionReport::new(&position.source, position.next);
    let Some((low, high)) = ends else {
        report.condition =
            Some("Kafka has no such partition: the topic was deleted, or recreated with fewer partitions".to_owned());
        return Ok(report);
    };
    (report.low, report.end) = (Some(low.get()), Some(high.get()));
    match resolve_start(position.next, position.last, low, high) {
        Err(condition) => report.condition = Some(condition.to_string()),
        Ok((_, None)) => {}
        Ok((_, Some(last))) => {
            let seen = Arc::new(Mutex::new(None));
            let found = Arc::clone(&seen);
            let range = vec![(position.source.partition, last.offset..last.offset.successor())];
            read(settings, &position.source.topic, range, move |message| {
                let incoming = incoming(message);
                let record = Record {
                    topic: message.topic(),
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: incoming.timestamp_ms,
                    key: incoming.key,
                    value: incoming.value,
                    headers: Headers::default(),
                };
                *lock(&found) = Some(last_record(&record));
            })
            .await?;
            // If compaction has removed the record, the log can't be identified.
            let seen = lock(&seen).take();
            report.last_record = Some(match seen {
                None => "gone",
                Some(seen) if seen == last => "known again",
                Some(_) => {
                    report.condition = Some(LossCondition::LogReplaced { last }.to_string());
                    "another"
                }
            });
        }
    }
    Ok(report)
}

async fn against_table(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    settings: &Settings,
    positions: &[Position],
    low: &HashMap<TopicPartition, Offset>,
    report: &mut PipelineReport,
) -> Result<(), FatalError> {
    let name = &pipeline.table.name;
    let failed = |error: sqlx::Error| match error.as_database_error() {
        // In mode `append`, the daemon doesn't read the table, so the rights that `check` prints don't include SELECT. So name
        // this right here.
        Some(denied) if denied.code().as_deref() == Some("42501") => FatalError::Stopped(format!(
            "can't compare `{name}` with the ledger: {}; this command reads the table, so the role needs GRANT SELECT ON {}",
            denied.message(),
            name.quoted()
        )),
        _ => reach::failed(&format!("can't compare `{name}` with the ledger"), error),
    };
    let tables = match &pipeline.table.route {
        None => vec![pipeline.table.name.clone()],
        Some(_) => {
            let known = routes::known(connection, &pipeline.name).await.map_err(failed)?;
            routes::existing(connection, &known).await.map_err(failed)?.into_iter().collect()
        }
    };
    let columns = match table::Columns::of(pipeline, &tables, positions.iter().map(|position| &*position.source.topic))
    {
        Ok(columns) => columns,
        Err(why) => {
            report.table_skipped = Some(why);
            return Ok(());
        }
    };
    let mut spans = Vec::new();
    for position in positions {
        let first = match position.first {
            Some(first) => Some(first),
            // Earlier versions didn't record where a pipeline started. In that case, count from the oldest row or dead
            // letter.
            None => columns.oldest(connection, pipeline, &position.source).await.map_err(failed)?,
        };
        spans.push((position, first.unwrap_or(position.next).min(position.next)));
    }
    let places: Vec<_> =
        spans.iter().map(|(position, first)| (position.source.clone(), *first, position.next)).collect();
    let counted = columns.count(connection, pipeline, &places).await.map_err(failed)?;
    for ((position, first), partition) in spans.iter().zip(&mut report.partitions) {
        let counts = counted.get(&position.source).copied().unwrap_or_default();
        partition.first = Some(first.get());
        partition.rows = Some(counts.rows);
        partition.dead_letters = Some(counts.dead_letters);
        partition.twice = Some(counts.twice);
        partition.beyond = Some(counts.beyond);
        let (mut missing, mut unknown) = (0, 0);
        if counts.distinct < position.next.distance_from(*first) {
            let low = low.get(&position.source).copied();
            let mut from = *first;
            while from < position.next {
                let source = &position.source;
                let (gaps, until) =
                    columns.gaps(connection, pipeline, source, from..position.next).await.map_err(failed)?;
                let (gone, kept) = split(gaps, low.unwrap_or(position.next));
                unknown += gone;
                missing += records_in(settings, source, kept).await?;
                from = until;
            }
        }
        partition.missing = Some(missing);
        partition.unknown = Some(unknown);
    }
    report.skips_by_key = matches!(pipeline.table.mode, WriteMode::InsertNew { .. });
    Ok(())
}

/// Splits the gaps. Returns the number of offsets that Kafka has deleted, and the gaps that can be looked up.
fn split(gaps: Vec<Range<Offset>>, low: Offset) -> (u64, Vec<Range<Offset>>) {
    let gone = gaps.iter().map(|gap| gap.end.min(low).distance_from(gap.start)).sum();
    let kept = gaps.into_iter().map(|gap| gap.start.max(low)..gap.end).filter(|gap| !gap.is_empty());
    (gone, kept.collect())
}

/// Returns how many records Kafka holds in these gaps, which are in order.
async fn records_in(settings: &Settings, source: &TopicPartition, gaps: Vec<Range<Offset>>) -> Result<u64, FatalError> {
    let found = Arc::new(Mutex::new(0));
    let mut rest = &gaps[..];
    while let Some(first) = rest.first() {
        let near = rest.windows(2).take_while(|pair| pair[1].start.get() - pair[0].end.get() < SEEK_FROM).count() + 1;
        let (some, others) = rest.split_at(near);
        rest = others;
        let whole = first.start..some.last().map_or(first.end, |last| last.end);
        let (some, found) = (some.to_vec(), Arc::clone(&found));
        read(settings, &source.topic, vec![(source.partition, whole)], move |message| {
            let offset = Offset::new(message.offset());
            let gap = some.partition_point(|gap| gap.end <= offset);
            if some.get(gap).is_some_and(|gap| gap.contains(&offset)) {
                *lock(&found) += 1;
            }
        })
        .await?;
    }
    let found = *lock(&found);
    Ok(found)
}

async fn read(
    settings: &Settings,
    topic: &Arc<str>,
    ranges: Vec<(i32, Range<Offset>)>,
    take: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) + Send + 'static,
) -> Result<(), FatalError> {
    let (settings, topic) = (settings.clone(), Arc::clone(topic));
    let work = spawn_blocking(move || Reader::new(&settings)?.read(&topic, &ranges, take));
    let done = work.await.map_err(FatalError::bug)?;
    done.map_err(FatalError::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kafka_has_deleted_can_not_be_told() {
        let range = |a, b| Offset::new(a)..Offset::new(b);
        let gaps = vec![range(0, 5), range(8, 12), range(20, 21)];
        assert_eq!(split(gaps.clone(), Offset::new(10)), (7, vec![range(10, 12), range(20, 21)]));
        assert_eq!(split(gaps.clone(), Offset::new(0)), (0, gaps));
    }
}
