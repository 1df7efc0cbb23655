//! `tidegate lag`: compares the ledger's position of each partition with Kafka's log.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tidegate_protocol::position::TopicPartition;

use super::show::{self, Table};
use super::{Common, reach};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::http::duration;
use crate::kafka::observer::{missing_topics, partitions_of};
use crate::lag::{LagWatch, PartitionLag};
use crate::status::Trouble;

/// Arguments of `lag`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct PipelineLag {
    pipeline: String,
    lag_records: u64,
    /// New partitions, which have no ledger row until an instance claims them.
    not_in_ledger: Vec<String>,
    /// Partitions whose log's end is unknown, because no broker serves them.
    without_leader: Vec<String>,
    #[serde(skip)]
    trouble: Option<Trouble>,
    missing_topics: Vec<String>,
    partitions: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    topic: String,
    partition: i32,
    position: i64,
    end: i64,
    low: i64,
    lag_records: u64,
    lag_seconds: f64,
    /// `null` if unknown or infinite. `retention_unlimited` says which.
    retention_headroom_seconds: Option<f64>,
    retention_unlimited: bool,
    owner: Option<String>,
    epoch: i64,
    /// Seconds since records were last committed; `null` if no commit is known.
    last_commit_seconds: Option<f64>,
    /// The log-loss condition of the partition, if there is one: for example, the ledger's position is no longer in the log.
    condition: Option<Condition>,
}

#[derive(Serialize)]
struct Condition {
    cause: &'static str,
    text: String,
}

impl Line {
    fn of(source: &TopicPartition, lag: PartitionLag) -> Self {
        Self {
            topic: source.topic.to_string(),
            partition: source.partition,
            position: lag.next.get(),
            end: lag.end.get(),
            low: lag.low.get(),
            lag_records: lag.records,
            lag_seconds: lag.seconds,
            retention_headroom_seconds: lag.headroom,
            retention_unlimited: lag.headroom == Some(f64::INFINITY),
            owner: lag.owner,
            epoch: lag.epoch,
            last_commit_seconds: lag.committed_seconds,
            condition: lag
                .condition
                .map(|condition| Condition { cause: condition.cause(), text: condition.to_string() }),
        }
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let started = reach::Started::of(&config, arguments.common.pipelines(&config)?).await?;
    let mut all = Vec::new();
    for pipeline in &started.pipelines {
        all.push(look(&config, pipeline).await?);
    }
    if arguments.common.json {
        show::json(&BTreeMap::from([("pipelines", &all)]))?;
    } else {
        show::print(&all.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    started.result(all.iter().flat_map(faults).collect())
}

/// Returns the faults that make a pipeline's lag unknown: missing topics, partitions without a leader, and the log-loss
/// conditions of partitions.
fn faults(lag: &PipelineLag) -> Vec<String> {
    let topics = Some(&lag.missing_topics).filter(|topics| !topics.is_empty());
    let topics = topics.map(|topics| format!("pipeline `{}`: {}", lag.pipeline, Trouble::topics(topics)));
    let conditions = lag.partitions.iter().filter_map(|line| {
        let condition = line.condition.as_ref()?;
        Some(format!("pipeline `{}`: {}/{}: {}", lag.pipeline, line.topic, line.partition, condition.text))
    });
    let leader = lag.trouble.as_ref().map(|trouble| format!("pipeline `{}`: {trouble}", lag.pipeline));
    topics.into_iter().chain(leader).chain(conditions).collect()
}

async fn look(config: &Config, pipeline: &Pipeline) -> Result<PipelineLag, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    let (sources, missing_topics) = (partitions_of(&topics), missing_topics(&pipeline.topics, &topics));
    let name: Arc<str> = pipeline.name.as_str().into();
    let watch =
        LagWatch::new(name, pipeline.topics.clone(), reach::connector(config), observer, Arc::default(), Vec::new());
    let read = watch.once().await.map_err(|why| FatalError::Unavailable(format!("can't read the lag: {why}")))?;
    let (partitions, without_leader) = read;
    let is_new = |source: &&TopicPartition| !partitions.contains_key(*source) && !without_leader.contains(source);
    let not_in_ledger: Vec<_> = sources.iter().filter(is_new).map(ToString::to_string).collect();
    Ok(PipelineLag {
        pipeline: pipeline.name.clone(),
        lag_records: partitions.values().map(|lag| lag.records).sum(),
        missing_topics,
        not_in_ledger,
        trouble: (!without_leader.is_empty()).then(|| Trouble::no_leader(&without_leader)),
        without_leader: without_leader.iter().map(ToString::to_string).collect(),
        partitions: partitions.into_iter().map(|(source, lag)| Line::of(&source, lag)).collect(),
    })
}

fn text(lag: &PipelineLag) -> String {
    let mut table = Table::new(&[
        "topic",
        "partition",
        "position",
        "end",
        "low",
        "lag",
        "behind",
        "headroom",
        "last commit",
        "owner",
    ]);
    for line in &lag.partitions {
        table.row([
            line.topic.clone(),
            line.partition.to_string(),
            show::count(line.position),
            show::count(line.end),
            show::count(line.low),
            show::count(line.lag_records),
            duration(line.lag_seconds),
            match line.retention_headroom_seconds {
                Some(seconds) if seconds.is_finite() => duration(seconds),
                Some(_) => "no limit".to_owned(),
                None => "unknown".to_owned(),
            },
            line.last_commit_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", duration(seconds))),
            line.owner.clone().unwrap_or_else(|| "nobody yet".to_owned()),
        ]);
    }
    let behind = show::counted(lag.lag_records, "record", "records");
    let behind = if faults(lag).is_empty() {
        format!("{behind} behind")
    } else {
        "it is unknown how far behind it is".to_owned()
    };
    let mut text = format!("pipeline {}: {behind}\n{}", lag.pipeline, table.text("  "));
    if !lag.not_in_ledger.is_empty() {
        text += &format!("  not in the ledger yet: {}\n", lag.not_in_ledger.join(", "));
    }
    if !lag.without_leader.is_empty() {
        text += &format!("  without a leader: {}\n", lag.without_leader.join(", "));
    }
    text
}
