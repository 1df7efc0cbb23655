//! `tidegate lag`: by partition, the ledger's position compared with Kafka's log.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tidegate_protocol::position::TopicPartition;

use super::show::{self, Table};
use super::{Common, reach};
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::http::duration;
use crate::kafka::observer::partitions_of;
use crate::lag::{LagWatch, PartitionLag};

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
    /// Kafka's partitions without a ledger row: new ones, until an instance claims them.
    not_in_ledger: Vec<String>,
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
    retention_headroom_seconds: Option<f64>,
    owner: Option<String>,
    epoch: i64,
    last_commit_seconds: f64,
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
            owner: lag.owner,
            epoch: lag.epoch,
            last_commit_seconds: lag.idle_seconds,
        }
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let mut all = Vec::new();
    for pipeline in arguments.common.pipelines(&config)? {
        all.push(look(&config, pipeline).await?);
    }
    if arguments.common.json {
        return show::json(&BTreeMap::from([("pipelines", &all)]));
    }
    show::print(&all.iter().map(text).collect::<Vec<_>>().join("\n"))
}

async fn look(config: &Config, pipeline: &Pipeline) -> Result<PipelineLag, FatalError> {
    let connector = reach::connector(config);
    let mut connection = reach::open(&connector).await?;
    reach::registered(&mut connection, &pipeline.name).await?;
    let observer = reach::observer(config, pipeline)?;
    let sources = partitions_of(&reach::topics(config, &observer, &pipeline.topics).await?);
    let name: Arc<str> = pipeline.name.as_str().into();
    let watch = LagWatch::new(name, pipeline.topics.clone(), connector, observer, Arc::default(), Vec::new());
    let partitions = watch.once().await.map_err(|why| FatalError::Unavailable(format!("can't see the lag: {why}")))?;
    let unknown = sources.iter().filter(|source| !partitions.contains_key(*source));
    Ok(PipelineLag {
        pipeline: pipeline.name.clone(),
        lag_records: partitions.values().map(|lag| lag.records).sum(),
        not_in_ledger: unknown.map(ToString::to_string).collect(),
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
            line.retention_headroom_seconds.map_or_else(|| "for ever".to_owned(), duration),
            format!("{} ago", duration(line.last_commit_seconds)),
            line.owner.clone().unwrap_or_else(|| "nobody yet".to_owned()),
        ]);
    }
    let behind = show::counted(lag.lag_records, "record", "records");
    let mut text = format!("pipeline {}: {behind} behind\n{}", lag.pipeline, table.text("  "));
    if !lag.not_in_ledger.is_empty() {
        text += &format!("  not in the ledger yet: {}\n", lag.not_in_ledger.join(", "));
    }
    text
}
