//! Reads the ledger about every 25 ms, over a connection without a proxy, to know when each partition last advanced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row;
use tidegate_harness::Database;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long to wait for an answer before a new connection is opened. A suspended database doesn't answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The next offset of a partition in the ledger, and when that offset last increased.
#[derive(Clone, Copy, Debug)]
struct Seen {
    next: i64,
    moved_at: Instant,
}

#[derive(Debug, Default)]
struct View {
    partitions: BTreeMap<i32, Seen>,
    last_move: Option<Instant>,
}

/// Two durations since the end of a fault: until the first commit, and until every partition had advanced. If the wait for all
/// partitions was given up, `all` is the time until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    pub(crate) first: Duration,
    pub(crate) all: Duration,
}

/// The task that reads the ledger. The task ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    view: Arc<Mutex<View>>,
    _task: JoinSet<()>,
}

impl Watch {
    pub(crate) fn start(database: &Database) -> Self {
        let view: Arc<Mutex<View>> = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(look(database.clone(), Arc::clone(&view)));
        Self { view, _task: task }
    }

    /// Returns when the last commit was seen, if that was after `since`. If the caller polls often, this is the first commit
    /// after `since`.
    pub(crate) fn first_move(&self, since: Instant) -> Option<Instant> {
        lock(&self.view).last_move.filter(|at| *at > since)
    }

    pub(crate) fn all_moved(&self, since: Instant) -> bool {
        let view = lock(&self.view);
        !view.partitions.is_empty() && view.partitions.values().all(|seen| seen.moved_at > since)
    }

    /// Returns the partitions that haven't advanced since `since`, each with its next offset, for an error message.
    pub(crate) fn standing(&self, since: Instant) -> Vec<(i32, i64)> {
        let view = lock(&self.view);
        view.partitions.iter().filter(|(_, seen)| seen.moved_at <= since).map(|(p, seen)| (*p, seen.next)).collect()
    }
}

/// The reading task and the campaign contend for the lock. It is never held across an `await`.
fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(database: Database, view: Arc<Mutex<View>>) {
    let mut connection = None;
    loop {
        sleep(LOOK_EVERY).await;
        let work = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => database.connect().await?,
            };
            let rows = sqlx::query("SELECT partition, next_offset FROM tidegate.ledger").fetch_all(&mut open).await?;
            let places = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            let places = places.collect::<Result<Vec<(i32, i64)>, sqlx::Error>>()?;
            connection = Some(open);
            anyhow::Ok(places)
        };
        // Campaigns make the database unavailable, so ignore errors and timeouts.
        let Ok(Ok(places)) = timeout(PATIENCE, work).await else { continue };
        let now = Instant::now();
        let mut view = lock(&view);
        for (partition, next) in places {
            let seen = view.partitions.entry(partition).or_insert(Seen { next: -1, moved_at: now });
            // A smaller offset isn't progress. It appears when the database was restored from an older copy.
            let forward = next > seen.next;
            if next != seen.next {
                seen.next = next;
            }
            if forward {
                seen.moved_at = now;
                view.last_move = Some(now);
            }
        }
    }
}
