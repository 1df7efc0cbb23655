//! What `/api/status` and `/readyz` say. The JSON's form is versioned: fields are added, never changed.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::Site;
use super::board::{self, Board, Held, Living};
use super::instances::{self, Instances};
use super::watch::{Entry, Rates};
use super::words::{self, Facts, Sentence, Waiting};
use super::work_view::{BatchesView, DeadView, batches, dead};
use crate::config::Topics;
use crate::daemon::Daemon;
use crate::metrics::epoch_ms;
use crate::pipeline::{Phase, Pipeline};
use crate::status::work::Hold;
use crate::status::{ConsumerStatus, PartitionState, PartitionStatus, PipelineState, Trouble, WriterState, lock};
use crate::watchdog::STALL_AFTER;

#[derive(Serialize)]
pub(super) struct Status {
    /// The form of this document.
    version: u32,
    instance: String,
    host: String,
    url: String,
    tidegate: &'static str,
    started_ms: i64,
    now_ms: i64,
    memory_limit_bytes: u64,
    memory: Memory,
    ready: bool,
    /// States in words, the worst first.
    sentences: Vec<Sentence>,
    /// The other daemons on this database; old where `instances_seen_ms` is.
    instances: Vec<InstanceView>,
    instances_seen_ms: Option<i64>,
    pipelines: Vec<PipelineView>,
    /// The last 500 events, the oldest first.
    timeline: Vec<Entry>,
}

#[derive(Serialize)]
struct Memory {
    limit_bytes: u64,
    resident_bytes: Option<u64>,
    buffered_bytes: u64,
}

#[derive(Serialize)]
struct InstanceView {
    instance: String,
    host: String,
    url: Option<String>,
    version: String,
    consumers: BTreeMap<String, u32>,
    age_seconds: f64,
}

#[derive(Serialize)]
struct PipelineView {
    name: String,
    group: String,
    table: String,
    mode: String,
    topics: Vec<String>,
    protocol: String,
    state: PipelineState,
    state_words: &'static str,
    /// Why it isn't flowing.
    reason: Option<String>,
    /// Into Kafka, and from there into Postgres by all instances, in records a second; rows a second by this one.
    into_per_second: Option<f64>,
    out_per_second: Option<f64>,
    rows_per_second: f64,
    /// The best minute of the last hour.
    best_per_second: f64,
    flow_limit_per_second: Option<u32>,
    empty_in_seconds: Option<f64>,
    rows: u64,
    dead_letters: u64,
    lag_records: u64,
    lag_seconds: f64,
    lag_age_seconds: Option<f64>,
    lag_seen_ms: Option<i64>,
    lag_trouble: Option<String>,
    retention_headroom_seconds: Option<f64>,
    /// What limits it, as a sentence.
    limit: Option<String>,
    batches: BatchesView,
    dead: Vec<DeadView>,
    consumers: Vec<ConsumerView>,
    partitions: Vec<PartitionView>,
    board: Board,
}

#[derive(Serialize)]
struct ConsumerView {
    consumer: u32,
    joined: bool,
    /// `full` or `flow`, where nothing is taken from Kafka at the moment.
    held: Option<&'static str>,
    rows: u64,
    buffered_bytes: u64,
    waiting: Option<WaitingView>,
    /// Shares of the last ten seconds.
    time: TimeView,
    partitions: Vec<OwnedView>,
}

/// The poll thread's time is the first three, the writer's the others and waiting for a batch.
#[derive(Serialize)]
struct TimeView {
    poll: f64,
    decode: f64,
    held: f64,
    copy: f64,
    commit: f64,
    outage: f64,
}

#[derive(Serialize)]
struct WaitingView {
    why: String,
    seconds: f64,
    since_ms: i64,
    attempt: u32,
    retry_in_seconds: f64,
}

#[derive(Serialize)]
struct OwnedView {
    topic: String,
    partition: i32,
    state: PartitionState,
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
    sign: Sign,
}

/// How a partition moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sign {
    /// It is read and written, or another instance's and not silent.
    Flowing,
    /// Its claim is not granted yet.
    Claiming,
    /// Its consumer waits for Postgres or for a schema.
    Waiting,
    /// Its consumer is held by `flow.max_rows_per_second`.
    Held,
    /// Its consumer's batch is full and the writer is busy.
    Full,
    /// Another claim replaced ours.
    Fenced,
    /// A log-loss condition stopped it.
    Stopped,
    /// It is another instance's, has lag, and its ledger row stands still.
    Silent,
}

/// Another's partition with lag that stands still for so long is worth a question mark, in seconds.
const SILENT: f64 = 12.0;

/// The whole document; without a timeline it is the one that viewers are told changes of, who read a consumer's partitions from
/// the pipeline's.
pub(super) fn of(site: &Site, timeline: Option<Vec<Entry>>) -> Status {
    let daemon = &site.daemon;
    let instances = lock(&site.instances).clone();
    let views: Vec<(PipelineView, Facts)> =
        daemon.pipelines.iter().map(|pipeline| pipeline_view(site, pipeline, &instances, timeline.is_some())).collect();
    let (pipelines, facts): (Vec<_>, Vec<_>) = views.into_iter().unzip();
    let limit = daemon.config.limits.memory;
    let all_consumers = || daemon.pipelines.iter().flat_map(|pipeline| &pipeline.consumers);
    Status {
        version: 1,
        instance: daemon.instance.to_string(),
        host: instances::host(),
        url: instances::url(&daemon.config),
        tidegate: env!("CARGO_PKG_VERSION"),
        started_ms: daemon.started_ms,
        now_ms: epoch_ms(),
        memory_limit_bytes: limit,
        memory: Memory {
            limit_bytes: limit,
            resident_bytes: resident_bytes(),
            buffered_bytes: all_consumers().map(|consumer| consumer.buffered_bytes()).sum(),
        },
        ready: not_ready(daemon).is_empty(),
        sentences: words::all(&facts),
        instances_seen_ms: instances.looked.map(|(_, at_ms)| at_ms),
        instances: instances.others.into_iter().map(instance_view).collect(),
        pipelines,
        timeline: timeline.unwrap_or_default(),
    }
}

fn instance_view((instance, seen): (String, instances::Instance)) -> InstanceView {
    let instances::Instance { host, url, version, consumers, age_seconds } = seen;
    InstanceView { instance, host, url, version, consumers, age_seconds }
}

/// What the system counts as ours, where it says so.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // Steps of a MiB: a figure that changes with every look is no news.
    Some((pages * 4096) >> 20 << 20)
}

fn pipeline_view(site: &Site, pipeline: &Pipeline, instances: &Instances, whole: bool) -> (PipelineView, Facts) {
    let rates = site.watch.rates(&pipeline.name);
    let lag = lock(&pipeline.lag).clone();
    let mut ours = BTreeMap::new();
    for consumer in &pipeline.consumers {
        for partition in consumer.partitions() {
            ours.insert(partition.source.clone(), (consumer, partition));
        }
    }
    let held: Vec<Held<'_>> = lag
        .partitions
        .iter()
        .map(|(source, lag)| Held { ours: ours.get(source).map(|(c, _)| c.number), owner: lag.owner.as_deref() })
        .collect();
    let board = board::board(living(site, pipeline, instances), &held);
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
            lag_seconds: tenths(lag.seconds),
            retention_headroom_seconds: lag.headroom.map(f64::round),
            owner: lag.owner.clone(),
            epoch: lag.epoch,
            idle_seconds: lag.idle_seconds,
            sign: match ours.get(source) {
                Some((consumer, partition)) => sign(consumer, partition),
                None if lag.records > 0 && lag.idle_seconds > SILENT => Sign::Silent,
                None => Sign::Flowing,
            },
        })
        .collect();
    let nobody: Vec<String> =
        board.nobody.iter().map(|at| format!("{}/{}", partitions[*at].topic, partitions[*at].partition)).collect();
    let facts = facts(pipeline, &rates, &partitions, nobody, lag.trouble.as_ref());
    let view = PipelineView {
        name: pipeline.name.to_string(),
        group: pipeline.config.group.clone(),
        table: pipeline.config.table.name.to_string(),
        mode: variant(&pipeline.config.table.mode),
        topics: match &pipeline.config.topics {
            Topics::List(names) => names.clone(),
            Topics::Pattern(pattern) => vec![pattern.clone()],
        },
        protocol: variant(&pipeline.config.group_protocol),
        state: facts.state,
        state_words: words::state_words(&facts),
        reason: reason(pipeline),
        into_per_second: rates.into.map(tenths),
        out_per_second: rates.out.map(tenths),
        rows_per_second: tenths(rates.rows),
        best_per_second: rates.best,
        flow_limit_per_second: pipeline.config.max_rows_per_second.map(std::num::NonZeroU32::get),
        empty_in_seconds: rates.empty_in.map(f64::round),
        rows: pipeline.consumers.iter().map(|c| c.rows()).sum(),
        dead_letters: pipeline.consumers.iter().map(|c| c.dead_letters()).sum(),
        lag_records: facts.lag_records,
        lag_seconds: facts.lag_seconds,
        lag_age_seconds: lag.seen_at.map(|at| at.elapsed().as_secs_f64()),
        lag_seen_ms: lag.seen_at.map(|at| epoch_ms() / 1000 * 1000 - millis(at.elapsed().as_secs_f64()) / 1000 * 1000),
        lag_trouble: lag.trouble.map(|trouble| trouble.to_string()),
        retention_headroom_seconds: facts.headroom,
        limit: match (&facts.waiting, facts.state) {
            (Some(waiting), _) => Some(words::away(waiting.trouble.cause).to_owned()),
            (None, PipelineState::Flowing) => words::limit(&rates.cycles),
            // A pipeline that doesn't read is limited by nothing.
            (
                None,
                PipelineState::Starting
                | PipelineState::Waiting
                | PipelineState::Draining
                | PipelineState::Drained
                | PipelineState::Stopped,
            ) => None,
        },
        batches: batches(&pipeline.consumers),
        dead: dead(&pipeline.consumers),
        consumers: pipeline
            .consumers
            .iter()
            .enumerate()
            .map(|(at, consumer)| consumer_view(consumer, rates.cycles.get(at).copied().unwrap_or_default(), whole))
            .collect(),
        partitions,
        board,
    };
    (view, facts)
}

fn facts(
    pipeline: &Pipeline,
    rates: &Rates,
    partitions: &[PartitionView],
    nobody: Vec<String>,
    lag_trouble: Option<&Trouble>,
) -> Facts {
    let now = Instant::now();
    let ours = || pipeline.consumers.iter().flat_map(|consumer| consumer.partitions());
    let waiting = pipeline.consumers.iter().filter_map(|consumer| match consumer.writer() {
        WriterState::Flowing => None,
        WriterState::Waiting { since, trouble, attempt, retry_at } => Some(Waiting {
            trouble,
            seconds: now.duration_since(since).as_secs_f64(),
            attempt,
            retry_in: retry_at.saturating_duration_since(now).as_secs_f64(),
        }),
    });
    let stalls = pipeline.consumers.iter().flat_map(|consumer| consumer.stalls());
    let state = pipeline.state();
    let stopped = ours().filter_map(|p| p.condition.map(|condition| format!("{}: {condition}", p.source)));
    Facts {
        name: pipeline.name.to_string(),
        state,
        why: match pipeline.phase() {
            // What it waits for is in `waiting`.
            Phase::Running => None,
            Phase::Starting { .. } | Phase::Draining | Phase::Drained | Phase::Stopped { .. } => reason(pipeline),
        },
        waiting: waiting.max_by(|a, b| a.seconds.total_cmp(&b.seconds)),
        lag_records: partitions.iter().map(|p| p.lag_records).sum(),
        lag_seconds: partitions.iter().map(|p| p.lag_seconds).fold(0.0, f64::max),
        headroom: partitions.iter().filter_map(|p| p.retention_headroom_seconds).reduce(f64::min),
        lag_trouble: lag_trouble.map(ToString::to_string),
        into: rates.into,
        out: rates.out,
        claiming: ours().filter(|p| p.state == PartitionState::Claiming).count(),
        fenced: ours().filter(|p| p.state == PartitionState::Fenced).count(),
        joining: pipeline.consumers.iter().filter(|consumer| !consumer.joined()).count(),
        // While Postgres is away each partition stalls, and one sentence says so already.
        conditions: if state == PipelineState::Flowing {
            stopped.chain(stalls.map(|(source, why)| format!("{source} makes no progress: {why}"))).collect()
        } else {
            stopped.collect()
        },
        nobody,
        dead_lately: rates.dead_lately,
        dead_reason: dead(&pipeline.consumers).into_iter().max_by_key(DeadView::newest_ms).map(|dead| dead.reason),
        held_by_flow: pipeline.consumers.iter().any(|consumer| consumer.work.held() == Some(Hold::Flow)),
    }
}

/// Every instance that has consumers of the pipeline, us among them.
fn living(site: &Site, pipeline: &Pipeline, instances: &Instances) -> Vec<Living> {
    let consumers = if matches!(pipeline.phase(), Phase::Stopped { .. } | Phase::Drained) {
        0
    } else {
        u32::try_from(pipeline.consumers.len()).unwrap_or(u32::MAX)
    };
    let us = Living {
        instance: site.daemon.instance.to_string(),
        host: instances::host(),
        url: None,
        this: true,
        consumers,
    };
    let others = instances.others.iter().map(|(id, instance)| Living {
        instance: id.clone(),
        host: instance.host.clone(),
        url: instance.url.clone(),
        this: false,
        // A row is anybody's to write: no more boxes than a page can hold.
        consumers: instance.consumers.get(&*pipeline.name).copied().unwrap_or(0).min(256),
    });
    std::iter::once(us).chain(others).collect()
}

fn sign(consumer: &ConsumerStatus, partition: &PartitionStatus) -> Sign {
    match partition.state {
        PartitionState::Claiming => Sign::Claiming,
        PartitionState::Fenced => Sign::Fenced,
        PartitionState::Stopped => Sign::Stopped,
        PartitionState::Owned => match (consumer.writer(), consumer.work.held()) {
            (WriterState::Waiting { .. }, _) => Sign::Waiting,
            (WriterState::Flowing, Some(Hold::Schema)) => Sign::Waiting,
            (WriterState::Flowing, Some(Hold::Flow)) => Sign::Held,
            (WriterState::Flowing, Some(Hold::Full)) => Sign::Full,
            (WriterState::Flowing, None) => Sign::Flowing,
        },
    }
}

/// A variant's name as configuration files write it: `insert_new`.
fn variant(value: &impl std::fmt::Debug) -> String {
    let name = format!("{value:?}");
    let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn millis(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a wait are far below 2^53")]
    let millis = (seconds * 1000.0) as i64;
    millis
}

fn consumer_view(consumer: &ConsumerStatus, time: [f64; 6], whole: bool) -> ConsumerView {
    let [poll, decode, held, copy, commit, outage] = time;
    let now = Instant::now();
    let waiting = match consumer.writer() {
        WriterState::Flowing => None,
        WriterState::Waiting { since, trouble, attempt, retry_at } => {
            let seconds = now.duration_since(since).as_secs_f64();
            Some(WaitingView {
                why: trouble.to_string(),
                seconds,
                // To the second, so that it stays what it is.
                since_ms: (epoch_ms() - millis(seconds) + 500) / 1000 * 1000,
                attempt,
                retry_in_seconds: retry_at.saturating_duration_since(now).as_secs_f64(),
            })
        }
    };
    let owned = if whole { consumer.partitions() } else { Vec::new() };
    let owned = owned.into_iter().map(|p| OwnedView {
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
        held: consumer.work.held().map(|hold| match hold {
            Hold::Full => "full",
            Hold::Flow => "flow",
            Hold::Schema => "schema",
        }),
        rows: consumer.rows(),
        buffered_bytes: consumer.buffered_bytes(),
        waiting,
        time: TimeView { poll, decode, held, copy, commit, outage },
        partitions: owned.collect(),
    }
}

fn reason(pipeline: &Pipeline) -> Option<String> {
    match pipeline.phase() {
        Phase::Starting { waiting_for } => waiting_for,
        Phase::Stopped { why } => Some(why),
        Phase::Running | Phase::Draining | Phase::Drained => {
            pipeline.consumers.iter().find_map(|consumer| match consumer.writer() {
                WriterState::Waiting { trouble, attempt, .. } => {
                    Some(format!("{trouble}; retry {attempt}, nothing is lost"))
                }
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
        let state = pipeline.state();
        if state != PipelineState::Flowing {
            let why = reason(pipeline).map(|why| format!(": {why}")).unwrap_or_default();
            reasons.push(format!("{name} is {state}{why}"));
            continue;
        }
        let lag = lock(&pipeline.lag).clone();
        if let Some(why) = lag.kafka_trouble().filter(|_| lag.seen_at.is_some_and(|at| at.elapsed() > STALL_AFTER)) {
            reasons.push(format!("{name}: {why}"));
        }
        for consumer in &pipeline.consumers {
            if !consumer.joined() {
                reasons.push(format!("{name}: consumer {} has not joined its group yet", consumer.number));
            }
            for (source, why) in consumer.stalls() {
                reasons.push(format!("{name}: {source} has lag and makes no progress: {why}"));
            }
            for partition in consumer.partitions().iter().filter(|partition| partition.state != PartitionState::Owned) {
                reasons.push(format!("{name}: {} is {}", partition.source, partition.state));
            }
        }
    }
    reasons
}
