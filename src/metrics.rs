//! All metrics: names, descriptions and handles. Names must not change, because dashboards and alerts use them. The
//! number of label values is bounded.

mod latency;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tidegate_protocol::batch::{Batch, Trigger};
use tidegate_protocol::partition::LossCondition;
use tidegate_protocol::position::TopicPartition;
use tidegate_protocol::store::WriteError;
use tidegate_rows::value::Reason;

use self::latency::Latencies;
use crate::status::{PipelineState, lock};

const RECORDS_CONSUMED: &str = "tidegate_records_consumed_total";
const ROWS_WRITTEN: &str = "tidegate_rows_written_total";
const DEAD_LETTERS: &str = "tidegate_dead_letters_total";
const FIELDS_MISSING: &str = "tidegate_fields_missing_total";
const LETTERS_OPEN: &str = "tidegate_dead_letters_open";
const LETTERS_OLDEST: &str = "tidegate_dead_letters_oldest_age_seconds";
const UNMATCHED: &str = "tidegate_deletes_without_row_total";
const PURGED: &str = "tidegate_dead_letters_purged_total";
const RECORDS_LOST: &str = "tidegate_records_lost_total";
const BATCHES: &str = "tidegate_batches_total";
const BATCH_ROWS: &str = "tidegate_batch_rows";
const BATCH_BYTES: &str = "tidegate_batch_bytes";
const WRITE_DURATION: &str = "tidegate_write_duration_seconds";
const END_TO_END: &str = "tidegate_end_to_end_latency_seconds";
const CYCLE: &str = "tidegate_cycle_seconds_total";
const RETRIES: &str = "tidegate_retries_total";
const FENCED: &str = "tidegate_fenced_total";
const COMMIT_UNKNOWN: &str = "tidegate_commit_unknown_total";
const REWINDS: &str = "tidegate_ledger_rewinds_total";
const REBALANCES: &str = "tidegate_rebalances_total";
const ASSIGNED: &str = "tidegate_assigned_partitions";
const PAUSED: &str = "tidegate_paused_partitions";
const BUFFERED: &str = "tidegate_buffered_bytes";
const MEMORY_LIMIT: &str = "tidegate_memory_limit_bytes";
const LAG_RECORDS: &str = "tidegate_lag_records";
const LAG_SECONDS: &str = "tidegate_lag_seconds";
const LAG_AGE: &str = "tidegate_lag_reading_age_seconds";
const THROTTLE: &str = "tidegate_kafka_throttle_seconds";
const HEADROOM: &str = "tidegate_retention_headroom_seconds";
const LOG_LOSS: &str = "tidegate_log_loss";
const PIPELINE_STATE: &str = "tidegate_pipeline_state";
const LAST_COMMIT: &str = "tidegate_last_commit_timestamp_seconds";
const FLOW_LIMIT: &str = "tidegate_flow_max_rows_per_second";
const BUILD_INFO: &str = "tidegate_build_info";
const RELOADS: &str = "tidegate_config_reloads_total";
const RELOAD_SUCCEEDED: &str = "tidegate_config_last_reload_successful";
/// The name by which Prometheus' own client libraries export the resident memory.
const RESIDENT: &str = "process_resident_memory_bytes";

/// The classes of errors whose series are registered in advance, as [`WriteError::sqlstate_class`] names them. Nearly all errors
/// that are retried as outages have one of these classes.
const RETRIED_CLASSES: [&str; 12] =
    ["connection", "deadline", "08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"];

/// Upper bounds of the buckets of the duration histograms, in seconds. The steps are smaller near the default of `batch.max_age`.
const SECONDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.5, 10.0, 60.0, 600.0];
const ROWS: [f64; 11] = [1.0, 10.0, 100.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5];
const BYTES: [f64; 9] = [1e3, 1e4, 1e5, 5e5, 1e6, 2e6, 4e6, 8e6, 3.2e7];

/// Installs the recorder of this process and describes its metrics.
///
/// # Errors
/// If a recorder is already installed.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(WRITE_DURATION.to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_ROWS.to_owned()), &ROWS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_BYTES.to_owned()), &BYTES)?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    Ok(handle)
}

fn describe() {
    use metrics::{describe_counter as c, describe_gauge as g, describe_histogram as h};
    c!(RECORDS_CONSUMED, "Records taken from Kafka");
    c!(ROWS_WRITTEN, "Rows committed to the target table");
    c!(DEAD_LETTERS, "Records stored in tidegate.dead_letter, by reason");
    c!(FIELDS_MISSING, "Rows whose record lacked the field of a column");
    g!(LETTERS_OPEN, "Dead letters in tidegate.dead_letter, counted up to 100000");
    g!(LETTERS_OLDEST, "Age of the oldest dead letter; 0 if there is none");
    c!(UNMATCHED, "Deletes whose key was neither in the table nor in the batch");
    c!(PURGED, "Dead letters deleted because of dead_letters.retention or max_size, by cause");
    c!(RECORDS_LOST, "Records that Kafka no longer had when they were to be read, by cause");
    c!(BATCHES, "Batches closed, by the limit that closed them");
    h!(BATCH_ROWS, "Rows in a batch");
    h!(BATCH_BYTES, "Bytes of a batch's encoded rows");
    h!(WRITE_DURATION, "Seconds from receiving a batch to its commit, waits for Postgres included");
    c!(CYCLE, "Seconds of a consumer's time, by phase");
    c!(RETRIES, "Transactions retried, by the class of the SQLSTATE");
    c!(
        FENCED,
        "Times that the records of a partition were dropped from a batch because another claim holds the partition"
    );
    c!(COMMIT_UNKNOWN, "COMMITs without a reply, whose outcome was read from the ledger");
    c!(
        REWINDS,
        "Times that the ledger was not at the offset that Tidegate last committed, and Tidegate resumed from the ledger"
    );
    c!(REBALANCES, "Assignments and revocations by the group");
    g!(ASSIGNED, "Partitions that a consumer owns");
    g!(PAUSED, "Partitions whose fetching is paused");
    g!(BUFFERED, "Bytes in open batches");
    g!(MEMORY_LIMIT, "The memory budget of the process, limits.memory");
    g!(LAG_RECORDS, "Records between the ledger and the log's end");
    g!(LAG_SECONDS, "Age of the oldest record that isn't written");
    g!(LAG_AGE, "Seconds since lag and headroom were read; their series are absent after 10 s without a reading");
    g!(THROTTLE, "The longest delay that a Kafka quota put on an answer in the last 2 s");
    g!(HEADROOM, "Seconds until Kafka deletes the oldest unwritten record");
    g!(LOG_LOSS, "1 while a partition's log can't be the one that the ledger describes, by cause; absent otherwise");
    g!(PIPELINE_STATE, "1 for the state that a pipeline is in");
    g!(LAST_COMMIT, "Unix time of the last commit");
    g!(FLOW_LIMIT, "The rate limit flow.max_rows_per_second; absent if none is set");
    g!(BUILD_INFO, "Always 1; the label version has the version");
    c!(RELOADS, "Reloads of the configuration (SIGHUP), by result");
    g!(
        RELOAD_SUCCEEDED,
        "1 if the last reload of the configuration was applied, or there was none; 0 if it was refused"
    );
    g!(RESIDENT, "Resident memory of the process, to compare with tidegate_memory_limit_bytes");
}

pub fn process(memory_limit: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!(MEMORY_LIMIT).set(memory_limit as f64);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[derive(Clone)]
pub struct WriterMetrics {
    pipeline: Arc<str>,
    rows: Counter,
    unmatched: Counter,
    batch_rows: Histogram,
    batch_bytes: Histogram,
    write: Histogram,
    end_to_end: Arc<Latencies>,
    fenced: Counter,
    unknown: Counter,
    rewinds: Counter,
    last_commit: Gauge,
    copy_seconds: Gauge,
    commit_seconds: Gauge,
}

impl std::fmt::Debug for WriterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriterMetrics({})", self.pipeline)
    }
}

impl WriterMetrics {
    pub fn new(pipeline: &Arc<str>) -> Self {
        let name = || Arc::clone(pipeline);
        Self {
            pipeline: name(),
            rows: counter!(ROWS_WRITTEN, "pipeline" => name()),
            unmatched: counter!(UNMATCHED, "pipeline" => name()),
            batch_rows: histogram!(BATCH_ROWS, "pipeline" => name()),
            batch_bytes: histogram!(BATCH_BYTES, "pipeline" => name()),
            write: histogram!(WRITE_DURATION, "pipeline" => name()),
            end_to_end: Latencies::of(pipeline),
            fenced: counter!(FENCED, "pipeline" => name()),
            unknown: counter!(COMMIT_UNKNOWN, "pipeline" => name()),
            rewinds: counter!(REWINDS, "pipeline" => name()),
            last_commit: gauge!(LAST_COMMIT, "pipeline" => name()),
            copy_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "copy"),
            commit_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "commit"),
        }
    }

    /// Counts a batch whose write has ended, whatever the outcome of its segments. `took` is the time since the writer received
    /// the batch.
    pub fn batch(&self, batch: &Batch, took: Duration) {
        if let Some(trigger) = batch.trigger() {
            counter!(BATCHES, "pipeline" => Arc::clone(&self.pipeline), "trigger" => trigger.label()).increment(1);
        }
        self.batch_rows.record(batch.row_count());
        #[expect(clippy::cast_precision_loss, reason = "a histogram is of floats")]
        self.batch_bytes.record(batch.row_bytes() as f64);
        self.write.record(took);
    }

    /// Counts a committed transaction: its rows, its dead letters, and the latency of each record in the batch's window `window`.
    /// `dead` has the reason of each dead letter.
    pub fn committed(&self, batch: &Batch, window: Range<u32>, rows: u64, dead: impl Iterator<Item = &'static str>) {
        self.rows.increment(rows);
        for reason in dead {
            counter!(DEAD_LETTERS, "pipeline" => Arc::clone(&self.pipeline), "reason" => reason).increment(1);
        }
        let now_ms = epoch_ms();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.last_commit.set(now_ms as f64 / 1000.0);
        self.end_to_end.count(batch.timestamps(window), now_ms);
    }

    /// Counts those deletes of a committed transaction whose key was neither in the table nor in the batch.
    pub fn unmatched(&self, deletes: u64) {
        self.unmatched.increment(deletes);
    }

    pub fn retried(&self, error: &WriteError) {
        counter!(RETRIES, "pipeline" => Arc::clone(&self.pipeline), "sqlstate_class" => error.sqlstate_class())
            .increment(1);
    }

    /// Adds the time that a transaction spent in copying and merging its rows, and the time that it spent in COMMIT.
    pub fn spent(&self, copy: Duration, commit: Duration) {
        self.copy_seconds.increment(copy.as_secs_f64());
        self.commit_seconds.increment(commit.as_secs_f64());
    }

    pub fn fenced(&self) {
        self.fenced.increment(1);
    }

    /// Counts a COMMIT that wasn't answered.
    pub fn commit_unknown(&self) {
        self.unknown.increment(1);
    }

    /// Counts a rewind: the ledger wasn't at the offset where Tidegate left it.
    pub fn rewound(&self) {
        self.rewinds.increment(1);
    }
}

#[derive(Clone)]
pub struct ConsumerMetrics {
    pipeline: Arc<str>,
    consumed: Counter,
    rebalances: Counter,
    assigned: Gauge,
    paused: Gauge,
    buffered: Gauge,
    poll_seconds: Gauge,
    decode_seconds: Gauge,
    paused_seconds: Gauge,
    flow_seconds: Gauge,
}

impl std::fmt::Debug for ConsumerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConsumerMetrics({})", self.pipeline)
    }
}

impl ConsumerMetrics {
    pub fn new(pipeline: &Arc<str>, consumer: u32) -> Self {
        let name = || Arc::clone(pipeline);
        let consumer = consumer.to_string();
        Self {
            pipeline: name(),
            consumed: counter!(RECORDS_CONSUMED, "pipeline" => name()),
            rebalances: counter!(REBALANCES, "pipeline" => name()),
            assigned: gauge!(ASSIGNED, "pipeline" => name(), "consumer" => consumer.clone()),
            paused: gauge!(PAUSED, "pipeline" => name(), "consumer" => consumer.clone()),
            buffered: gauge!(BUFFERED, "pipeline" => name(), "consumer" => consumer),
            poll_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "poll"),
            decode_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "decode"),
            paused_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "paused"),
            flow_seconds: gauge!(CYCLE, "pipeline" => name(), "phase" => "flow"),
        }
    }

    pub fn consumed(&self, records: u64) {
        self.consumed.increment(records);
    }

    /// Counts a revocation of partitions, or an assignment, in a rebalance of the group. An assignment may add no partition.
    pub fn rebalanced(&self) {
        self.rebalances.increment(1);
    }

    /// Sets how many partitions the consumer owns, how many of them are paused, and how many bytes its open batch has.
    pub fn holds(&self, assigned: usize, paused: usize, buffered: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let [assigned, paused, buffered] = [assigned as f64, paused as f64, buffered as f64];
        self.assigned.set(assigned);
        self.paused.set(paused);
        self.buffered.set(buffered);
    }

    /// Adds the time that the poll thread spent in each phase: waiting for Kafka (`poll`), decoding, waiting for the writer
    /// (`paused`), and waiting because of `flow.max_rows_per_second` or for a schema (`flow`).
    pub fn spent(&self, poll: Duration, decode: Duration, paused: Duration, flow: Duration) {
        self.poll_seconds.increment(poll.as_secs_f64());
        self.decode_seconds.increment(decode.as_secs_f64());
        self.paused_seconds.increment(paused.as_secs_f64());
        self.flow_seconds.increment(flow.as_secs_f64());
    }
}

/// Counts dead letters that were deleted because of `cause`: `age` or `size`.
pub fn purged(pipeline: &str, cause: &'static str, letters: u64) {
    counter!(PURGED, "pipeline" => pipeline.to_owned(), "cause" => cause).increment(letters);
}

/// Sets the gauge of `flow.max_rows_per_second`. Its series is absent if no limit is configured.
pub fn flow_limit(pipeline: &Arc<str>, rate: Option<std::num::NonZeroU32>) {
    let rate = rate.map_or(UNKNOWN, |rate| f64::from(rate.get()));
    gauge!(FLOW_LIMIT, "pipeline" => Arc::clone(pipeline)).set(rate);
}

/// Counts the records that are lost when a pipeline continues after a log-loss condition, as `on_offset_loss` says.
pub fn lost(pipeline: &Arc<str>, cause: &'static str, records: u64) {
    counter!(RECORDS_LOST, "pipeline" => Arc::clone(pipeline), "cause" => cause).increment(records);
}

/// Sets one partition's lag, in records and in seconds, and its headroom, in seconds. Values that are `None` are unknown, and
/// their series are absent.
pub fn lag(pipeline: &Arc<str>, source: &TopicPartition, lag: Option<(u64, f64)>, headroom: Option<f64>) {
    let labels = [
        ("pipeline", pipeline.to_string()),
        ("topic", source.topic.to_string()),
        ("partition", source.partition.to_string()),
    ];
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!(LAG_RECORDS, &labels).set(lag.map_or(UNKNOWN, |(records, _)| records as f64));
    gauge!(LAG_SECONDS, &labels).set(lag.map_or(UNKNOWN, |(_, seconds)| seconds));
    gauge!(HEADROOM, &labels).set(headroom.unwrap_or(UNKNOWN));
}

/// Sets the log-loss condition of a partition; `None` if it has none. The series of all other causes are absent.
pub fn log_loss(pipeline: &Arc<str>, source: &TopicPartition, condition: Option<&LossCondition>) {
    let current = condition.map(LossCondition::cause);
    for cause in LossCondition::CAUSES {
        let labels = [
            ("pipeline", pipeline.to_string()),
            ("topic", source.topic.to_string()),
            ("partition", source.partition.to_string()),
            ("cause", cause.to_owned()),
        ];
        gauge!(LOG_LOSS, &labels).set(if current == Some(cause) { 1.0 } else { UNKNOWN });
    }
}

/// Sets the age of the newest reading of lag and headroom; `None` before the first reading.
pub fn lag_age(pipeline: &Arc<str>, age: Option<Duration>) {
    gauge!(LAG_AGE, "pipeline" => Arc::clone(pipeline)).set(age.map_or(UNKNOWN, |age| age.as_secs_f64()));
}

pub fn throttled(pipeline: &Arc<str>, delay: Duration) {
    gauge!(THROTTLE, "pipeline" => Arc::clone(pipeline)).set(delay.as_secs_f64());
}

pub fn fields_missing(pipeline: &str, column: &str, rows: u64) {
    counter!(FIELDS_MISSING, "pipeline" => pipeline.to_owned(), "column" => column.to_owned()).increment(rows);
}

/// Sets the number of dead letters, counted up to 100,000, and the age of the oldest in seconds. Both are unknown if `stock` is
/// `None`.
pub fn dead_letter_stock(pipeline: &Arc<str>, stock: Option<(i64, f64)>) {
    #[expect(clippy::cast_precision_loss, reason = "a count below 100,001")]
    let (letters, oldest) = stock.map_or((UNKNOWN, UNKNOWN), |(letters, oldest)| (letters as f64, oldest));
    gauge!(LETTERS_OPEN, "pipeline" => Arc::clone(pipeline)).set(letters);
    gauge!(LETTERS_OLDEST, "pipeline" => Arc::clone(pipeline)).set(oldest);
}

pub fn pipeline_state(pipeline: &Arc<str>, current: PipelineState) {
    for state in PipelineState::ALL {
        let value = if state == current { 1.0 } else { 0.0 };
        gauge!(PIPELINE_STATE, "pipeline" => Arc::clone(pipeline), "state" => state.as_str()).set(value);
    }
}

pub fn reloaded(applied: bool) {
    counter!(RELOADS, "result" => if applied { "success" } else { "failure" }).increment(1);
}

/// Sets whether the last reload was applied; true at the start. Also registers the counters of reloads.
pub fn reload_succeeded(succeeded: bool) {
    for result in ["success", "failure"] {
        counter!(RELOADS, "result" => result).increment(0);
    }
    gauge!(RELOAD_SUCCEEDED).set(f64::from(u8::from(succeeded)));
}

/// Removed pipelines. Their series are no longer exported, because otherwise alerts on their last values would never end.
static FORGOTTEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub fn forget(pipeline: &str) {
    lock(&FORGOTTEN).insert(pipeline.to_owned());
}

pub fn remember(pipeline: &str) {
    lock(&FORGOTTEN).remove(pipeline);
}

pub fn epoch_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Registers a pipeline's series with the value 0, as far as their labels are known in advance. If a series appeared only with
/// its first event, a rate over it would miss that event.
pub fn touch(pipeline: &Arc<str>, consumers: u32) {
    drop(WriterMetrics::new(pipeline));
    for consumer in 0..consumers {
        drop(ConsumerMetrics::new(pipeline, consumer));
    }
    let touch = |name: &'static str, label: &'static str, value: &'static str| {
        counter!(name, "pipeline" => Arc::clone(pipeline), label => value).increment(0);
    };
    for trigger in [Trigger::Rows, Trigger::Bytes, Trigger::Age, Trigger::Revoke, Trigger::Shutdown] {
        touch(BATCHES, "trigger", trigger.label());
    }
    for reason in Reason::ALL {
        touch(DEAD_LETTERS, "reason", reason.code());
    }
    for cause in ["age", "size"] {
        touch(PURGED, "cause", cause);
    }
    for cause in LossCondition::CAUSES {
        touch(RECORDS_LOST, "cause", cause);
    }
    for class in RETRIED_CLASSES {
        touch(RETRIES, "sqlstate_class", class);
    }
}

/// The value of a gauge that isn't known. [`render`] leaves the gauge's series out, because the exporter can't remove a single
/// gauge.
const UNKNOWN: f64 = f64::NAN;

/// Returns the text of `/metrics`. The recorder's counters are whole numbers, so the seconds of `CYCLE` are kept in gauges. These
/// gauges only grow, and are exported as counters.
pub fn render(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    latency::render(&mut text, "Seconds from a record's timestamp to its commit");
    exported(&text, &lock(&FORGOTTEN))
}

/// Removes the samples whose value isn't known, and the series of removed pipelines. Declares the gauge `CYCLE` as a counter.
fn exported(text: &str, removed: &BTreeSet<String>) -> String {
    let labels: Vec<String> = removed.iter().map(|name| format!("pipeline=\"{name}\"")).collect();
    let (cycle, counter) = (format!("# TYPE {CYCLE} gauge"), format!("# TYPE {CYCLE} counter\n"));
    let mut exported = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.trim_end() == cycle {
            exported.push_str(&counter);
        } else if line.starts_with('#')
            || !line.trim_end().ends_with(" NaN") && !labels.iter().any(|label| line.contains(label))
        {
            exported.push_str(line);
        }
    }
    exported
}

/// Sets the gauge of the memory that the kernel counts for this process, to compare with `limits.memory`. Leaves it unchanged
/// if the kernel doesn't say.
pub fn memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        gauge!(RESIDENT).set(bytes);
    }
}

fn resident_bytes(status: &str) -> Option<f64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    kib.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_removed_pipeline_are_gone() {
        let text = "# TYPE a gauge\na{pipeline=\"x\"} 1\na{pipeline=\"xy\"} 2\nb 3\n";
        assert_eq!(exported(text, &BTreeSet::from(["x".to_owned()])), "# TYPE a gauge\na{pipeline=\"xy\"} 2\nb 3\n");
    }

    #[test]
    fn a_gauge_that_is_not_known_is_absent() {
        let text = "# TYPE lag gauge\nlag{p=\"0\"} NaN\nlag{p=\"1\"} 3\n\n";
        assert_eq!(exported(text, &BTreeSet::new()), "# TYPE lag gauge\nlag{p=\"1\"} 3\n\n");
    }

    #[test]
    fn resident_memory_is_read_from_the_kernel_s_words() {
        let status = "Name:\ttidegate\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t7\n";
        assert_eq!(resident_bytes(status), Some(10_485_760.0));
        assert_eq!(resident_bytes("Name:\ttidegate\n"), None);
    }
}
