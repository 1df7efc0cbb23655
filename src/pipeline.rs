//! One pipeline: its registration, its consumers, the writer of each consumer, its claims and its lag.

mod names;
mod remainder;
mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tidegate_protocol::claim_loop::ClaimLoop;
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::poll_loop::PollLoop;
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_protocol::session::Session;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::writer::Writer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::remainder::{Goal, stop_when_written};
pub use self::remainder::{Remainder, Remaining};
use crate::config::{self, Config};
use crate::kafka::group::KafkaGroup;
use crate::kafka::health::KafkaHealth;
use crate::kafka::membership::InstanceName;
use crate::kafka::observer::SharedObserver;
use crate::kafka::settings;
use crate::lag::{LagReadings, LagView, LagWatch};
use crate::limits::{self, Share};
use crate::metrics::{self, ConsumerMetrics, WriterMetrics};
use crate::plan::{NeverSeen, PlanSource, PlannedEncoder};
use crate::postgres::claim_ledger::PgClaimLedger;
use crate::postgres::connect::Connector;
use crate::postgres::{PgStore, dead_letter_cleanup, partitions};
use crate::report::{ClaimReport, ConsumerReport};
use crate::status::{ConsumerStatus, PipelineState, WriterState, lock};
use crate::watchdog;

/// A pipeline of the daemon: its configuration, its status, and the methods that run it.
#[derive(Debug)]
pub struct Pipeline {
    pub config: config::Pipeline,
    pub name: Arc<str>,
    pub share: Share,
    pub consumers: Vec<Arc<ConsumerStatus>>,
    pub lag: Arc<Mutex<LagView>>,
    pub kafka: Arc<KafkaHealth>,
    /// The tasks that measure the lag and the dead letters. They keep running when the pipeline stops, because the lag of a
    /// stopped pipeline still grows.
    measuring: Mutex<JoinSet<()>>,
    /// The phase, and the time at which the pipeline entered it, in milliseconds since the epoch.
    phase: Mutex<(PipelinePhase, i64)>,
    goal: Goal,
    /// Whether the stopped pipeline is started again when somebody runs `tidegate pipelines resume`.
    awaits_resume: AtomicBool,
    /// The plans of the running pipeline; empty if the pipeline doesn't run.
    plans: Mutex<Weak<PlanSource>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipelinePhase {
    /// The pipeline connects to Kafka and Postgres, and registers.
    Starting {
        /// The reason for waiting; `None` if the pipeline doesn't wait.
        waiting_for: Option<String>,
    },
    /// The pipeline reads and writes.
    Running,
    /// The pipeline writes what it has read, and then ends. A pipeline that ends before all is written stays in this phase.
    Draining,
    /// The pipeline ended without an error, and wrote every record that it had read.
    Drained,
    /// The pipeline stopped: manual action is required.
    Stopped { why: String },
}

/// How many requests for claims may wait for the claim loop. A poll loop keeps further requests until there is room.
const CLAIM_REQUESTS: usize = 64;
/// The longest that a bounded run (`--until now`) waits at its end until expired partitions are removed.
const LAST_REMOVAL: Duration = Duration::from_secs(20);
/// How many messages may wait for a poll loop. While there is no room, the writer and the claim loop wait, and requests to rejoin
/// the group are dropped.
const INBOX: usize = 16;

impl Pipeline {
    /// Creates a pipeline that hasn't started.
    ///
    /// # Errors
    /// If its share of the memory is too small.
    pub fn new(config: &Config, pipeline: &config::Pipeline) -> Result<Self, String> {
        let share = limits::share(config, pipeline)?;
        let name: Arc<str> = pipeline.name.as_str().into();
        let kafka = KafkaHealth::new(Arc::clone(&name), &config.kafka.bootstrap_servers, &pipeline.group);
        Ok(Self {
            name,
            kafka: Arc::new(kafka),
            measuring: Mutex::default(),
            share,
            consumers: (0..pipeline.consumers.get()).map(|number| Arc::new(ConsumerStatus::new(number))).collect(),
            lag: Arc::default(),
            phase: Mutex::new((PipelinePhase::Starting { waiting_for: None }, metrics::epoch_ms())),
            goal: Goal::default(),
            awaits_resume: AtomicBool::new(false),
            plans: Mutex::default(),
            config: pipeline.clone(),
        })
    }

    pub fn phase(&self) -> PipelinePhase {
        self.phase_since().0
    }

    /// Returns the pipeline's phase, and the time at which the pipeline entered it, in milliseconds since 1970.
    pub fn phase_since(&self) -> (PipelinePhase, i64) {
        lock(&self.phase).clone()
    }

    /// Returns the pipeline's state. A running pipeline is [`PipelineState::Waiting`] if one of its consumers waits for Postgres
    /// or for the schema registry. An outage of Kafka counts only if none of them waits.
    pub fn state(&self) -> PipelineState {
        match self.phase() {
            PipelinePhase::Starting { .. } => PipelineState::Starting,
            PipelinePhase::Draining => PipelineState::Draining,
            PipelinePhase::Drained => PipelineState::Drained,
            PipelinePhase::Stopped { .. } => PipelineState::Stopped,
            PipelinePhase::Running => {
                let waits = |c: &Arc<ConsumerStatus>| matches!(c.writer(), WriterState::Waiting { .. });
                if self.consumers.iter().any(waits) {
                    PipelineState::Waiting
                } else if self.kafka.outage().is_some() {
                    PipelineState::WaitingForKafka
                } else {
                    PipelineState::Flowing
                }
            }
        }
    }

    /// Returns the columns of the mapping whose field no record has had; none if the pipeline doesn't run. See
    /// [`PlanSource::never_seen`].
    pub fn never_seen(&self) -> Vec<NeverSeen> {
        lock(&self.plans).upgrade().map_or_else(Vec::new, |plans| plans.never_seen())
    }

    pub fn await_resume(&self) {
        self.awaits_resume.store(true, Ordering::Relaxed);
    }

    /// Returns why the pipeline stopped, if `tidegate pipelines resume` would start it again.
    pub fn resumable(&self) -> Option<String> {
        match self.phase() {
            PipelinePhase::Stopped { why } if self.awaits_resume.load(Ordering::Relaxed) => Some(why),
            _ => None,
        }
    }

    pub fn stopped(&self, why: &Stopped) {
        self.enter(PipelinePhase::Stopped { why: why.to_string() });
    }

    fn enter(&self, phase: PipelinePhase) {
        *lock(&self.phase) = (phase, metrics::epoch_ms());
    }

    /// Reads and writes until `stop` is cancelled. With `until_now`, also ends when the records that Kafka holds at the start are
    /// written. Returns which records are still unwritten. After `stop`, the pipeline ends within
    /// [`config::Limits::pipeline_timeout`], even during an outage.
    ///
    /// `owner` is the instance's id. Each claim stores it in the ledger, with the consumer's number. `name` is a part of the
    /// names under which the consumers join their group.
    ///
    /// # Errors
    /// [`Stopped`] if manual action is required.
    pub async fn run(
        self: Arc<Self>,
        config: Arc<Config>,
        owner: Arc<str>,
        name: InstanceName,
        until_now: bool,
        stop: CancellationToken,
    ) -> Result<Remainder, Stopped> {
        metrics::touch(&self.name, self.config.consumers.get());
        metrics::flow_limit(&self.name, self.config.max_rows_per_second);
        if until_now {
            self.goal.bound();
        }
        let outcome = Arc::clone(&self).start_and_read(config, owner, name, until_now, stop).await;
        for consumer in &self.consumers {
            ConsumerMetrics::new(&self.name, consumer.number).holds(0, 0, 0);
        }
        let outcome = outcome.map(|()| self.remainder(self.waits_for()));
        match &outcome {
            Ok(remainder) if remainder.unwritten == 0 => self.enter(PipelinePhase::Drained),
            Ok(_) => {}
            Err(stopped) => self.stopped(stopped),
        }
        outcome
    }

    async fn start_and_read(
        self: Arc<Self>,
        config: Arc<Config>,
        owner: Arc<str>,
        name: InstanceName,
        until_now: bool,
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        let of = settings::observer(&config.kafka, &self.config);
        let observer = SharedObserver::new(&of, Arc::clone(&self.kafka))
            .map_err(|error| Stopped::Configuration(settings::refused(&of, &error)))?;
        let connector = Connector::new(Arc::new(config.postgres.clone()), Some(&self.name));
        let started = tokio::select! {
            started = self.start(&connector, &observer) => started,
            () = stop.cancelled() => return Ok(()),
        };
        self.measure(&connector, &observer);
        // Connect without the pipeline's name, so that these connections don't look like those of a running pipeline.
        let stopped = |stopped: &Stopped| {
            debug!(pipeline = &*self.name, why = %stopped, "only the lag is measured from now on");
            self.measure(&Connector::new(Arc::new(config.postgres.clone()), None), &observer);
        };
        let plans = started.inspect_err(stopped)?;
        *lock(&self.plans) = Arc::downgrade(&plans);
        self.enter(PipelinePhase::Running);
        info!(
            pipeline = &*self.name,
            consumers = self.consumers.len(),
            table = %self.config.table.name,
            memory_mib = self.share.bytes >> 20,
            queued_kbytes = self.share.prefetch.queued_kbytes,
            "reading"
        );
        let shutdown = stop;
        let stop = shutdown.child_token();
        let (claims, requests) = mpsc::channel(CLAIM_REQUESTS);
        let mut helpers = JoinSet::new();
        let policy = self.config.on_offset_loss;
        helpers.spawn(watchdog::watch(Arc::clone(&self)));
        helpers.spawn(dead_letter_cleanup::keep(connector.clone(), self.config.clone()));
        let removal = self.config.table.partition_by.is_some().then(|| {
            let (removed, removal) = oneshot::channel();
            helpers.spawn(partitions::keep(connector.clone(), self.config.clone(), removed));
            removal
        });
        if until_now {
            helpers.spawn(stop_when_written(Arc::clone(&self), observer.clone(), stop.clone()));
        }
        let rate_limit = Arc::new(RateLimit::new(self.config.max_rows_per_second));
        // However this function ends, dropping the guard cancels `cut`, which ends all poll loops.
        let cut = CancellationToken::new();
        let _cut_at_the_end = cut.clone().drop_guard();
        let mut workers = JoinSet::new();
        let claim_loop = ClaimLoop::new(
            PgClaimLedger::new(Arc::clone(&self.name), connector.clone()),
            observer.clone(),
            policy,
            fastrand::Rng::new(),
            Arc::new(ClaimReport::new(Arc::clone(&self.name))),
        );
        workers.spawn(claim_loop.run(requests));
        let mut members = Vec::new();
        for status in &self.consumers {
            let membership = name.member(&self.config, status.number, shutdown.clone());
            members.extend(membership.clone().map(|membership| (membership, Arc::clone(status))));
            let (outbox, batches) = mpsc::channel(1);
            let (answers, inbox) = mpsc::channel(INBOX);
            status.connect(&answers);
            let writer_metrics = WriterMetrics::new(&self.name);
            let listener = Arc::new(ConsumerReport {
                pipeline: Arc::clone(&self.name),
                writer: writer_metrics.clone(),
                consumer: ConsumerMetrics::new(&self.name, status.number),
                status: Arc::clone(status),
                plans: Arc::clone(&plans),
                logged: Mutex::default(),
            });
            let store = PgStore::new(Arc::clone(&self.name), connector.clone(), Arc::clone(&plans), writer_metrics);
            let budget = DeadLetterBudget::new(self.config.dead_letters);
            let writer = Writer::new(store, budget, fastrand::Rng::new(), listener.clone());
            let writer_waits = writer.wait_flag();
            workers.spawn(writer.run(batches, answers.clone()));
            let settings = settings::consumer(&config.kafka, &self.config, &self.share.prefetch);
            let limits = settings::batch_limits(&settings, self.config.batch);
            let poll_loop = PollLoop {
                group: KafkaGroup {
                    health: Arc::clone(&self.kafka),
                    consumer: status.number,
                    settings,
                    topics: self.config.topics.clone(),
                    protocol: self.config.group_protocol,
                    membership,
                },
                encoder: PlannedEncoder::new(Arc::clone(&plans)),
                readings: LagReadings(Arc::clone(&self.lag)),
                session: Session::new(limits, config.limits.claim_grace),
                on_offset_loss: policy,
                drain_timeout: config.limits.flush_timeout(),
                owner: format!("{owner}/c{}", status.number).into(),
                outbox,
                writer_waits,
                claims: claims.clone(),
                answers,
                inbox,
                rate_limit: Arc::clone(&rate_limit),
                listener,
                stop: stop.clone(),
            };
            let thread = format!("{}/c{}", self.name, status.number);
            workers.spawn(on_a_thread(thread, poll_loop.run(), cut.clone()));
        }
        drop(claims);
        helpers.spawn(names::keep(Arc::clone(&self.name), self.config.group.clone(), observer.clone(), members));
        self.wait_for(workers, &stop, config.limits.pipeline_timeout()).await.inspect_err(stopped)?;
        if let (true, Some(removal)) = (until_now, removal) {
            // Reading may take less time than the removal of expired partitions. If every bounded run ended before its removal,
            // expired partitions would never be removed.
            tokio::select! {
                _ = removal => {}
                () = shutdown.cancelled() => {}
                () = sleep(LAST_REMOVAL) => {}
            }
        }
        Ok(())
    }

    /// Starts to measure the pipeline's lag and its dead letters. This continues after the pipeline has stopped.
    fn measure(&self, connector: &Connector, observer: &SharedObserver) {
        let watch = LagWatch::new(
            Arc::clone(&self.name),
            self.config.topics.clone(),
            connector.clone(),
            observer.clone(),
            Arc::clone(&self.lag),
            self.consumers.clone(),
        );
        let mut measuring = JoinSet::new();
        measuring.spawn(watch.run());
        measuring.spawn(dead_letter_cleanup::measure(connector.clone(), Arc::clone(&self.name)));
        // Replacing the set ends the tasks of an earlier start.
        *lock(&self.measuring) = measuring;
    }

    /// Ends the measuring of lag and dead letters. Removes the series of all partitions, because the pipeline that replaces this
    /// one may read other topics.
    pub fn stop_measuring(&self) {
        *lock(&self.measuring) = JoinSet::new();
        for source in std::mem::take(&mut *lock(&self.lag)).partitions.keys() {
            metrics::lag(&self.name, source, None, None);
            metrics::log_loss(&self.name, source, None);
        }
    }

    /// Checks whether Kafka serves the pipeline. Notes the beginning and the end of an outage for the timeline. Called once per
    /// second.
    pub fn check_kafka(&self) {
        let was_away = self.kafka.outage().is_some();
        let over = self.kafka.look(std::time::Instant::now());
        let Some(consumer) = self.consumers.first() else { return };
        if let Some(text) = over {
            consumer.work.note("recovered", text);
        } else if let Some(outage) = self.kafka.outage().filter(|_| !was_away) {
            consumer.work.note("outage", format!("waits: {}", outage.trouble));
        }
    }

    /// Waits until the poll threads, the writers and the claim loop have ended. The first fault stops all of them, and is
    /// returned. After a stop, this function waits for at most `limit`, because a writer could wait for Postgres without end.
    async fn wait_for(
        &self,
        mut workers: JoinSet<Result<(), Stopped>>,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Result<(), Stopped> {
        let mut first_fault = None;
        let mut deadline: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                ended = workers.join_next() => ended,
                () = stop.cancelled(), if deadline.is_none() => {
                    self.enter(PipelinePhase::Draining);
                    deadline = Some(Instant::now() + limit);
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
            };
            let Some(ended) = ended else { break };
            let fault = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(panic) => Stopped::Bug(panic.to_string()),
            };
            if first_fault.is_none() {
                tracing::error!(pipeline = &*self.name, why = %fault, "a fault stops the pipeline");
                first_fault = Some(fault);
            }
            stop.cancel();
        }
        first_fault.map_or(Ok(()), Err)
    }
}

/// Runs a poll loop on its own thread, because decoding and encoding would block the runtime's threads. The loop uses the
/// runtime's timers. When `cut` is cancelled, the loop is dropped at once.
///
/// # Errors
/// The error of the loop, or [`Stopped::Bug`] if the loop panics or the thread can't be started.
async fn on_a_thread(
    name: String,
    poll_loop: impl Future<Output = Result<(), Stopped>> + Send + 'static,
    cut: CancellationToken,
) -> Result<(), Stopped> {
    let (done, ended) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let outcome = runtime.block_on(cut.run_until_cancelled(poll_loop)).unwrap_or(Ok(()));
        // If the receiver is gone, the pipeline has already ended.
        let _awaited = done.send(outcome).is_ok();
    });
    thread.map_err(|error| Stopped::Bug(format!("can't start a thread for a consumer: {error}")))?;
    ended.await.unwrap_or_else(|_| Err(Stopped::Bug("a poll thread panicked".to_owned())))
}
