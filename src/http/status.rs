//! What `/api/status` and `/readyz` say. The JSON's form is versioned: fields are added, never changed.

use std::time::Instant;

use serde::Serialize;

use crate::daemon::Daemon;
use crate::pipeline::{Phase, Pipeline, state_label};
use crate::status::{ConsumerStatus, WriterState, lock};

#[derive(Serialize)]
pub(super) struct Status {
    /// The form of this document.
    version: u32,
    instance: String,
    tidegate: &'static str,
    started_ms: i64,
    now_ms: i64,
    memory_limit_bytes: u64,
    ready: bool,
    pipelines: Vec<PipelineView>,
}

#[derive(Serialize)]
struct PipelineView {
    name: String,
    group: String,
    table: String,
    state: &'static str,
    /// Why it isn't flowing.
    reason: Option<String>,
    rows: u64,
    dead_letters: u64,
    lag_records: u64,
    lag_seconds: f64,
    retention_headroom_seconds: Option<f64>,
    consumers: Vec<ConsumerView>,
    partitions: Vec<PartitionView>,
}

#[derive(Serialize)]
struct ConsumerView {
    consumer: u32,
    joined: bool,
    rows: u64,
    buffered_bytes: u64,
    waiting: Option<WaitingView>,
    partitions: Vec<OwnedView>,
}

#[derive(Serialize)]
struct WaitingView {
    why: String,
    seconds: f64,
    attempt: u32,
    retry_in_seconds: f64,
}

#[derive(Serialize)]
struct OwnedView {
    topic: String,
    partition: i32,
    state: &'static str,
    next: Option<i64>,
    committed: Option<i64>,
    epoch: Option<i64>,
    condition: Option<String>,
}

/// From the ledger: every partition of the pipeline, whoever owns it.
#[derive(Serialize)]
struct PartitionView {
    topic: String,
    partition: i32,
    next: i64,
    end: i64,
    low: i64,
    lag_records: u64,
    lag_seconds: f64,
    retention_headroom_seconds: Option<f64>,
    owner: Option<String>,
    epoch: i64,
    idle_seconds: f64,
}

pub(super) fn of(daemon: &Daemon) -> Status {
    Status {
        version: 1,
        instance: daemon.instance.to_string(),
        tidegate: env!("CARGO_PKG_VERSION"),
        started_ms: daemon.started_ms,
        now_ms: crate::metrics::epoch_ms(),
        memory_limit_bytes: daemon.config.limits.memory,
        ready: not_ready(daemon).is_empty(),
        pipelines: daemon.pipelines.iter().map(|pipeline| pipeline_view(pipeline)).collect(),
    }
}

fn pipeline_view(pipeline: &Pipeline) -> PipelineView {
    let lag = lock(&pipeline.lag).clone();
    let partitions: Vec<PartitionView> = lag
        .partitions
        .iter()
        .map(|(source, lag)| PartitionView {
            topic: source.topic.to_string(),
            partition: source.partition,
            next: lag.next.get(),
            end: lag.end.get(),
            low: lag.low.get(),
            lag_records: lag.records,
            lag_seconds: lag.seconds,
            retention_headroom_seconds: lag.headroom,
            owner: lag.owner.clone(),
            epoch: lag.epoch,
            idle_seconds: lag.idle_seconds,
        })
        .collect();
    let headrooms = partitions.iter().filter_map(|p| p.retention_headroom_seconds);
    PipelineView {
        name: pipeline.name.to_string(),
        group: pipeline.config.group.clone(),
        table: pipeline.config.table.name.to_string(),
        state: state_label(pipeline),
        reason: reason(pipeline),
        rows: pipeline.consumers.iter().map(|c| c.rows()).sum(),
        dead_letters: pipeline.consumers.iter().map(|c| c.dead_letters()).sum(),
        lag_records: partitions.iter().map(|p| p.lag_records).sum(),
        lag_seconds: partitions.iter().map(|p| p.lag_seconds).fold(0.0, f64::max),
        retention_headroom_seconds: headrooms.reduce(f64::min),
        consumers: pipeline.consumers.iter().map(|c| consumer_view(c)).collect(),
        partitions,
    }
}

fn consumer_view(consumer: &ConsumerStatus) -> ConsumerView {
    let now = Instant::now();
    let waiting = match consumer.writer() {
        WriterState::Flowing => None,
        WriterState::Waiting { since, why, attempt, retry_at } => Some(WaitingView {
            why,
            seconds: now.duration_since(since).as_secs_f64(),
            attempt,
            retry_in_seconds: retry_at.saturating_duration_since(now).as_secs_f64(),
        }),
    };
    let owned = consumer.partitions().into_iter().map(|p| OwnedView {
        topic: p.source.topic.to_string(),
        partition: p.source.partition,
        state: p.state,
        next: p.next.map(|offset| offset.get()),
        committed: p.committed.map(|offset| offset.get()),
        epoch: p.epoch,
        condition: p.condition,
    });
    ConsumerView {
        consumer: consumer.number,
        joined: consumer.joined(),
        rows: consumer.rows(),
        buffered_bytes: consumer.buffered_bytes(),
        waiting,
        partitions: owned.collect(),
    }
}

fn reason(pipeline: &Pipeline) -> Option<String> {
    match pipeline.phase() {
        Phase::Starting { waiting_for } => waiting_for,
        Phase::Stopped { why } => Some(why),
        Phase::Running | Phase::Draining | Phase::Drained => {
            pipeline.consumers.iter().find_map(|consumer| match consumer.writer() {
                WriterState::Waiting { why, attempt, .. } => Some(format!("{why}; retry {attempt}, nothing is lost")),
                WriterState::Flowing => None,
            })
        }
    }
}

/// Why the daemon isn't ready; nothing where every pipeline owns its partitions or is idle by right, and makes progress.
pub(super) fn not_ready(daemon: &Daemon) -> Vec<String> {
    let mut reasons = Vec::new();
    for pipeline in &daemon.pipelines {
        let name = &pipeline.name;
        let state = state_label(pipeline);
        if state != "flowing" {
            let why = reason(pipeline).map(|why| format!(": {why}")).unwrap_or_default();
            reasons.push(format!("{name} is {state}{why}"));
            continue;
        }
        for consumer in &pipeline.consumers {
            if !consumer.joined() {
                reasons.push(format!("{name}: consumer {} has not joined its group yet", consumer.number));
            }
            for (source, why) in consumer.stalls() {
                reasons.push(format!("{name}: {source} has lag and makes no progress: {why}"));
            }
            for partition in consumer.partitions().iter().filter(|partition| partition.state != "owned") {
                reasons.push(format!("{name}: {} is {}", partition.source, partition.state));
            }
        }
    }
    reasons
}
