//! What every fault test asks in the end: is each record there, and there once? And the settings that make faults quick.

use std::time::{Duration, Instant};

use tidegate_harness::{Daemon, Record, eventually_async};

use crate::support::{PATIENCE, World};

/// The table of numbered records.
pub(crate) const NUMBERED: &str = "CREATE TABLE rides (seq bigint, name text)";

/// Deadlines of a test: in the same order as the defaults, and short.
pub(crate) const SHORT_DEADLINES: &str = "connect_timeout = \"2s\"\nlock_timeout = \"2s\"\nstatement_timeout = \"3s\"\n\
     write_timeout = \"4s\"\nidle_in_transaction_timeout = \"60s\"";

/// Record number `n`, evenly over the partitions.
pub(crate) fn numbered(n: i32, partitions: i32) -> Record {
    Record::new(format!(r#"{{"seq":{n},"name":"vehicle {n}"}}"#)).to(n % partitions)
}

/// Lines for `[postgres]` of a configuration.
pub(crate) fn with_postgres(config: &str, lines: &str) -> String {
    config.replacen("[http]", &format!("{lines}\n[http]"), 1)
}

/// Lines for `[limits]` of a configuration.
pub(crate) fn with_limits(config: &str, lines: &str) -> String {
    config.replacen("[http]", &format!("[limits]\n{lines}\n[http]"), 1)
}

/// A group that notices a dead or stopped member after a second.
pub(crate) fn with_short_sessions(config: &str) -> String {
    let lines = "[kafka.properties]\n\"session.timeout.ms\" = 1000\n\"heartbeat.interval.ms\" = 200\n";
    config.replacen("[postgres]", &format!("{lines}[postgres]"), 1)
}

/// A metric of a daemon, 0 where it isn't shown yet.
pub(crate) fn counted(daemon: &Daemon, name: &str) -> f64 {
    daemon.metric(name, &[]).unwrap_or(0.0)
}

/// Waits until a metric has reached a value.
pub(crate) fn await_metric(daemon: &Daemon, name: &str, least: f64) {
    let what = format!("{name} reaches {least}");
    daemon.await_until(&what, PATIENCE, |daemon| counted(daemon, name) >= least).expect("the metric moves");
}

impl World {
    /// Produces records `range`, numbered, into so many partitions.
    pub(crate) fn produce_numbered(&self, range: std::ops::Range<i32>, partitions: i32) {
        self.produce(range.map(|n| numbered(n, partitions)));
    }

    /// Where the ledger stands, over all partitions; 0 before there is one.
    pub(crate) async fn ledger(&self) -> i64 {
        // The daemon may not have made the table yet.
        let made = "SELECT (to_regclass('tidegate.ledger') IS NOT NULL)::int::int8";
        if self.number(made).await == 0 {
            return 0;
        }
        let sum = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger WHERE pipeline = ";
        self.number(&format!("{sum}'{}'", self.name)).await
    }

    /// Waits until the ledger has reached the logs' ends. `daemon` is shown where it doesn't.
    pub(crate) async fn await_written(&self, daemon: &Daemon) {
        let end: i64 = self.kafka.end_offsets(&self.topic).expect("Kafka tells its ends").into_iter().sum();
        self.await_ledger(daemon, end).await;
    }

    /// Waits until the ledger has reached `at`.
    pub(crate) async fn await_ledger(&self, daemon: &Daemon, at: i64) {
        let reached = eventually_async("the ledger moves on", PATIENCE, async || self.ledger().await >= at).await;
        if let Err(error) = reached {
            panic!("{error:#}: at {} of {at}; {}", self.ledger().await, daemon.log_tail());
        }
    }

    /// Waits for the next commit, for at most so long; how long it took.
    pub(crate) async fn await_next_commit(&self, daemon: &Daemon, limit: Duration) -> Duration {
        let (started, at) = (Instant::now(), self.ledger().await);
        let moved = eventually_async("a next commit", limit, async || self.ledger().await > at).await;
        if let Err(error) = moved {
            panic!("{error:#}: still at {at}; {}", daemon.log_tail());
        }
        started.elapsed()
    }

    /// Numbered records `0..n` are in the table, each once; the ledger stands where the logs end; no dead letter.
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
