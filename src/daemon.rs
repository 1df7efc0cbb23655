//! Builds every pipeline and connects it; owns the order of shutdown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tidegate_protocol::stopped::Stopped;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::error::FatalError;
use crate::pipeline::Pipeline;
use crate::status::lock;
use crate::{http, metrics};

/// What a daemon shows of itself.
#[derive(Debug)]
pub struct Daemon {
    /// Who we are: host, process, and a random part.
    pub instance: Arc<str>,
    /// The checked configuration.
    pub config: Arc<Config>,
    /// Its pipelines.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// Renders `/metrics`.
    pub prometheus: PrometheusHandle,
    /// When it started, in milliseconds since the epoch.
    pub started_ms: i64,
}

/// How much longer than a drain everything else of a shutdown may take.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(10);

/// Runs every pipeline until `shutdown`, then drains; with `until_now`, until what Kafka holds at the start is written.
/// `shutdown` is a parameter, so that a test ends the daemon as a signal would.
///
/// # Errors
/// [`FatalError::Stopped`] once no pipeline is left that runs, with each one's reason.
pub async fn run(
    config: Config,
    prometheus: PrometheusHandle,
    until_now: bool,
    shutdown: impl Future<Output = ()>,
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
    let instance: Arc<str> = instance_id().into();
    metrics::process(config.limits.memory);
    info!(%instance, listen = %config.http.listen, memory_mib = config.limits.memory >> 20, "tidegate {}", env!("CARGO_PKG_VERSION"));
    let daemon = Arc::new(Daemon {
        instance: Arc::clone(&instance),
        config: Arc::clone(&config),
        pipelines: pipelines.clone(),
        prometheus,
        started_ms: metrics::epoch_ms(),
    });
    let mut side = JoinSet::new();
    side.spawn(http::serve(listener, Arc::clone(&daemon)));
    side.spawn(report(Arc::clone(&daemon)));

    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    for pipeline in &pipelines {
        workers.spawn(Arc::clone(pipeline).run(Arc::clone(&config), Arc::clone(&instance), until_now, stop.clone()));
    }
    let ended = join_all(&mut workers);
    tokio::pin!(ended);
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        () = shutdown => {
            info!(drain_timeout = ?config.limits.drain_timeout, "draining");
            stop.cancel();
            tokio::select! {
                outcome = &mut ended => outcome,
                () = sleep(config.limits.drain_timeout + SHUTDOWN_SLACK) => {
                    Err("the drain did not end in time: what isn't written is read again at the next start".to_owned())
                }
            }
        }
    };
    // The heartbeat ends first, or it could write our row again.
    side.shutdown().await;
    http::goodbye(&config, &instance).await;
    for pipeline in &pipelines {
        let (rows, dead) =
            pipeline.consumers.iter().fold((0, 0), |(rows, dead), c| (rows + c.rows(), dead + c.dead_letters()));
        info!(pipeline = &*pipeline.name, rows, dead_letters = dead, state = %pipeline.state(), "ended");
    }
    outcome.map_err(FatalError::Stopped)
}

/// The reasons of those that stopped, if any did.
async fn join_all(workers: &mut JoinSet<Result<(), Stopped>>) -> Result<(), String> {
    let mut reasons = Vec::new();
    while let Some(ended) = workers.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            // The pipeline has logged it.
            Ok(Err(stopped)) => reasons.push(stopped.to_string()),
            Err(panic) => reasons.push(format!("a bug of ours: {panic}")),
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) }
}

/// What metrics can't learn at the place where it happens.
async fn report(daemon: Arc<Daemon>) {
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        for pipeline in &daemon.pipelines {
            pipeline.look_at_kafka();
            lock(&pipeline.lag).show_age(&pipeline.name);
            metrics::throttled(&pipeline.name, pipeline.kafka.throttled());
            metrics::pipeline_state(&pipeline.name, pipeline.state());
        }
        metrics::memory();
        daemon.prometheus.run_upkeep();
    }
}

/// Returns this machine's name; empty where the system doesn't say it.
pub(crate) fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

fn instance_id() -> String {
    let host = host_name();
    let host = if host.is_empty() { "tidegate" } else { &host };
    format!("{host}-{}-{:04x}", std::process::id(), fastrand::u16(..))
}
