//! Injects faults, and ends those that don't end by themselves. This module never helps a daemon to recover from a fault.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sqlx::{Executor, PgConnection};
use tidegate_harness::proxy::{Action, Proxy, Trigger};
use tokio::time::{sleep, timeout};

use crate::fault::Fault;
use crate::stage::{Stage, TOPIC};
use crate::watch::Recovery;

const PARTITIONS_MAX: i32 = 12;
const DAEMONS_MAX: usize = 5;
const CONSUMERS_MAX: usize = 3;
/// The campaign fails if the first commit, or the progress of every partition, comes later than this after the end of a fault.
pub(crate) const RECOVERY_DEADLINE: Duration = Duration::from_secs(180);
/// How long to wait for a COMMIT of one daemon; a daemon that owns no partition sends none.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);
const ALTERS: [&str; 4] = [
    "ALTER TABLE rides ADD COLUMN IF NOT EXISTS note text",
    "ALTER TABLE rides ALTER COLUMN reading TYPE real",
    "ALTER TABLE rides DROP COLUMN IF EXISTS note",
    "ALTER TABLE rides ALTER COLUMN reading TYPE float8",
];
/// How many times this module tries a statement of its own. Postgres may choose the statement as the victim of a deadlock with
/// the daemons.
const TRIES: u32 = 20;

impl Stage {
    /// Injects a fault. Returns the time at which the fault was over.
    pub(crate) async fn strike(&mut self, fault: &Fault) -> Result<Instant> {
        match fault {
            Fault::KillDaemon { daemon } => {
                let index = self.pick(*daemon);
                self.members[index].daemon.kill()?;
                self.remove(index);
                self.add_daemon(self.cast.consumers)?;
            }
            Fault::EndDaemon { daemon } => {
                self.end(self.pick(*daemon))?;
                self.add_daemon(self.cast.consumers)?;
            }
            Fault::StopDaemon { daemon, length } => {
                let stopped = &self.members[self.pick(*daemon)].daemon;
                stopped.pause()?;
                sleep(*length).await;
                stopped.resume()?;
            }
            Fault::ChangeDaemons { daemon } => {
                if self.members.len() >= DAEMONS_MAX || (self.members.len() > 1 && daemon % 2 == 0) {
                    self.end(self.pick(*daemon))?;
                } else {
                    self.add_daemon(1 + daemon % CONSUMERS_MAX)?;
                }
            }
            Fault::TerminateBackend => {
                self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidegate%' ORDER BY random() LIMIT 1").await?;
            }
            Fault::CancelBackends => {
                self.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidegate%'")
                    .await?;
            }
            Fault::CrashDatabase => {
                self.postgres.kill()?;
                self.postgres.start_again()?;
            }
            Fault::RestartDatabase => self.postgres.restart()?,
            Fault::PauseDatabase { length } => {
                self.postgres.pause()?;
                sleep(*length).await;
                self.postgres.resume()?;
            }
            Fault::RestoreDatabase => {
                self.postgres.stop()?;
                // Restore the older copy, and keep the present state for the next restore.
                let old = self.copy().with_extension("old");
                std::fs::rename(self.copy(), &old)?;
                self.copy_database()?;
                self.postgres.restore_data_dir_from(&old)?;
                std::fs::remove_dir_all(&old)?;
                self.postgres.start_again()?;
            }
            Fault::CrashBroker { broker } => {
                self.kafka.kill(*broker)?;
                self.kafka.start_again(*broker)?;
            }
            Fault::PauseBroker { broker, length } => {
                self.kafka.pause(*broker)?;
                sleep(*length).await;
                self.kafka.resume(*broker)?;
            }
            Fault::CutDatabase => self.members.iter().for_each(|member| member.network.cut()),
            Fault::CutOne { daemon } => self.members[self.pick(*daemon)].network.cut(),
            Fault::HoldDatabase { length } => {
                let networks: Vec<&Proxy> = self.members.iter().map(|member| &member.network).collect();
                hold(&networks, *length).await;
            }
            Fault::HoldOne { daemon, length } => {
                hold(&[&self.members[self.pick(*daemon)].network], *length).await;
            }
            Fault::LoseCommitReply { daemon } => {
                let trigger = Trigger::BackendCommandComplete("COMMIT".to_owned());
                self.lose(*daemon, &trigger, Action::DropReplyAndCut).await?;
            }
            Fault::LoseCommit { daemon } => {
                let trigger = Trigger::FrontendQueryContains("COMMIT".to_owned());
                self.lose(*daemon, &trigger, Action::Cut).await?;
            }
            Fault::CutBroker { broker } => self.brokers[*broker].cut(),
            Fault::HoldBroker { broker, length } => hold(&[&self.brokers[*broker]], *length).await,
            Fault::AddPartition => {
                if self.partitions < PARTITIONS_MAX {
                    self.partitions += 1;
                    self.kafka.add_partitions(TOPIC, self.partitions)?;
                }
            }
            Fault::AlterTable { step } => self.sql(ALTERS[*step]).await?,
            Fault::LockTable { length } => self.lock("LOCK TABLE rides IN ACCESS EXCLUSIVE MODE", *length).await?,
            Fault::LockLedger { length } => {
                let sql = "SELECT FROM tidegate.ledger ORDER BY pipeline, topic, partition FOR UPDATE";
                self.lock(sql, *length).await?;
            }
        }
        Ok(Instant::now())
    }

    fn pick(&self, daemon: usize) -> usize {
        daemon % self.members.len()
    }

    /// Makes the proxy lose a COMMIT or its reply. Tries one daemon after another, from index `daemon` on, until one sends a
    /// COMMIT.
    async fn lose(&self, daemon: usize, trigger: &Trigger, action: Action) -> Result<()> {
        let started = Instant::now();
        for index in daemon.. {
            let armed = self.members[self.pick(index)].network.arm(trigger.clone(), action);
            let fired = armed.fired(COMMIT_WITHIN).await;
            armed.disarm();
            if fired.is_ok() {
                break;
            }
            if started.elapsed() > RECOVERY_DEADLINE {
                bail!("nobody sends a COMMIT\n{}", self.log_tails());
            }
        }
        Ok(())
    }

    async fn lock(&self, sql: &str, length: Duration) -> Result<()> {
        for _ in 0..TRIES {
            let mut connection = self.connect().await?;
            connection.execute("BEGIN").await?;
            if connection.execute(sql).await.is_ok() {
                sleep(length).await;
                connection.execute("COMMIT").await?;
                return Ok(());
            }
        }
        bail!("the lock was not to be had: {sql}")
    }

    async fn sql(&self, sql: &str) -> Result<()> {
        let mut last = None;
        for _ in 0..TRIES {
            let mut connection: PgConnection = self.connect().await?;
            match timeout(RECOVERY_DEADLINE, connection.execute(sql)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = Some(error),
                Err(_) => bail!("no answer within {RECOVERY_DEADLINE:?}: {sql}"),
            }
        }
        Err(last.context("no try at all")?).with_context(|| sql.to_owned())
    }

    /// Waits for the first commit after `over`, the end of a fault, and returns the time between the two. If no commit comes
    /// within [`RECOVERY_DEADLINE`], the error contains the daemons' last log lines.
    pub(crate) async fn await_first_commit(&self, over: Instant) -> Result<Duration> {
        loop {
            if let Some(at) = self.watch.first_move(over) {
                return Ok(at - over);
            }
            self.check_daemons()?;
            if over.elapsed() > RECOVERY_DEADLINE {
                bail!("no commit for {RECOVERY_DEADLINE:?} after the fault was over\n{}", self.log_tails());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the first commit after `over`, the end of a fault. Then waits until every partition has made progress, but gives
    /// up when `patience` has passed since `over`. The flag in the result is false if it gave up. If there is no commit within
    /// [`RECOVERY_DEADLINE`], returns an error.
    pub(crate) async fn recover(&self, over: Instant, patience: Duration) -> Result<(Recovery, bool)> {
        let first = self.await_first_commit(over).await?;
        while !self.watch.all_moved(over) {
            if over.elapsed() > patience {
                return Ok((Recovery { first, all: over.elapsed() }, false));
            }
            self.check_daemons()?;
            sleep(Duration::from_millis(10)).await;
        }
        Ok((Recovery { first, all: over.elapsed() }, true))
    }
}

async fn hold(networks: &[&Proxy], length: Duration) {
    networks.iter().for_each(|proxy| proxy.hold(true));
    sleep(length).await;
    networks.iter().for_each(|proxy| proxy.hold(false));
}
