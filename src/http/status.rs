//! The contents of `/api/status` and `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tidegate_protocol::position::TopicPartition;

use super::Site;
use super::board::{self, Held, Living};
use super::document::{
    ConsumerView, Entry, InstanceView, Memory, OwnedView, PartitionView, PipelineView, Sign, Status, TimeView,
    WaitingView,
};
use super::instances::{self, Instances};
use super::watch::Rates;
use super::words::{self, Facts, Waiting};
use super::work_view::{DeadView, batches, dead};
use crate::config::Topics;
use crate::daemon::{Daemon, host_name};
use crate::lag::LagView;
use crate::lag::headroom::shortest;
use crate::metrics::epoch_ms;
use crate::pipeline::{Pipeline, PipelinePhase};
use crate::status::work::Hold;
use crate::status::{ConsumerStatus, PartitionState, PartitionStatus, PipelineState, WaitCause, WriterState, lock};

/// If a partition isn't assigned to this instance, it is marked [`Sign::Silent`] once it has lag and its ledger row hasn't
/// changed for more than this many seconds, unless it has a log-loss condition.
const SILENT: f64 = 12.0;

/// Returns the whole document if `timeline` is given. Otherwise returns the document whose changes are sent to viewers. It
/// doesn't list the partitions of each consumer, because the pipeline's list has them too.
pub(super) fn of(site: &Site, timeline: Option<Vec<Entry>>) -> Status {
    let daemon = &site.daemon;
    let instances = lock(&site.instances).clone();
    let (config, all) = (daemon.config(), daemon.pipelines());
    let views: Vec<(PipelineView, Facts)> =
        all.iter().map(|pipeline| pipeline_view(site, pipeline, &instances, timeline.is_some())).collect();
    let (pipelines, facts): (Vec<_>, Vec<_>) = views.into_iter().unzip();
    let limit = config.limits.memory;
    let all_consumers = || all.iter().flat_map(|pipeline| &pipeline.consumers);
    Status {
        version: 1,
        instance: daemon.instance.to_string(),
        host: host_name(),
        url: instances::url(&config),
        tidegate: env!("CARGO_PKG_VERSION").into(),
        started_ms: daemon.started_ms,
        now_ms: epoch_ms(),
        memory_limit_bytes: limit,
        memory: Memory {
            limit_bytes: limit,
            resident_bytes: resident_bytes(),
            buffered_bytes: all_consumers().map(|consumer| consumer.buffered_bytes()).sum(),
        },
        ready: not_ready(daemon).is_empty(),
        sentences: words::all(&facts, daemon.last_reload().and_then(|reload| reload.refused).as_deref()),
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

/// Returns the resident memory of this process, in bytes; `None` if the system doesn't say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    let kib: u64 = kib.parse().ok()?;
    // Round down to a MiB: a number that differs in every sample would be sent as a change every second.
    Some(kib >> 10 << 20)
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
    // Without a topic, or without the leader of a partition, the other partitions flow.
    let kafka_away = pipeline.kafka.outage().is_some_and(|outage| outage.trouble.cause == WaitCause::Kafka);
    let partitions: Vec<PartitionView> = lag
        .partitions
        .iter()
        .enumerate()
        .map(|(at, (source, lag))| PartitionView {
            topic: source.topic.to_string(),
            partition: source.partition,
            next: lag.next.get(),
            end: lag.end.get(),
            low: lag.low.get(),
            lag_records: lag.records,
            lag_seconds: tenths(lag.seconds),
            retention_headroom_seconds: lag.headroom.filter(|headroom| headroom.is_finite()).map(f64::round),
            owner: lag.owner.clone(),
            epoch: lag.epoch,
            unread_since_ms: board.nobody.contains(&at).then(|| whole_second(lag.idle_seconds)),
            sign: match ours.get(source) {
                Some((consumer, partition)) => sign(consumer, partition, kafka_away),
                None if lag.condition.is_some() => Sign::Stopped,
                None if lag.records > 0 && lag.idle_seconds > SILENT => Sign::Silent,
                None => Sign::Flowing,
            },
        })
        .collect();
    let nobody: Vec<String> =
        board.nobody.iter().map(|at| format!("{}/{}", partitions[*at].topic, partitions[*at].partition)).collect();
    let facts = facts(pipeline, &rates, &partitions, nobody, &lag);
    let view = PipelineView {
        name: pipeline.name.to_string(),
        group: pipeline.config.group.clone(),
        table: pipeline.config.table.name.to_string(),
        mode: (&pipeline.config.table.mode).into(),
        topics: match &pipeline.config.topics {
            Topics::List(names) => names.clone(),
            Topics::Pattern(pattern) => vec![pattern.clone()],
        },
        protocol: pipeline.config.group_protocol,
        state: facts.state,
        state_words: words::state_words(&facts).into(),
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
        lag_seen_ms: lag.seen_at.map(|at| whole_second(at.elapsed().as_secs_f64())),
        lag_trouble: lag.trouble.map(|trouble| trouble.to_string()),
        retention_headroom_seconds: facts.headroom.filter(|headroom| headroom.is_finite()),
        retention_unlimited: facts.headroom == Some(f64::INFINITY),
        limit: match (facts.waiting.as_ref().or(facts.kafka.as_ref()), facts.state) {
            (Some(waiting), _) => Some(words::limit_while_waiting(waiting.trouble.cause).to_owned()),
            (None, PipelineState::Flowing) => words::limit(&rates.cycles),
            // A pipeline that doesn't read has no limit to report.
            (
                None,
                PipelineState::Starting
                | PipelineState::Waiting
                | PipelineState::WaitingForKafka
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
    lag: &LagView,
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
    let kafka = pipeline.kafka.outage().filter(|_| pipeline.phase() == PipelinePhase::Running).map(|outage| Waiting {
        trouble: outage.trouble,
        seconds: now.duration_since(outage.since).as_secs_f64(),
        attempt: 1,
        retry_in: 0.0,
    });
    let stalls = pipeline.consumers.iter().flat_map(|consumer| consumer.stalls());
    let state = pipeline.state();
    // The claim and the lag may report the same log-loss condition. Use the claim's text: it is more exact.
    let seen =
        lag.partitions.iter().filter_map(|(source, lag)| Some((source.clone(), lag.condition.as_ref()?.to_string())));
    let mut losses: BTreeMap<TopicPartition, String> = seen.collect();
    losses.extend(ours().filter_map(|p| Some((p.source, p.condition?))));
    let may_be_lost = losses.keys().next().map(ToString::to_string);
    let stopped = losses.into_iter().map(|(source, condition)| format!("{source}: {condition}"));
    Facts {
        name: pipeline.name.to_string(),
        state,
        why: match pipeline.phase() {
            // A running pipeline needs no reason here: `waiting` and `kafka` say what it waits for.
            PipelinePhase::Running => None,
            PipelinePhase::Starting { .. }
            | PipelinePhase::Draining
            | PipelinePhase::Drained
            | PipelinePhase::Stopped { .. } => reason(pipeline),
        },
        waiting: waiting.max_by(|a, b| a.seconds.total_cmp(&b.seconds)),
        may_be_lost,
        lag_trouble: lag
            .trouble
            .as_ref()
            .filter(|trouble| kafka.is_none() || trouble.cause != WaitCause::Kafka)
            .map(ToString::to_string),
        kafka,
        missing_topics: pipeline.kafka.missing_topics(),
        throttled: pipeline.kafka.throttled().as_secs_f64(),
        never_seen: pipeline.never_seen(),
        lag_records: partitions.iter().map(|p| p.lag_records).sum(),
        lag_seconds: partitions.iter().map(|p| p.lag_seconds).fold(0.0, f64::max),
        headroom: shortest(lag.partitions.values().map(|lag| lag.headroom.map(f64::round))),
        into: rates.mean.map(|(into, _)| into),
        out: rates.mean.map(|(_, out)| out),
        claiming: ours().filter(|p| p.state == PartitionState::Claiming).count(),
        fenced: ours().filter(|p| p.state == PartitionState::Fenced).count(),
        joining: pipeline.consumers.iter().filter(|consumer| !consumer.joined()).count(),
        // While the pipeline waits for Postgres or Kafka, its partitions stall. Another sentence already says so.
        conditions: if state == PipelineState::Flowing {
            stopped.chain(stalls.map(|(source, why)| format!("{source} makes no progress: {why}"))).collect()
        } else {
            stopped.collect()
        },
        nobody,
        dead: rates.dead,
        dead_reason: dead(&pipeline.consumers).into_iter().max_by_key(DeadView::newest_ms).map(|dead| dead.reason),
        held_by_flow: pipeline.consumers.iter().any(|consumer| consumer.work.held() == Some(Hold::Flow)),
    }
}

/// Returns all living instances, this one included, each with its number of consumers of the pipeline, which may be 0.
fn living(site: &Site, pipeline: &Pipeline, instances: &Instances) -> Vec<Living> {
    let consumers = if matches!(pipeline.phase(), PipelinePhase::Stopped { .. } | PipelinePhase::Drained) {
        0
    } else {
        u32::try_from(pipeline.consumers.len()).unwrap_or(u32::MAX)
    };
    // A consumer that has no partitions during an outage of Kafka has probably lost its membership in the group, and joins again
    // after the outage. So it counts as joining, and not as idle.
    let limit_while_waiting = pipeline.kafka.outage().is_some();
    let joins = |consumer: &&Arc<ConsumerStatus>| {
        !consumer.joined() || (limit_while_waiting && consumer.partitions().is_empty())
    };
    let joining = pipeline.consumers.iter().filter(joins).map(|consumer| consumer.number);
    let us = Living {
        instance: site.daemon.instance.to_string(),
        host: host_name(),
        url: None,
        this: true,
        consumers,
        joining: joining.collect(),
    };
    let others = instances.others.iter().map(|(id, instance)| Living {
        instance: id.clone(),
        host: instance.host.clone(),
        url: instance.url.clone(),
        this: false,
        // Any client of the database could write such a row, so limit the number of boxes to what a page can hold.
        consumers: instance.consumers.get(&*pipeline.name).copied().unwrap_or(0).min(256),
        joining: Vec::new(),
    });
    std::iter::once(us).chain(others).collect()
}

fn sign(consumer: &ConsumerStatus, partition: &PartitionStatus, kafka_away: bool) -> Sign {
    match partition.state {
        PartitionState::Claiming => Sign::Claiming,
        PartitionState::Fenced => Sign::Fenced,
        PartitionState::Stopped => Sign::Stopped,
        PartitionState::Owned => match (consumer.writer(), consumer.work.held()) {
            (WriterState::Waiting { .. }, _) => Sign::Waiting,
            (WriterState::Flowing, Some(Hold::Schema)) => Sign::Waiting,
            (WriterState::Flowing, Some(Hold::Flow)) => Sign::Held,
            (WriterState::Flowing, Some(Hold::Full)) => Sign::Full,
            (WriterState::Flowing, None) if kafka_away => Sign::Waiting,
            (WriterState::Flowing, None) => Sign::Flowing,
        },
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Returns the time that was `ago` seconds ago, in milliseconds since the epoch, rounded to a second: a time that differs in each
/// document would be sent to all viewers every second.
fn whole_second(ago: f64) -> i64 {
    (epoch_ms() - millis(ago) + 500) / 1000 * 1000
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
                // Round to the second, so that the value stays the same while the wait lasts: a change would be sent to all
                // viewers.
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
        held: consumer.work.held(),
        rows: consumer.rows(),
        buffered_bytes: consumer.buffered_bytes(),
        waiting,
        time: TimeView { poll, decode, held, copy, commit, outage },
        partitions: owned.collect(),
    }
}

fn reason(pipeline: &Pipeline) -> Option<String> {
    match pipeline.phase() {
        PipelinePhase::Starting { waiting_for } => waiting_for,
        PipelinePhase::Stopped { why } => Some(why),
        PipelinePhase::Running | PipelinePhase::Draining | PipelinePhase::Drained => {
            let writers = pipeline.consumers.iter().map(|consumer| consumer.writer());
            let writer = writers.filter_map(|writer| match writer {
                WriterState::Waiting { trouble, attempt, .. } => {
                    Some(format!("{trouble}; retry {attempt}, nothing is lost"))
                }
                WriterState::Flowing => None,
            });
            let kafka = pipeline.kafka.outage().map(|outage| format!("{}; {}", outage.trouble, outage.trouble.fate()));
            let all: Vec<String> = writer.take(1).chain(kafka).collect();
            Some(all.join("; ")).filter(|reason| !reason.is_empty())
        }
    }
}

/// Returns why the daemon isn't ready. Empty if it is ready: every pipeline flows, every consumer has joined its group,
/// and every assigned partition is claimed and isn't stalled.
pub(super) fn not_ready(daemon: &Daemon) -> Vec<String> {
    let mut reasons = Vec::new();
    for pipeline in &daemon.pipelines() {
        let name = &pipeline.name;
        let state = pipeline.state();
        if state != PipelineState::Flowing {
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
            for partition in consumer.partitions().iter().filter(|partition| partition.state != PartitionState::Owned) {
                reasons.push(format!("{name}: {} is {}", partition.source, partition.state));
            }
        }
    }
    reasons
}
