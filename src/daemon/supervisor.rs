//! Starts, restarts and stops the pipelines: at the start, at a reload, at a request to resume, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidegate_protocol::stopped::Stopped;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::reload::{self, Changes};
use super::{Control, Daemon, Reload, Until};
use crate::config::Config;
use crate::error::FatalError;
use crate::kafka::health::KafkaHealth;
use crate::kafka::membership::InstanceName;
use crate::kafka::observer::Observer;
use crate::kafka::settings;
use crate::metrics;
use crate::pipeline::{Pipeline, PipelinePhase, Remainder};
use crate::postgres::connect::Connector;
use crate::postgres::resume;
use crate::status::lock;
use crate::systemd::Manager;

const RESUME_LOOK: Duration = Duration::from_secs(1);

type Outcome = Result<Remainder, Stopped>;

pub(super) struct Supervisor {
    daemon: Arc<Daemon>,
    /// This daemon's name. The names of its consumers in their groups contain it.
    name: InstanceName,
    manager: Arc<Manager>,
    until: Until,
    workers: JoinSet<(Arc<str>, Outcome)>,
    running: BTreeMap<Arc<str>, Running>,
    /// Pipelines that start as soon as no other pipeline is ending. The starting and the ending pipelines together might
    /// exceed the memory budget.
    waiting: BTreeSet<Arc<str>>,
    /// For pipelines that ended without a fault: the records that they left unwritten.
    remainders: BTreeMap<Arc<str>, Remainder>,
    /// The tasks that wait for requests to resume, one per stopped pipeline; each returns the pipeline's name.
    resumes: JoinSet<Arc<str>>,
}

struct Running {
    pipeline: Arc<Pipeline>,
    config: Arc<Config>,
    stop: CancellationToken,
}

impl Supervisor {
    pub(super) fn new(daemon: Arc<Daemon>, name: InstanceName, manager: Arc<Manager>, until: Until) -> Self {
        Self {
            daemon,
            name,
            manager,
            until,
            workers: JoinSet::new(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            remainders: BTreeMap::new(),
            resumes: JoinSet::new(),
        }
    }

    /// Runs the pipelines until all have ended. Returns the result of the process, and the time at which the shutdown was
    /// requested; `None` if the pipelines ended without a shutdown.
    pub(super) async fn run<S: Future<Output = ()>>(
        mut self,
        control: Control<S>,
    ) -> (Result<(), FatalError>, Option<Instant>) {
        let Control { shutdown, mut reloads, load } = control;
        tokio::pin!(shutdown);
        metrics::reload_succeeded(true);
        for pipeline in self.daemon.pipelines() {
            self.spawn(pipeline);
        }
        self.manager.ready();
        let mut told_at = None;
        while !self.running.is_empty() || !self.waiting.is_empty() {
            tokio::select! {
                Some(ended) = self.workers.join_next() => self.ended(ended),
                () = &mut shutdown, if told_at.is_none() => {
                    info!(drain_timeout = ?self.daemon.config().limits.drain_timeout, "draining");
                    self.manager.stopping();
                    told_at = Some(Instant::now());
                    self.waiting.clear();
                    self.resumes.abort_all();
                    self.running.values().for_each(|running| running.stop.cancel());
                }
                Some(()) = reloads.recv() => {
                    if told_at.is_none() {
                        self.manager.reloading();
                        self.reload(&*load);
                        self.manager.ready();
                    }
                }
                Some(Ok(name)) = self.resumes.join_next() => {
                    // A request that arrived just before the shutdown must not start a pipeline after it.
                    if told_at.is_none() {
                        self.resume(&name);
                    }
                }
            }
            self.start_waiting();
        }
        for pipeline in self.daemon.pipelines() {
            let (rows, dead) =
                pipeline.consumers.iter().fold((0, 0), |(rows, dead), c| (rows + c.rows(), dead + c.dead_letters()));
            let left = self.remainders.get(&pipeline.name).map_or(0, Remainder::records);
            info!(pipeline = &*pipeline.name, rows, dead_letters = dead, left, state = %pipeline.state(), "ended");
        }
        (self.outcome(), told_at)
    }

    fn spawn(&mut self, pipeline: Arc<Pipeline>) {
        let (config, stop) = (self.daemon.config(), CancellationToken::new());
        let name = Arc::clone(&pipeline.name);
        let bounded = self.until == Until::Now;
        let owner = Arc::clone(&self.daemon.instance);
        let work = Arc::clone(&pipeline).run(Arc::clone(&config), owner, self.name.clone(), bounded, stop.clone());
        let named = Arc::clone(&name);
        self.workers.spawn(async move {
            // Run the work as a task of its own, so that a panic is reported with the pipeline's name and doesn't end
            // other pipelines.
            let mut alone = JoinSet::new();
            alone.spawn(work);
            let outcome = alone.join_next().await.expect("one task was spawned");
            let outcome = outcome.unwrap_or_else(|panic| Err(Stopped::Bug(panic.to_string())));
            (named, outcome)
        });
        self.remainders.remove(&name);
        self.running.insert(name, Running { pipeline, config, stop });
    }

    fn ended(&mut self, ended: Result<(Arc<str>, Outcome), tokio::task::JoinError>) {
        let (name, outcome) = ended.expect("what runs a pipeline doesn't panic itself");
        let Some(Running { pipeline, stop, .. }) = self.running.remove(&name) else { return };
        let removed = !self.daemon.config().pipelines.iter().any(|pipeline| *pipeline.name == *name);
        match outcome {
            Ok(remainder) if remainder.is_empty() => {}
            // The pipeline is no longer configured, so what it left unwritten isn't a failure of the process.
            Ok(remainder) if removed => warn!(pipeline = &*name, left = %remainder, "its drain timed out"),
            Ok(remainder) => {
                self.remainders.insert(Arc::clone(&name), remainder);
            }
            Err(stopped) => {
                pipeline.stopped(&stopped);
                if stop.is_cancelled() || self.until == Until::Now {
                    error!(pipeline = &*name, why = %stopped, "the pipeline stopped");
                } else if self.running.is_empty() && self.waiting.is_empty() {
                    error!(pipeline = &*name, why = %stopped, "the pipeline stopped, and no other one runs: the process ends; start it again when the cause is removed");
                } else {
                    error!(pipeline = &*name, why = %stopped, "the pipeline stopped: SIGHUP or `tidegate pipelines resume` starts it again");
                    self.resumes.spawn(resumed(Arc::clone(&self.daemon), pipeline));
                }
            }
        }
        if removed {
            lock(&self.daemon.live).pipelines.retain(|pipeline| pipeline.name != name);
            metrics::forget(&name);
            info!(pipeline = &*name, "the pipeline is removed; the ledger keeps its positions");
        }
    }

    /// Starts the waiting pipelines, unless a pipeline that was told to end still runs.
    fn start_waiting(&mut self) {
        if self.waiting.is_empty() || self.running.values().any(|running| running.stop.is_cancelled()) {
            return;
        }
        for name in std::mem::take(&mut self.waiting) {
            let config = self.daemon.config();
            let Some(pipeline) = config.pipelines.iter().find(|pipeline| *pipeline.name == *name) else { continue };
            match Pipeline::new(&config, pipeline) {
                Ok(pipeline) => {
                    let pipeline = Arc::new(pipeline);
                    {
                        let pipelines = &mut lock(&self.daemon.live).pipelines;
                        pipelines
                            .extract_if(.., |other| other.name == name)
                            .for_each(|replaced| replaced.stop_measuring());
                        pipelines.push(Arc::clone(&pipeline));
                        pipelines.sort_by(|a, b| a.name.cmp(&b.name));
                    }
                    metrics::remember(&name);
                    self.daemon.news.notify_one();
                    self.spawn(pipeline);
                }
                Err(why) => error!(pipeline = &*name, why, "the pipeline can't start"),
            }
        }
    }

    fn resume(&mut self, name: &Arc<str>) {
        info!(pipeline = &**name, "resuming the pipeline on request");
        if !self.running.contains_key(name) {
            self.waiting.insert(Arc::clone(name));
        }
    }

    /// Reads the configuration again and applies what changed. A configuration that is refused changes nothing. A bounded run
    /// keeps its configuration.
    fn reload(&mut self, load: &dyn Fn() -> Result<Config, crate::config::Faults>) {
        if self.until == Until::Now {
            warn!("the configuration is not reloaded: a bounded run keeps the one that it started with");
            return;
        }
        let applied = load().map_err(|faults| faults.to_string()).and_then(|config| self.apply(config));
        metrics::reload_succeeded(applied.is_ok());
        metrics::reloaded(applied.is_ok());
        let refused = applied.as_ref().err().cloned();
        lock(&self.daemon.live).reload = Some(Reload { at_ms: metrics::epoch_ms(), refused });
        match applied {
            Ok(Changes { kept, restarted, started, removed, needs_restart }) => {
                info!(?kept, ?restarted, ?started, ?removed, "the configuration was read again");
                if !needs_restart.is_empty() {
                    warn!(keys = ?needs_restart, "these keys changed, and take effect when the process is restarted");
                }
            }
            Err(why) => {
                error!(why, "the new configuration is refused: nothing changes, the pipelines keep the previous one")
            }
        }
    }

    fn apply(&mut self, new: Config) -> Result<Changes, String> {
        let old = self.daemon.config();
        let stays = self.running.iter().filter(|(_, running)| !running.stop.is_cancelled());
        let stays = stays.map(|(name, running)| {
            (Arc::clone(name), reload::Running { config: &running.config, share: &running.pipeline.share })
        });
        let changes = reload::changes(&old, &new, &stays.collect())?;
        for (name, _) in &changes.restarted {
            can_connect(&new, name)?;
        }
        metrics::process(new.limits.memory);
        lock(&self.daemon.live).config = Arc::new(new);
        self.waiting = changes.started.iter().cloned().collect();
        for name in changes.removed.iter().chain(changes.restarted.iter().map(|(name, _)| name)) {
            if let Some(running) = self.running.get(name) {
                running.stop.cancel();
            }
        }
        self.waiting.extend(changes.restarted.iter().map(|(name, _)| Arc::clone(name)));
        // The reload starts stopped pipelines again, so don't wait for requests to resume them. If the new configuration
        // removes a pipeline that doesn't run, forget the pipeline at once.
        self.resumes.abort_all();
        let config = self.daemon.config();
        let known = |name: &str| config.pipelines.iter().any(|pipeline| pipeline.name == name);
        lock(&self.daemon.live).pipelines.retain(|pipeline| {
            let stays = known(&pipeline.name) || self.running.contains_key(&pipeline.name);
            if !stays {
                metrics::forget(&pipeline.name);
            }
            stays
        });
        Ok(changes)
    }

    /// Returns the result of the process. It is an error if a pipeline has stopped, or if records are left unwritten.
    fn outcome(&self) -> Result<(), FatalError> {
        let reason = |pipeline: &Arc<Pipeline>| match pipeline.phase() {
            PipelinePhase::Stopped { why } => Some(format!("pipeline `{}` stopped: {why}", pipeline.name)),
            _ => None,
        };
        let reasons: Vec<String> = self.daemon.pipelines().iter().filter_map(reason).collect();
        let left: Vec<String> =
            self.remainders.iter().map(|(name, left)| format!("pipeline `{name}`: {left}")).collect();
        let left = (!left.is_empty()).then(|| {
            format!("ended before all was written; nothing is lost, the next start resumes\n{}", left.join("\n"))
        });
        match (reasons.is_empty(), left) {
            (true, None) => Ok(()),
            (true, Some(left)) => Err(FatalError::Unfinished(left)),
            (false, left) => Err(FatalError::Stopped(reasons.into_iter().chain(left).collect::<Vec<_>>().join("\n"))),
        }
    }
}

/// Fails if no Kafka client for this pipeline can be created with the new configuration. This happens, for example, while
/// certificates are being replaced and a key doesn't match its certificate. The reload is then refused, and the pipeline keeps
/// running.
fn can_connect(config: &Config, name: &str) -> Result<(), String> {
    let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.name == name) else { return Ok(()) };
    let health = KafkaHealth::of_command(&config.kafka.bootstrap_servers, &pipeline.group);
    let created = Observer::new(&settings::observer(&config.kafka, pipeline), Arc::new(health));
    created.map(drop).map_err(|error| format!("pipelines.{name}: no client for Kafka can be created: {error}"))
}

/// Waits until somebody runs `tidegate pipelines resume` for this pipeline. Returns the pipeline's name.
///
/// First reads the number of earlier requests. Then marks the pipeline as stopped in this instance's row of `tidegate.instance`.
/// The command makes requests only for a pipeline that is marked as stopped. Therefore each request for this stop raises the
/// number above the one that was read first.
async fn resumed(daemon: Arc<Daemon>, pipeline: Arc<Pipeline>) -> Arc<str> {
    let connector = Connector::new(Arc::new(daemon.config().postgres.clone()), None);
    let mut known = None;
    let mut connection = None;
    loop {
        let look = async {
            let open = match &mut connection {
                Some(open) => open,
                none => none.insert(connector.open().await.map_err(|error| error.to_string())?.0),
            };
            resume::count(open, &pipeline.name).await.map_err(|error| error.to_string())
        };
        match timeout(connector.write_deadline(), look).await {
            Ok(Ok(count)) => {
                // A pipeline that isn't registered, or was forgotten, counts its requests from 0.
                let now = count.unwrap_or(0);
                match known.replace(now) {
                    // The number is smaller if `tidegate pipelines forget` was run meanwhile.
                    Some(before) if now > before => return Arc::clone(&pipeline.name),
                    Some(_) => {}
                    None => {
                        pipeline.await_resume();
                        daemon.news.notify_one();
                    }
                }
            }
            Ok(Err(why)) => {
                debug!(pipeline = &*pipeline.name, why, "can't read whether to resume");
                connection = None;
            }
            Err(_) => connection = None,
        }
        sleep(RESUME_LOOK).await;
    }
}
