//! One pipeline: its registration, its pool of consumers, each with its writer, its claims and its lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::error::KafkaError;
use tidegate_protocol::claim_loop::ClaimLoop;
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::poll_loop::PollLoop;
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_protocol::retry::{Backoff, Stage};
use tidegate_protocol::session::Session;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::{ReplanError, WriteError};
use tidegate_protocol::writer::Writer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{self, Config, Topics};
use crate::kafka::group::KafkaGroup;
use crate::kafka::observer::{AskError, SharedObserver, partitions_of};
use crate::kafka::settings;
use crate::lag::{LagReadings, LagView, LagWatch, PartitionLag};
use crate::limits::{self, Share};
use crate::metrics::{self, ConsumerMetrics, WriterMetrics};
use crate::plan::{PlanSource, PlannedEncoder};
use crate::postgres::claim_ledger::PgClaimLedger;
use crate::postgres::connect::Connector;
use crate::postgres::register::{self, RegisterError, Registration};
use crate::postgres::{PgStore, error, letters, partitions, schema};
use crate::report::{ClaimReport, ConsumerReport};
use crate::status::{ConsumerStatus, PartitionState, PartitionStatus, PipelineState, Trouble, WriterState, lock};
use crate::watchdog;

/// A pipeline as the page and the commands see it.
#[derive(Debug)]
pub struct Pipeline {
    /// Its configuration.
    pub config: config::Pipeline,
    /// Its name.
    pub name: Arc<str>,
    /// Its part of the memory.
    pub share: Share,
    /// Its consumers.
    pub consumers: Vec<Arc<ConsumerStatus>>,
    /// How far behind it is.
    pub lag: Arc<Mutex<LagView>>,
    phase: Mutex<Phase>,
}

/// Where a pipeline is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reaching Kafka and Postgres, registering.
    Starting {
        /// What it waits for.
        waiting_for: Option<String>,
    },
    /// Reading and writing.
    Running,
    /// Writing what it has, to end.
    Draining,
    /// Ended as asked.
    Drained,
    /// Only a person can help.
    Stopped {
        /// Why.
        why: String,
    },
}

/// Requests for claims that may wait for the claim loop; a poll loop keeps those that don't fit.
const CLAIM_REQUESTS: usize = 64;
/// Messages that may wait for a poll loop: one acknowledgement, and answers of rounds of claims. Who sends more waits.
const INBOX: usize = 16;

impl Pipeline {
    /// A pipeline that hasn't started.
    ///
    /// # Errors
    /// Where its part of the memory is too small.
    pub fn new(config: &Config, pipeline: &config::Pipeline) -> Result<Self, String> {
        let share = limits::share(config, pipeline)?;
        Ok(Self {
            name: pipeline.name.as_str().into(),
            share,
            consumers: (0..pipeline.consumers.get()).map(|number| Arc::new(ConsumerStatus::new(number))).collect(),
            lag: Arc::default(),
            phase: Mutex::new(Phase::Starting { waiting_for: None }),
            config: pipeline.clone(),
        })
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        lock(&self.phase).clone()
    }

    /// Returns its state: a running pipeline waits as soon as one of its consumers does.
    pub fn state(&self) -> PipelineState {
        match self.phase() {
            Phase::Starting { .. } => PipelineState::Starting,
            Phase::Draining => PipelineState::Draining,
            Phase::Drained => PipelineState::Drained,
            Phase::Stopped { .. } => PipelineState::Stopped,
            Phase::Running => {
                let waits = |c: &Arc<ConsumerStatus>| matches!(c.writer(), WriterState::Waiting { .. });
                if self.consumers.iter().any(waits) { PipelineState::Waiting } else { PipelineState::Flowing }
            }
        }
    }

    fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    /// Reads and writes until `stop`, or with `until_now` until what Kafka holds at the start is written.
    ///
    /// # Errors
    /// [`Stopped`] where only a person can help.
    pub async fn run(
        self: Arc<Self>,
        config: Arc<Config>,
        owner: Arc<str>,
        until_now: bool,
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        metrics::touch(&self.name, self.config.consumers.get());
        metrics::flow_limit(&self.name, self.config.max_rows_per_second);
        let outcome = Arc::clone(&self).start_and_read(config, owner, until_now, stop).await;
        match &outcome {
            Ok(()) => self.enter(Phase::Drained),
            Err(stopped) => self.enter(Phase::Stopped { why: stopped.to_string() }),
        }
        outcome
    }

    async fn start_and_read(
        self: Arc<Self>,
        config: Arc<Config>,
        owner: Arc<str>,
        until_now: bool,
        stop: CancellationToken,
    ) -> Result<(), Stopped> {
        let observer = settings::observer(&config.kafka, &self.config);
        let observer = SharedObserver::new(&observer)
            .map_err(|error| Stopped::Configuration(format!("librdkafka refuses the configuration: {error}")))?;
        let connector = Connector::new(Arc::new(config.postgres.clone()), Some(&self.name));
        let plans = tokio::select! {
            plans = self.start(&connector, &observer) => plans?,
            () = stop.cancelled() => return Ok(()),
        };
        self.enter(Phase::Running);
        info!(
            pipeline = &*self.name,
            consumers = self.consumers.len(),
            table = %self.config.table.name,
            memory_mib = self.share.bytes >> 20,
            queued_kbytes = self.share.prefetch.queued_kbytes,
            "reading"
        );
        let stop = stop.child_token();
        let (claims, requests) = mpsc::channel(CLAIM_REQUESTS);
        let mut helpers = JoinSet::new();
        let policy = self.config.on_offset_loss;
        let watch = LagWatch::new(
            Arc::clone(&self.name),
            self.config.topics.clone(),
            connector.clone(),
            observer.clone(),
            Arc::clone(&self.lag),
            self.consumers.clone(),
        );
        helpers.spawn(watch.run());
        helpers.spawn(watchdog::watch(Arc::clone(&self)));
        helpers.spawn(letters::keep(connector.clone(), self.config.clone()));
        if self.config.table.partition_by.is_some() {
            helpers.spawn(partitions::keep(connector.clone(), self.config.clone()));
        }
        if until_now {
            let ends = self.ends_now(&observer).await?;
            helpers.spawn(stop_when_written(ends, Arc::clone(&self), stop.clone()));
        }
        let rate_limit = Arc::new(RateLimit::new(self.config.max_rows_per_second));
        let mut workers = JoinSet::new();
        let claim_loop = ClaimLoop::new(
            PgClaimLedger::new(Arc::clone(&self.name), connector.clone()),
            observer,
            policy,
            fastrand::Rng::new(),
            Arc::new(ClaimReport { pipeline: Arc::clone(&self.name) }),
        );
        workers.spawn(claim_loop.run(requests));
        for status in &self.consumers {
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
                    settings,
                    topics: self.config.topics.clone(),
                    protocol: self.config.group_protocol,
                },
                encoder: PlannedEncoder::new(Arc::clone(&plans)),
                readings: LagReadings(Arc::clone(&self.lag)),
                session: Session::new(limits, config.limits.claim_grace),
                on_offset_loss: policy,
                drain_timeout: config.limits.drain_timeout,
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
            workers.spawn(on_a_thread(format!("{}/c{}", self.name, status.number), poll_loop.run()));
        }
        drop(claims);
        self.wait_for(workers, &stop, config.limits.drain_timeout).await
    }

    /// Waits for poll threads and writers. The first fault ends them all; a shutdown ends poll threads, and writers follow
    /// because their channels close.
    async fn wait_for(
        &self,
        mut workers: JoinSet<Result<(), Stopped>>,
        stop: &CancellationToken,
        drain_timeout: Duration,
    ) -> Result<(), Stopped> {
        let mut first_fault = None;
        loop {
            let ended = tokio::select! {
                ended = workers.join_next() => ended,
                () = stop.cancelled(), if self.phase() == Phase::Running => {
                    self.enter(Phase::Draining);
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let fault = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(panic) => Stopped::Bug(panic.to_string()),
            };
            if first_fault.is_none() {
                tracing::error!(pipeline = &*self.name, why = %fault, "the pipeline stops, others go on");
                first_fault = Some(fault);
            }
            stop.cancel();
            // A writer that still waits for Postgres would wait for ever: poll threads drain for so long, and no longer.
            let rest = async { while workers.join_next().await.is_some() {} };
            if timeout(drain_timeout + Duration::from_secs(7), rest).await.is_err() {
                workers.abort_all();
            }
            break;
        }
        first_fault.map_or(Ok(()), Err)
    }

    /// Reaches Postgres and Kafka, makes our tables and the target, registers: again and again until it works or a person is
    /// needed.
    async fn start(&self, connector: &Connector, observer: &SharedObserver) -> Result<Arc<PlanSource>, Stopped> {
        let mut backoff = Backoff::new();
        loop {
            let why = match self.try_start(connector, observer).await {
                Ok(plans) => return Ok(Arc::new(plans)),
                Err(StartError::Stop(why)) => return Err(Stopped::Configuration(why)),
                Err(StartError::Again(why)) => why,
            };
            if backoff.attempts().is_power_of_two() || backoff.attempts() == 0 {
                warn!(pipeline = &*self.name, why, "can't start yet, trying again");
            }
            self.enter(Phase::Starting { waiting_for: Some(why) });
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    async fn try_start(&self, connector: &Connector, observer: &SharedObserver) -> Result<PlanSource, StartError> {
        let (connection, _) = connector.open().await?;
        let migrated = schema::migrate_and_close(connection).await;
        migrated.map_err(|error| {
            StartError::Again(format!("can't bring the tables of schema `tidegate` up to date: {error}"))
        })?;
        let (mut connection, _) = connector.open().await?;
        let plans = PlanSource::load(&self.config, &mut connection).await?;
        partitions::maintain_once(connector, &self.config).await?;
        let wanted = self.config.topics.clone();
        let asked = observer.ask(move |observer| Ok((observer.topics(&wanted)?, observer.cluster_id())));
        let (topics, cluster_id) = asked.await?;
        let Some(cluster_id) = cluster_id else {
            return Err(StartError::Again("Kafka doesn't say its cluster id yet".to_owned()));
        };
        if let Topics::List(names) = &self.config.topics
            && let Some(missing) = names.iter().find(|name| !topics.contains_key(*name))
        {
            return Err(StartError::Again(format!("topic `{missing}` does not exist yet")));
        }
        let known = register::is_known(&mut connection, &self.name).await.map_err(database)?;
        let starts = if known {
            Vec::new()
        } else {
            let (sources, start) = (partitions_of(&topics), self.config.start.clone());
            observer.ask(move |observer| observer.starts(&sources, &start)).await?
        };
        let registration = Registration {
            pipeline: self.config.name.clone(),
            cluster_id,
            group_id: self.config.group.clone(),
            target: self.config.table.name.to_string(),
            target_oid: plans.current().table.catalog.oid,
            topics,
        };
        match register::register(&mut connection, &registration, &starts).await {
            Ok(()) => Ok(plans),
            Err(RegisterError::Differs(why)) => Err(StartError::Stop(why)),
            Err(RegisterError::Database(error)) => Err(database(error)),
        }
    }

    /// Where the logs end now.
    async fn ends_now(&self, observer: &SharedObserver) -> Result<BTreeMap<TopicPartition, Offset>, Stopped> {
        let topics = self.config.topics.clone();
        let ends = observer.ask(move |observer| observer.ends(&partitions_of(&observer.topics(&topics)?), End::High));
        match ends.await.map_err(StartError::from) {
            Ok(ends) => Ok(ends.into_iter().collect()),
            Err(StartError::Again(why) | StartError::Stop(why)) => Err(Stopped::Configuration(why)),
        }
    }
}

/// Why a start failed.
enum StartError {
    Again(String),
    Stop(String),
}

impl From<WriteError> for StartError {
    fn from(error: WriteError) -> Self {
        Self::Again(error.to_string())
    }
}

impl From<ReplanError> for StartError {
    fn from(error: ReplanError) -> Self {
        match error {
            ReplanError::Write(error) => error.into(),
            ReplanError::Unplannable(why) => Self::Stop(why),
        }
    }
}

fn database(error: sqlx::Error) -> StartError {
    WriteError { stage: Stage::Connect, cause: error::cause(error) }.into()
}

impl From<AskError<KafkaError>> for StartError {
    fn from(error: AskError<KafkaError>) -> Self {
        match error {
            AskError::Answer(error) => Self::Again(Trouble::kafka(&error).to_string()),
            AskError::Panicked(panic) => Self::Stop(panic.to_string()),
        }
    }
}

/// Runs a poll loop on a thread of its own: it decodes and encodes, which the runtime's threads are not for. Its timers are the
/// runtime's.
///
/// # Errors
/// As the loop ends; a panic there is [`Stopped::Bug`].
async fn on_a_thread(
    name: String,
    poll_loop: impl Future<Output = Result<(), Stopped>> + Send + 'static,
) -> Result<(), Stopped> {
    let (done, ended) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let outcome = runtime.block_on(poll_loop);
        // Where nobody awaits it, the pipeline has ended before.
        let _awaited = done.send(outcome).is_ok();
    });
    thread.map_err(|error| Stopped::Bug(format!("no thread for a consumer: {error}")))?;
    ended.await.unwrap_or_else(|_| Err(Stopped::Bug("a poll thread panicked".to_owned())))
}

/// Cancels once the ledger has reached these ends, whoever wrote them, and our own partitions' logs are the ones that it knows: a
/// topic that was made again with as many records has nothing to write either.
async fn stop_when_written(ends: BTreeMap<TopicPartition, Offset>, pipeline: Arc<Pipeline>, stop: CancellationToken) {
    loop {
        let is_known = |p: &PartitionStatus| match p.state {
            PartitionState::Fenced => true,
            PartitionState::Owned => p.known,
            PartitionState::Claiming | PartitionState::Stopped => false,
        };
        let known = pipeline.consumers.iter().all(|c| c.joined() && c.partitions().iter().all(is_known));
        let written = {
            let view = lock(&pipeline.lag);
            ends.iter().all(|(source, end)| {
                // A ledger beyond the log's end is no drained partition: its claim will say what is the matter.
                let written = |lag: &PartitionLag| lag.next >= *end || (lag.records == 0 && lag.end >= *end);
                view.partitions.get(source).is_some_and(|lag| lag.next <= lag.end && written(lag))
            })
        };
        if written && known {
            return stop.cancel();
        }
        sleep(Duration::from_millis(50)).await;
    }
}
