//! The ladder's rungs without Kafka. Their clients run in this process. Each has its own connection and its own share of the
//! rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::{Executor, PgConnection};
use tidegate_harness::usage;
use tokio::task::JoinSet;

use super::{Sample, Setting};
use crate::rows::Row;
use crate::stage::{Stage, wal_position};
use crate::ways::{self, Way};

/// Lets the clients write rows for the time `run`, and complete their last transactions. Returns the number of rows, the time and
/// the costs.
pub(super) async fn measure(
    stage: &Stage,
    way: Way,
    setting: Setting,
    rows: &Arc<Vec<Row>>,
    run: Duration,
    is_asynchronous: bool,
) -> Result<Sample> {
    let mut watcher = stage.fresh_table().await?;
    let statement: Arc<str> = ways::statement(way, setting.rows).into();
    let mut connections = Vec::new();
    for _ in 0..setting.clients {
        let mut connection = stage.database.connect().await?;
        if is_asynchronous {
            connection.execute("SET synchronous_commit = off").await?;
        }
        // A program that has been running for a while has its statements prepared. So prepare them before the clock starts.
        if way != Way::CopyText && way != Way::CopyBinary {
            connection.prepare(&statement).await?;
        }
        connections.push(connection);
    }
    let wal = wal_position(&mut watcher).await?;
    let (database, own) = cpu(stage)?;
    let (started, share) = (Instant::now(), rows.len() / setting.clients);
    let mut clients = JoinSet::new();
    for (client, connection) in connections.into_iter().enumerate() {
        let (rows, statement) = (Arc::clone(rows), Arc::clone(&statement));
        clients.spawn(async move {
            let mut own = Client { way, statement, connection, until: started + run };
            own.write(&rows[client * share..(client + 1) * share], setting.rows).await
        });
    }
    let mut written = 0;
    while let Some(client) = clients.join_next().await {
        written += client.context("a client panicked")??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (database_after, own_after) = cpu(stage)?;
    Ok(Sample {
        rows: written,
        seconds,
        database_cpu: (database_after.saturating_sub(database)).as_secs_f64(),
        client_cpu: (own_after.saturating_sub(own)).as_secs_f64(),
        kafka_cpu: 0.0,
        wal_bytes: wal_position(&mut watcher).await? - wal,
        rows_of_costs: written,
    })
}

struct Client {
    way: Way,
    statement: Arc<str>,
    connection: PgConnection,
    until: Instant,
}

impl Client {
    /// Writes rows until the time is over, and returns their number. After the last row, continues with the first one.
    async fn write(&mut self, rows: &[Row], of_a_transaction: usize) -> Result<u64> {
        let mut written = 0;
        for chunk in std::iter::repeat_with(|| rows.chunks_exact(of_a_transaction)).flatten() {
            let chunk: Vec<&Row> = chunk.iter().collect();
            ways::write(self.way, &self.statement, &chunk, &mut self.connection).await?;
            written += chunk.len() as u64;
            if Instant::now() >= self.until {
                break;
            }
        }
        Ok(written)
    }
}

fn cpu(stage: &Stage) -> Result<(Duration, Duration)> {
    let postgres = stage.postgres_pid().context("Postgres is stopped")?;
    Ok((usage::cpu_time(postgres, true)?, usage::cpu_time(std::process::id(), false)?))
}
