//! A long outage of the database at full input. Meanwhile, memory must stay within its limit, the daemon must stay in its
//! consumer group, lag and headroom must be updated, and `/readyz` must report the outage. The first commit must come soon after
//! the database's return. Then measures how fast the daemon drains the backlog.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidegate_harness::usage::{peak_rss_bytes, rss_bytes};
use tokio::time::sleep;

use crate::stage::Stage;

const LOOK_EVERY: Duration = Duration::from_secs(15);
const FLOW_BEFORE: Duration = Duration::from_secs(15);
const DRAIN_LOOK: Duration = Duration::from_secs(1);
const DRAIN_DEADLINE: Duration = Duration::from_secs(1800);
/// The daemon has caught up when its lag is at most the number of records that arrive in this many seconds.
const CAUGHT_UP_SECONDS: f64 = 1.5;

#[derive(Clone, Copy, Debug)]
struct Look {
    rss: u64,
    lag: f64,
    headroom: f64,
    rebalances: f64,
    written: f64,
}

impl Stage {
    fn look(&self) -> Result<Look> {
        let daemon = &self.members[0].daemon;
        let metric = |name: &str| daemon.metric(name, &[]).with_context(|| format!("no {name}"));
        Ok(Look {
            rss: rss_bytes(daemon.pid())?,
            lag: metric("tidegate_lag_records")?,
            // `metric` returns the sum over all partitions. So divide by the number of partitions to get their mean.
            headroom: metric("tidegate_retention_headroom_seconds")? / f64::from(self.partitions),
            rebalances: metric("tidegate_rebalances_total")?,
            written: metric("tidegate_rows_written_total")?,
        })
    }
}

/// Runs the scenario. Returns whether all checks passed: those of the module's description, and the record accounting.
pub(crate) async fn run(stage: &mut Stage, minutes: f64) -> Result<bool> {
    sleep(FLOW_BEFORE).await;
    stage.check_daemons()?;
    let before = stage.look()?;
    let pid = stage.members[0].daemon.pid();
    let bound = stage.members[0].daemon.metric("tidegate_memory_limit_bytes", &[]).context("no bound")?;
    stage.output.say(format!(
        "  {:>7}{:>12}{:>14}{:>14}{:>14}{:>10}",
        "away", "resident", "lag", "headroom", "rebalances", "/readyz"
    ));
    stage.postgres.stop()?;
    let away = Instant::now();
    let mut looks = vec![];
    while away.elapsed() < Duration::from_secs_f64(minutes * 60.0) {
        sleep(LOOK_EVERY).await;
        stage.check_daemons()?;
        let look = stage.look()?;
        let ready = stage.members[0].daemon.get("/readyz")?.status;
        stage.output.say(format!(
            "  {:>5.0} s{:>8} MiB{:>14}{:>12.0} s{:>14}{ready:>10}",
            away.elapsed().as_secs_f64(),
            look.rss >> 20,
            look.lag,
            look.headroom,
            look.rebalances - before.rebalances
        ));
        looks.push((look, ready));
    }
    stage.postgres.start_again()?;
    let back = Instant::now();
    let first = stage.await_first_commit(back).await?;
    let (at_back, started) = (stage.look()?, Instant::now());
    stage.output.say(format!(
        "  the database is back: first commit after {:.2} s, {} behind",
        first.as_secs_f64(),
        at_back.lag
    ));
    let mut now = at_back;
    while now.lag > stage.cast.rate * CAUGHT_UP_SECONDS {
        anyhow::ensure!(started.elapsed() < DRAIN_DEADLINE, "not caught up within {DRAIN_DEADLINE:?}: {now:?}");
        sleep(DRAIN_LOOK).await;
        stage.check_daemons()?;
        now = stage.look()?;
    }
    let took = started.elapsed().as_secs_f64();
    let rate = (now.written - at_back.written) / took;
    let peak = peak_rss_bytes(pid)?;
    let rebalances = now.rebalances - before.rebalances;
    stage.output.say(format!(
        "  caught up in {took:.1} s at {rate:.0} rows/s, with {} records/s coming in\n  peak memory {} MiB of {:.0} MiB, rebalances {rebalances}",
        stage.cast.rate,
        peak >> 20,
        bound / f64::from(1 << 20)
    ));
    let accounting = stage.reconcile().await?;
    let lag_moved = looks.windows(2).all(|pair| pair[1].0.lag > pair[0].0.lag);
    let headroom_moved = looks.windows(2).all(|pair| pair[1].0.headroom < pair[0].0.headroom);
    #[expect(clippy::cast_precision_loss, reason = "a process's memory")]
    let held = peak as f64 <= bound;
    let checks = [
        ("memory stays under its bound", held),
        ("the group is kept", rebalances == 0.0),
        ("lag goes on moving", lag_moved),
        ("headroom goes on moving", headroom_moved),
        ("/readyz says so", looks.iter().all(|(_, ready)| *ready == 503)),
        ("first commit within 2 s of the database's return", first <= Duration::from_secs(2)),
        ("every record is in the table once", accounting.is_exact()),
    ];
    for (what, holds) in checks {
        stage.output.say(format!("  {} {what}", if holds { "✔" } else { "✘" }));
    }
    stage.output.say(format!(
        "  {} records in Kafka, {} in the table, {} missing, {} twice, {} dead letters",
        accounting.produced, accounting.rows, accounting.missing, accounting.twice, accounting.dead_letters
    ));
    Ok(checks.iter().all(|(_, holds)| *holds))
}
