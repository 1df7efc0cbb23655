//! Runs the daemon from its start to its end, and keeps the state that its HTTP server shows.

mod reload;
mod supervisor;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tracing::{info, warn};

use crate::config::{Config, Faults};
use crate::error::FatalError;
use crate::kafka::membership::InstanceName;
use crate::pipeline::Pipeline;
use crate::status::lock;
use crate::systemd::Manager;
use crate::{cgroup, http, metrics};
use supervisor::Supervisor;

/// The state of a running daemon. The supervisor changes it, and the HTTP server shows it.
#[derive(Debug)]
pub struct Daemon {
    /// The instance's id: its name, its process id, and a random part.
    pub instance: Arc<str>,
    pub prometheus: PrometheusHandle,
    pub started_ms: i64,
    /// Notified when a stopped pipeline begins to wait for a request to resume it, and when a reload or such a request starts a
    /// pipeline. This instance's row of `tidegate.instance` is then updated at once.
    pub news: Notify,
    live: Mutex<Live>,
}

/// The part of the state that a reload replaces.
#[derive(Debug)]
struct Live {
    config: Arc<Config>,
    /// Sorted by name.
    pipelines: Vec<Arc<Pipeline>>,
    reload: Option<Reload>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    pub at_ms: i64,
    /// Why the new configuration was refused; `None` if it was applied.
    pub refused: Option<String>,
}

impl Daemon {
    /// Returns the current configuration. A pipeline that a reload left running still uses an earlier configuration. The settings
    /// that it uses are equal in both, apart from its share of the memory budget.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.live).config)
    }

    pub fn last_reload(&self) -> Option<Reload> {
        lock(&self.live).reload.clone()
    }

    /// Returns the pipelines, sorted by name. A removed pipeline is included until it has ended.
    pub fn pipelines(&self) -> Vec<Arc<Pipeline>> {
        lock(&self.live).pipelines.clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until the daemon is told to end.
    Told,
    /// Until the records that Kafka holds at the start are written, or the daemon is told to end.
    Now,
}

/// Controls a running daemon from outside. `shutdown` completes when the daemon must drain and end. Each message of `reloads`
/// asks it to read its configuration again. `load` reads and checks the configuration.
pub struct Control<S> {
    pub shutdown: S,
    pub reloads: mpsc::Receiver<()>,
    pub load: Box<dyn Fn() -> Result<Config, Faults> + Send + Sync>,
}

impl<S> std::fmt::Debug for Control<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

/// Runs every pipeline until `control.shutdown` completes. Then drains, and ends within `limits.drain_timeout`. Ends earlier in
/// two cases:
/// - All pipelines have stopped.
/// - `until` is [`Until::Now`], and the records that Kafka holds at the start are written.
///
/// # Errors
/// - [`FatalError::Config`] if the configuration, the address `http.listen` or systemd's socket can't be used.
/// - [`FatalError::Stopped`] if pipelines are stopped when the daemon ends. The text has the reason of each.
/// - Otherwise, [`FatalError::Unfinished`] if records were read and not written. With [`Until::Now`], also if records that Kafka
///   held at the start are not written.
pub async fn run<S: Future<Output = ()>>(
    config: Config,
    prometheus: PrometheusHandle,
    until: Until,
    control: Control<S>,
) -> Result<(), FatalError> {
    let config = Arc::new(config);
    let pipelines = config.pipelines.iter().map(|pipeline| Pipeline::new(&config, pipeline).map(Arc::new));
    let pipelines = pipelines.collect::<Result<Vec<_>, _>>().map_err(FatalError::Config)?;
    let listener = TcpListener::bind(config.http.listen).await.map_err(|error| {
        FatalError::Config(format!(
            "can't listen on `http.listen` {}: {error}; is another tidegate running?",
            config.http.listen
        ))
    })?;
    let name = InstanceName::new(&config, &host_name());
    let instance: Arc<str> = name.id().into();
    metrics::process(config.limits.memory);
    info!(%instance, listen = %config.http.listen, memory_mib = config.limits.memory >> 20, "tidegate {}", env!("CARGO_PKG_VERSION"));
    if let Some(warning) = cgroup::warning(config.limits.memory) {
        warn!("{warning}");
    }
    let daemon = Arc::new(Daemon {
        instance: Arc::clone(&instance),
        prometheus,
        started_ms: metrics::epoch_ms(),
        news: Notify::new(),
        live: Mutex::new(Live { config, pipelines, reload: None }),
    });
    let mut side = JoinSet::new();
    side.spawn(http::serve(listener, Arc::clone(&daemon)));
    let manager = Manager::from_environment()
        .map_err(|error| FatalError::Config(format!("can't use the socket of `NOTIFY_SOCKET`: {error}")))?;
    let manager = Arc::new(manager);
    side.spawn(report(Arc::clone(&daemon), Arc::clone(&manager)));

    let supervisor = Supervisor::new(Arc::clone(&daemon), name, Arc::clone(&manager), until);
    let (outcome, told_at) = supervisor.run(control).await;
    // Stop the heartbeat first. Otherwise it could insert this daemon's row again after `deregister` has deleted the row.
    side.shutdown().await;
    let config = daemon.config();
    let left = told_at.map(|at| (at + config.limits.drain_timeout).saturating_duration_since(Instant::now()));
    http::deregister(&config, &instance, left.unwrap_or(config.limits.drain_timeout)).await;
    outcome
}

/// Once per second, checks whether Kafka serves each pipeline, updates metrics that no event updates, and tells systemd that the
/// daemon is alive. If the runtime no longer runs tasks, systemd gets no messages. Its watchdog, if on, then restarts the
/// service.
async fn report(daemon: Arc<Daemon>, manager: Arc<Manager>) {
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        for pipeline in daemon.pipelines() {
            pipeline.check_kafka();
            lock(&pipeline.lag).show_age(&pipeline.name);
            metrics::throttled(&pipeline.name, pipeline.kafka.throttled());
            metrics::pipeline_state(&pipeline.name, pipeline.state());
        }
        let states: Vec<_> =
            daemon.pipelines().iter().map(|pipeline| format!("{} {}", pipeline.name, pipeline.state())).collect();
        manager.alive(&states.join(", "));
        metrics::memory();
        daemon.prometheus.run_upkeep();
    }
}

/// Returns this machine's host name; empty if it can't be read.
pub(crate) fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}
