//! The trial of `check`: the daemon's own writer writes the newest records in transactions that are rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use rdkafka::message::Message as _;
use serde::Serialize;
use tidegate_protocol::batch::{Batch, Incoming, Trigger};
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::record::{Headers, Record};
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::writer::Writer;
use tidegate_rows::catalog::TableName;
use tidegate_rows::mapping::Encoder;
use tidegate_rows::mapping::evolve::NewFields;
use tidegate_rows::spec::WriteMode;
use tidegate_rows::write_mode::partitions::Bounds;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::fields::{self, Fields};
use super::stand_in::Setup;
use crate::cli::rehearsal::{Rehearsal, TrialDeadLetter, boundless};
use crate::cli::{reach, show};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::kafka::observer::partitions_of;
use crate::kafka::reader::{Reader, incoming, push_headers};
use crate::kafka::settings::{self, Settings};
use crate::metrics::WriterMetrics;
use crate::plan::{PlanSource, Planned, rejected_record};
use crate::postgres::{PgStore, evolve};
use crate::registry::{self, CachedSchemas};
use crate::report::Counts;
use crate::status::lock;

/// How many dead letters are shown one by one.
const SHOWN: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub(super) records: u64,
    pub(super) rows: u64,
    /// How many of the `rows` delete a row of the table.
    pub(super) deletes: u64,
    pub(super) dead_letters: u64,
    pub(super) reasons: BTreeMap<&'static str, u64>,
    pub(super) letters: Vec<TrialDeadLetter>,
    /// Up to three of the rows that were rolled back, as JSON objects.
    pub(super) first_rows: Vec<String>,
    pub(super) fields: Vec<fields::Share>,
    /// The word for the rows that `fields` counts, in the report's text: `records` or `rows`.
    #[serde(skip)]
    counted: &'static str,
    /// The title of each of `first_rows` in the report's text: `row` or `row before the merge`.
    #[serde(skip)]
    shown: &'static str,
    /// The statement that `evolve` would run for fields that have no column yet.
    pub(super) evolve: Option<String>,
}

impl Sample {
    fn rows_text(&self) -> String {
        let deletes = match self.deletes {
            0 => String::new(),
            count => format!(" and {}", show::counted(count, "delete", "deletes")),
        };
        show::counted(self.rows.saturating_sub(self.deletes), "row", "rows") + &deletes
    }

    pub(super) fn text(&self) -> String {
        if self.records == 0 {
            return "  trial       the topic holds no record to try\n".to_owned();
        }
        let mut text = format!(
            "  trial       {} → {}, {} (rolled back)\n",
            show::counted(self.records, "newest record", "newest records"),
            self.rows_text(),
            show::counted(self.dead_letters, "dead letter", "dead letters")
        );
        if let Some(sql) = &self.evolve {
            text += &format!("    the first start would run: {}\n", show::safe(sql));
        }
        for fields::Share { column, field, present, records, .. } in &self.fields {
            text += &format!(
                "    column {column}: {} of {} {} have {}\n",
                show::count(*present),
                show::count(*records),
                self.counted,
                show::safe(field)
            );
        }
        for row in &self.first_rows {
            text += &format!("    {}   {}\n", self.shown, show::safe(row));
        }
        for (reason, count) in &self.reasons {
            text += &format!("    {reason}: {}\n", show::count(*count));
        }
        for TrialDeadLetter { topic, partition, offset, reason, detail, .. } in &self.letters {
            text += &format!("    {topic}/{partition}@{offset}: {} ({reason})\n", show::safe(detail));
        }
        if self.dead_letters > self.letters.len() as u64 {
            text += &format!("    … and {} more\n", show::count(self.dead_letters - self.letters.len() as u64));
        }
        text
    }
}

pub(in crate::cli) type Ranges = Vec<(TopicPartition, std::ops::Range<Offset>)>;

#[derive(Debug)]
pub(super) struct Done {
    pub(super) sample: Sample,
    pub(super) fields: Fields,
}

#[derive(Debug)]
pub(super) enum Tried {
    Done(Box<Done>),
    /// The trial was read-only, and Postgres refused a change. The text is Postgres's message.
    WouldChange(String),
    /// Rows need these partitions, not all of which exist. The daemon would create the missing ones.
    LacksPartition(Vec<Bounds>),
}

/// Writes the records of `ranges` in transactions that are rolled back, and returns the results. `make` is the SQL that creates
/// the missing tables.
pub(super) async fn try_records(
    config: &Config,
    pipeline: &Pipeline,
    source: &PlanSource,
    make: Option<&str>,
    setup: &Setup,
    ranges: Ranges,
) -> Result<Tried, FatalError> {
    let catalog = source.current().table.catalog.clone();
    let source = source.retargeted(&setup.targets, setup.no_partitions);
    let planned = source.current();
    let schemas = source.schemas().cloned();
    let reader = settings::reader(&config.kafka, pipeline);
    let limits = pipeline.batch;
    let (outbox, mut batches) = mpsc::channel::<Batch>(1);
    let counted = Fields::of(pipeline);
    let reading =
        spawn_blocking(move || read(&reader, &ranges, &planned, schemas.as_deref(), limits, counted, &outbox));

    let name: Arc<str> = pipeline.name.as_str().into();
    let metrics = WriterMetrics::new(&name);
    let store = PgStore::new(name, reach::connector(config), Arc::new(source), metrics);
    let findings = Arc::default();
    let make: Vec<&str> = make.into_iter().chain(setup.make.iter().map(String::as_str)).collect();
    let make = (!make.is_empty()).then(|| make.join(";\n"));
    let counts = Arc::new(Counts::default());
    let store = Rehearsal::new(store, make, Arc::clone(&findings), SHOWN)
        .showing_after(setup.show.join("; "))
        .guarded(setup.read_only);
    let budget = DeadLetterBudget::new(boundless());
    let mut writer =
        Writer::new(store, budget, fastrand::Rng::new(), Arc::clone(&counts) as _).without_waiting().blaming_records();
    let mut tried = 0;
    while let Some(mut batch) = batches.recv().await {
        tried += u64::from(batch.len());
        if let Err(stopped) = writer.write(&mut batch).await {
            let mut findings = lock(&findings);
            return match findings.would_change.take() {
                Some(what) => Ok(Tried::WouldChange(what)),
                None if !findings.without_partition.is_empty() => {
                    Ok(Tried::LacksPartition(std::mem::take(&mut findings.without_partition)))
                }
                None => Err(trouble(&stopped)),
            };
        }
    }
    let read = reading.await.map_err(FatalError::bug)?;
    let Encoded { new_fields, deletes, fields } = read.map_err(FatalError::Unavailable)?;
    let missing: Vec<_> = new_fields.missing(&catalog).into_iter().map(|(name, found)| (name, found.sql())).collect();
    let mut findings = lock(&findings);
    let sample = Sample {
        records: tried,
        rows: counts.rows(),
        deletes,
        dead_letters: counts.dead_letters(),
        reasons: std::mem::take(&mut findings.reasons),
        letters: std::mem::take(&mut findings.letters),
        first_rows: std::mem::take(&mut findings.rows),
        fields: Vec::new(),
        counted: fields::records(pipeline),
        // Rows are shown as they are staged. In the modes `insert_new` and `aggregate`, the merge may skip a row or combine it
        // with others of its key, so the table's row may differ.
        shown: match pipeline.table.mode {
            WriteMode::Append | WriteMode::Upsert { .. } => "row",
            WriteMode::InsertNew { .. } | WriteMode::Aggregate { .. } => "row before the merge",
        },
        evolve: (!missing.is_empty()).then(|| evolve::alter(&pipeline.table.name, &missing)),
    };
    Ok(Tried::Done(Box::new(Done { sample, fields })))
}

/// Returns the tables that the records of `ranges` name and that the plan doesn't have yet.
pub(super) async fn named_tables(
    config: &Config,
    pipeline: &Pipeline,
    source: &PlanSource,
    ranges: Ranges,
) -> Result<BTreeSet<TableName>, FatalError> {
    let (reader, planned) = (settings::reader(&config.kafka, pipeline), source.current());
    let schemas = source.schemas().cloned();
    let reading = spawn_blocking(move || {
        let reader = Reader::new(&reader)?;
        let mut encoder = Encoder::new(Arc::clone(&planned.plan));
        let mut named = BTreeSet::new();
        let mut trouble = Ok(());
        for (source, range) in &ranges {
            reader.read(&source.topic, &[(source.partition, range.clone())], |message| {
                let Incoming { offset, timestamp_ms, key, value } = incoming(message);
                let mut arena = Vec::new();
                push_headers(message, &mut arena);
                let headers = Headers::from_arena(&arena);
                if trouble.is_ok() {
                    trouble = registry::await_schema(schemas.as_deref(), || encoder.wants(key, value, headers));
                }
                let (topic, partition, offset) = (&*source.topic, source.partition, offset.get());
                let record = Record { topic, partition, offset, timestamp_ms, key, value, headers };
                named.extend(encoder.unknown_tables(&record));
            })?;
        }
        trouble.map(|()| named)
    });
    let read = reading.await.map_err(FatalError::bug)?;
    read.map_err(FatalError::Unavailable)
}

/// Returns, per partition, the range of the newest records. All ranges together have at most `records` offsets.
pub(in crate::cli) async fn ranges(
    config: &Config,
    pipeline: &Pipeline,
    topics: &BTreeMap<String, i32>,
    records: u32,
) -> Result<Ranges, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let sources = partitions_of(topics);
    let (low, high) = reach::ask(config, &observer, move |observer| {
        Ok((observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?))
    })
    .await?;
    let logs = high.into_iter().filter_map(|(source, high)| Some((source.clone(), *low.get(&source)?, high)));
    Ok(newest(logs.collect(), u64::from(records)))
}

fn trouble(stopped: &Stopped) -> FatalError {
    let text = format!("the trial of the newest records: {stopped}");
    match stopped {
        Stopped::Outage(_) => FatalError::Unavailable(text),
        Stopped::Refused(error) | Stopped::NoRecordAlone(error) | Stopped::ReplanDidNotHelp(error) => {
            match error.postgres() {
                Some(error) => FatalError::Refused { text, sqlstate: error.sqlstate.clone() },
                None => FatalError::Config(text),
            }
        }
        _ => FatalError::Config(text),
    }
}

/// Returns the range to read of each log. All ranges together have `wanted` offsets, or fewer if the logs don't have that many.
/// Each log contributes an equal share. If a log is shorter than its share, longer logs contribute more.
fn newest(
    mut logs: Vec<(TopicPartition, Offset, Offset)>,
    wanted: u64,
) -> Vec<(TopicPartition, std::ops::Range<Offset>)> {
    logs.sort_by_key(|(_, low, high)| high.distance_from(*low));
    let (mut left, mut ranges) = (wanted, Vec::new());
    let count = logs.len();
    for (n, (source, low, high)) in logs.into_iter().enumerate() {
        let part = left.div_ceil((count - n) as u64).min(high.distance_from(low));
        left -= part.min(left);
        let start = Offset::new(high.get() - i64::try_from(part).unwrap_or(i64::MAX));
        ranges.push((source, start..high));
    }
    ranges.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranges
}

struct Encoded {
    new_fields: NewFields,
    deletes: u64,
    fields: Fields,
}

/// Reads and encodes the records as a poll thread does. Sends them to `outbox` in batches of the configured size.
fn read(
    config: &Settings,
    ranges: &[(TopicPartition, std::ops::Range<Offset>)],
    planned: &Planned,
    schemas: Option<&CachedSchemas>,
    limits: tidegate_protocol::batch::BatchLimits,
    mut fields: Fields,
    outbox: &mpsc::Sender<Batch>,
) -> Result<Encoded, String> {
    let reader = Reader::new(config)?;
    let mut new_fields = NewFields::default();
    let mut encoder = Encoder::new(Arc::clone(&planned.plan));
    let mut trouble = Ok(());
    for topic in ranges.iter().map(|(source, _)| &source.topic).collect::<BTreeSet<_>>() {
        let of_topic: Vec<_> = ranges
            .iter()
            .filter(|(source, _)| source.topic == *topic)
            .map(|(source, range)| (source.partition, range.clone()))
            .collect();
        let mut batch = empty(planned);
        let mut segments: BTreeMap<i32, usize> = BTreeMap::new();
        reader.read(topic, &of_topic, |message| {
            let record = incoming(message);
            let segment = *segments.entry(message.partition()).or_insert_with(|| {
                let source = TopicPartition::new(Arc::clone(topic), message.partition());
                batch.open_segment(source, Claim::default(), record.offset)
            });
            let mut headers = Vec::new();
            push_headers(message, &mut headers);
            if trouble.is_ok() {
                let headers = Headers::from_arena(&headers);
                trouble = registry::await_schema(schemas, || encoder.wants(record.key, record.value, headers));
            }
            let headers = |arena: &mut Vec<u8>| arena.extend_from_slice(&headers);
            batch.push(segment, &record, Instant::now(), headers, |record, rows| {
                fields.see(record, &encoder);
                encoder.new_fields(record, &mut new_fields);
                encoder.encode(record, rows).map_err(|rejection| rejected_record(&planned.plan, rejection))
            });
            if batch.len() >= limits.max_rows.get() || batch.bytes() as u64 >= limits.max_bytes {
                segments.clear();
                send(std::mem::replace(&mut batch, empty(planned)), outbox);
            }
        })?;
        // If a schema could not be loaded, records were encoded without it, and the dead letters mean nothing. So
        // report the schema's error instead.
        trouble.clone()?;
        send(batch, outbox);
    }
    if let Some(schemas) = schemas {
        fields.look_at_versions(schemas, &encoder);
    }
    fields.take(&mut encoder);
    Ok(Encoded { new_fields, deletes: encoder.deletes(), fields })
}

fn empty(planned: &Planned) -> Batch {
    let mut batch = Batch::new();
    batch.plan_version = planned.version;
    batch
}

fn send(mut batch: Batch, outbox: &mpsc::Sender<Batch>) {
    if !batch.is_empty() {
        batch.seal(Trigger::Rows);
        // If the receiver is gone, the trial has already failed and reported why.
        outbox.blocking_send(batch).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_gives_its_part_and_long_ones_make_up_for_short_ones() {
        let log = |n, low, high| (TopicPartition::new("t", n), Offset::new(low), Offset::new(high));
        let starts = |logs, wanted| newest(logs, wanted).iter().map(|(_, range)| range.start.get()).collect::<Vec<_>>();
        assert_eq!(starts(vec![log(0, 0, 1000), log(1, 0, 1000)], 100), [950, 950]);
        assert_eq!(starts(vec![log(0, 0, 1000), log(1, 5, 15), log(2, 7, 7)], 100), [910, 5, 7]);
        assert_eq!(starts(vec![log(0, 3, 8)], 1000), [3]);
    }
}
