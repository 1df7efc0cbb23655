//! Finds the other daemons that share our database. Each daemon updates a row every few seconds, and reads the rows of the
//! others.
//!
//! The ledger says who owns a partition. An idle consumer owns none, so only the row of its instance shows that it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Site;
use crate::config::Config;
use crate::daemon::{Daemon, host_name};
use crate::kafka::membership::InstanceName;
use crate::metrics::epoch_ms;
use crate::postgres::connect::Connector;
use crate::status::lock;

/// The time between two regular updates of this daemon's row in `tidegate.instance`.
const INTERVAL: Duration = Duration::from_secs(3);
const DEREGISTER_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
pub(super) struct Instances {
    /// The other instances that were seen in the last 15 s, by id; at most 200.
    pub(super) others: BTreeMap<String, Instance>,
    /// When the instances were last read: the instant, and the time in milliseconds since the epoch.
    pub(super) looked: Option<(Instant, i64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) host: String,
    pub(super) url: Option<String>,
    pub(super) version: String,
    pub(super) consumers: BTreeMap<String, u32>,
    pub(super) age_seconds: f64,
}

/// Updates this daemon's row in `tidegate.instance` and reads the rows of the others, until the future is dropped.
pub(super) async fn run(site: Arc<Site>) {
    let mut config = site.daemon.config();
    let mut connector = Connector::new(Arc::new(config.postgres.clone()), None);
    let mut connection = None;
    let mut twins = BTreeSet::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = site.daemon.news.notified() => {}
        }
        let now = site.daemon.config();
        if now.postgres != config.postgres {
            // A reload changed `[postgres]` and may have named another database, so connect again. This daemon's row in the old
            // database expires.
            (connector, connection) = (Connector::new(Arc::new(now.postgres.clone()), None), None);
        }
        config = now;
        match beat(&site.daemon, &config, &connector, &mut connection).await {
            Ok(others) => {
                let seen = Instances { others, looked: Some((Instant::now(), epoch_ms())) };
                let before = std::mem::replace(&mut *lock(&site.instances), seen.clone());
                if let Some((looked, _)) = before.looked {
                    site.watch.instances_changed(&before.others, &seen.others);
                    warn_of_twins(&site, &before, &seen, looked.elapsed(), &mut twins);
                }
            }
            Err(why) => {
                // Usually Postgres can't be reached, or our tables don't exist yet. The pipelines report both, so don't warn
                // again.
                debug!(why, "could not update the row of this instance or read those of the others");
                connection = None;
            }
        }
    }
}

/// Warns once about each other daemon that has our instance name. The broker reports the conflict only to the daemon that loses
/// the name. A row that is no longer updated may belong to an earlier process of this daemon, so it causes no warning.
fn warn_of_twins(site: &Site, before: &Instances, seen: &Instances, since: Duration, told: &mut BTreeSet<String>) {
    let ours = &site.daemon.instance;
    for (id, other) in &seen.others {
        let alive = before.others.contains_key(id) && other.age_seconds < since.as_secs_f64();
        if alive && InstanceName::is_shared(ours, id) && told.insert(id.clone()) {
            let what = format!("{id} on {} has the same instance name as this daemon ({ours})", other.host);
            warn!(
                "{what}: one of the two daemons joins the group without a name while the other has it; set `instance` to a different name on each"
            );
            site.watch.twin(what);
        }
    }
}

/// Returns how many consumers this process has of each pipeline, as a JSON object.
fn pools(config: &Config) -> serde_json::Value {
    config.pipelines.iter().map(|p| (p.name.clone(), serde_json::Value::from(p.consumers.get()))).collect()
}

/// Returns the pipelines of this process that have stopped and can be resumed, as a JSON object from name to reason.
fn stopped(daemon: &Daemon) -> serde_json::Value {
    let stopped = daemon.pipelines().into_iter().filter_map(|p| Some((p.name.to_string(), p.resumable()?.into())));
    serde_json::Value::Object(stopped.collect())
}

pub(super) fn url(config: &Config) -> String {
    config.http.url.clone().unwrap_or_else(|| format!("http://{}", config.http.listen))
}

async fn beat(
    daemon: &Daemon,
    config: &Config,
    connector: &Connector,
    connection: &mut Option<PgConnection>,
) -> Result<BTreeMap<String, Instance>, String> {
    let is_new = connection.is_none();
    let open = match connection {
        Some(open) => open,
        none => none.insert(connector.open().await.map_err(|error| error.to_string())?.0),
    };
    let work = async {
        if is_new {
            // An instance that crashed more than an hour ago is of no interest.
            sqlx::query("DELETE FROM tidegate.instance WHERE seen_at < now() - interval '1 hour'")
                .execute(&mut *open)
                .await?;
        }
        sqlx::query(
            "INSERT INTO tidegate.instance (id, host, url, version, consumers, stopped)
             VALUES ($1, $2, $3, $4, $5::jsonb, $6::jsonb) ON CONFLICT (id)
             DO UPDATE SET consumers = excluded.consumers, stopped = excluded.stopped, seen_at = now()",
        )
        .bind(&*daemon.instance)
        .bind(host_name())
        .bind(url(config))
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(pools(config).to_string())
        .bind(stopped(daemon).to_string())
        .execute(&mut *open)
        .await?;
        sqlx::query(
            "SELECT id, host, url, version, consumers::text, extract(epoch FROM now() - seen_at)::float8
             FROM tidegate.instance WHERE id <> $1 AND seen_at > now() - interval '15 seconds' ORDER BY id LIMIT 200",
        )
        .bind(&*daemon.instance)
        .fetch_all(open)
        .await
    };
    let rows = timeout(connector.write_deadline(), work).await.map_err(|_| "no answer".to_owned())?;
    let rows = rows.map_err(|error| error.to_string())?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<_, sqlx::Error> {
        let consumers: String = row.try_get(4)?;
        let instance = Instance {
            host: row.try_get(1)?,
            url: row.try_get(2)?,
            version: row.try_get(3)?,
            consumers: serde_json::from_str(&consumers).unwrap_or_default(),
            age_seconds: row.try_get(5)?,
        };
        Ok((row.try_get(0)?, instance))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Deletes this daemon's row in `tidegate.instance`, so that the others needn't wait for it to expire. Takes at most `limit`.
pub(crate) async fn deregister(config: &Config, instance: &str, limit: Duration) {
    let connector = Connector::new(Arc::new(config.postgres.clone()), None);
    let work = async {
        let Ok((mut connection, _)) = connector.open().await else { return };
        let gone = sqlx::query("DELETE FROM tidegate.instance WHERE id = $1").bind(instance);
        if let Err(error) = gone.execute(&mut connection).await {
            debug!(%error, "could not delete the row of this instance; it expires");
        }
    };
    if timeout(limit.min(DEREGISTER_MAX), work).await.is_err() {
        debug!("no time to delete the row of this instance; it expires");
    }
}
