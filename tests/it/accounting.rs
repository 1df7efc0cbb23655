//! Record accounting for the fault tests: checks that every record is in the table exactly once. This module also
//! has settings that shorten the fault tests.

use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Record, eventually_async};

use crate::support::{PATIENCE, World};

pub(crate) const NUMBERED: &str = "CREATE TABLE rides (seq bigint, name text)";

/// Short deadlines for tests. As the configuration requires, `lock_timeout` < `statement_timeout` < `write_timeout`. Only
/// `idle_in_transaction_timeout` is longer than its default, because a test may delay a transaction.
pub(crate) const SHORT_DEADLINES: &str = "connect_timeout = \"2s\"\nlock_timeout = \"2s\"\nstatement_timeout = \"3s\"\n\
     write_timeout = \"4s\"\nidle_in_transaction_timeout = \"60s\"";

/// Returns record number `n` for [`NUMBERED`]. Consecutive numbers go to the partitions in turn.
pub(crate) fn numbered(n: i32, partitions: i32) -> Record {
    Record::new(format!(r#"{{"seq":{n},"name":"vehicle {n}"}}"#)).to(n % partitions)
}

pub(crate) fn with_postgres(config: &str, lines: &str) -> String {
    config.replacen("[http]", &format!("{lines}\n[http]"), 1)
}

pub(crate) fn with_limits(config: &str, lines: &str) -> String {
    config.replacen("[http]", &format!("[limits]\n{lines}\n[http]"), 1)
}

/// Lets Kafka remove a member from the group after one second without a heartbeat.
pub(crate) fn with_short_sessions(config: &str) -> String {
    let lines = "[kafka.properties]\n\"session.timeout.ms\" = 1000\n\"heartbeat.interval.ms\" = 200\n";
    config.replacen("[postgres]", &format!("{lines}[postgres]"), 1)
}

/// Returns the value of a daemon's metric, or 0 if the daemon has no such metric yet.
pub(crate) fn counted(daemon: &Daemon, name: &str) -> f64 {
    daemon.metric(name, &[]).unwrap_or(0.0)
}

pub(crate) fn await_metric(daemon: &Daemon, name: &str, least: f64) {
    let what = format!("{name} reaches {least}");
    daemon.await_until(&what, PATIENCE, |daemon| counted(daemon, name) >= least).expect("the metric moves");
}

impl World {
    pub(crate) fn produce_numbered(&self, range: std::ops::Range<i32>, partitions: i32) {
        self.produce(range.map(|n| numbered(n, partitions)));
    }

    /// Returns the sum of the ledger's offsets over all partitions, or 0 if the daemon has not created the ledger yet.
    pub(crate) async fn ledger(&self) -> i64 {
        let made = "SELECT (to_regclass('tidegate.ledger') IS NOT NULL)::int::int8";
        if self.number(made).await == 0 {
            return 0;
        }
        let sum = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger WHERE pipeline = ";
        self.number(&format!("{sum}'{}'", self.name)).await
    }

    /// Waits until the ledger has reached the end of each partition's log. After [`PATIENCE`], panics with the end of the
    /// daemon's log.
    pub(crate) async fn await_written(&self, daemon: &Daemon) {
        let end: i64 = self.kafka.end_offsets(&self.topic).expect("Kafka tells its ends").into_iter().sum();
        self.await_ledger(daemon, end).await;
    }

    pub(crate) async fn await_ledger(&self, daemon: &Daemon, at: i64) {
        let reached = eventually_async("the ledger moves on", PATIENCE, async || self.ledger().await >= at).await;
        if let Err(error) = reached {
            panic!("{error:#}: at {} of {at}; {}", self.ledger().await, daemon.log_tail());
        }
    }

    /// Waits until the ledger advances. Panics after `limit`. Returns how long that took.
    pub(crate) async fn await_next_commit(&self, daemon: &Daemon, limit: Duration) -> Duration {
        let (started, at) = (Instant::now(), self.ledger().await);
        let moved = eventually_async("a next commit", limit, async || self.ledger().await > at).await;
        if let Err(error) = moved {
            panic!("{error:#}: still at {at}; {}", daemon.log_tail());
        }
        started.elapsed()
    }

    /// Checks that each of the numbered records `0..n` is in the table exactly once, that the ledger is at the end of the logs,
    /// and that there is no dead letter.
    pub(crate) async fn assert_exact(&self, n: i64) {
        let rows = self.number("SELECT count(*) FROM rides").await;
        let distinct = self.number("SELECT count(DISTINCT seq) FROM rides").await;
        let range = self.number("SELECT coalesce(max(seq), -1) - coalesce(min(seq), 0) + 1 FROM rides").await;
        assert_eq!((rows, distinct, range), (n, n, n), "rows, distinct numbers, their range");
        assert_eq!(self.number("SELECT count(*) FROM rides WHERE name IS DISTINCT FROM 'vehicle ' || seq").await, 0);
        assert_eq!(self.number("SELECT count(*) FROM tidegate.dead_letter").await, 0, "dead letters");
        let ends = self.kafka.end_offsets(&self.topic).expect("Kafka tells its ends");
        for (partition, end) in ends.into_iter().enumerate() {
            let sql = "SELECT next_offset FROM tidegate.ledger WHERE partition = ";
            assert_eq!(self.number(&format!("{sql}{partition}")).await, end, "the ledger of partition {partition}");
        }
    }
}
