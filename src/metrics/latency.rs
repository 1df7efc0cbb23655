//! The histogram of end-to-end latencies, in our own counters.
//!
//! The exporter's histogram takes one sample per call. One call per record would cost a few per cent of the daemon's CPU. Here
//! each bucket is incremented at most once per transaction.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{END_TO_END, SECONDS};
use crate::status::lock;

/// The latencies of one pipeline since the start of the process. Each is counted in whole milliseconds.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// The number of latencies per bucket. The last bucket is for latencies above every bound.
    counts: [AtomicU64; SECONDS.len() + 1],
    sum_ms: AtomicU64,
}

static ALL: Mutex<Vec<(Arc<str>, Arc<Latencies>)>> = Mutex::new(Vec::new());

impl Latencies {
    /// Returns the latencies of a pipeline, shared by all its writers.
    pub(super) fn of(pipeline: &Arc<str>) -> Arc<Self> {
        let mut all = lock(&ALL);
        if let Some((_, known)) = all.iter().find(|(name, _)| name == pipeline) {
            return Arc::clone(known);
        }
        let new = Arc::<Self>::default();
        all.push((Arc::clone(pipeline), Arc::clone(&new)));
        new
    }

    /// Counts records with these timestamps, in milliseconds since 1970, that were committed at `now_ms`.
    pub(super) fn count(&self, timestamps: impl Iterator<Item = i64>, now_ms: i64) {
        let mut counts = [0_u64; SECONDS.len() + 1];
        let mut sum_ms = 0_u64;
        // Consecutive records often have the same timestamp.
        let mut last = (now_ms, bucket_of(0), 0);
        for timestamp in timestamps {
            if timestamp != last.0 {
                // If the timestamp is in the future, the latency counts as 0.
                let ms = u64::try_from(now_ms.saturating_sub(timestamp)).unwrap_or(0);
                last = (timestamp, bucket_of(ms), ms);
            }
            counts[last.1] += 1;
            sum_ms = sum_ms.saturating_add(last.2);
        }
        for (bucket, count) in self.counts.iter().zip(counts).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum_ms.fetch_add(sum_ms, Ordering::Relaxed);
    }
}

fn bucket_of(ms: u64) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285 000 years")]
    let seconds = ms as f64 / 1000.0;
    SECONDS.partition_point(|bound| *bound < seconds)
}

/// Appends the histograms in Prometheus' text format.
pub(super) fn render(into: &mut String, help: &str) {
    let all = lock(&ALL);
    if all.is_empty() {
        return;
    }
    let text =
        all.iter().fold(format!("# HELP {END_TO_END} {help}\n# TYPE {END_TO_END} histogram\n"), |mut text, one| {
            let (pipeline, latencies) = one;
            let mut total = 0;
            let bounds = SECONDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(&latencies.counts) {
                total += count.load(Ordering::Relaxed);
                writeln!(text, "{END_TO_END}_bucket{{pipeline=\"{pipeline}\",le=\"{bound}\"}} {total}")
                    .expect("memory");
            }
            #[expect(clippy::cast_precision_loss, reason = "a sum is a float")]
            let sum = latencies.sum_ms.load(Ordering::Relaxed) as f64 / 1000.0;
            writeln!(text, "{END_TO_END}_sum{{pipeline=\"{pipeline}\"}} {sum}").expect("memory");
            write!(text, "{END_TO_END}_count{{pipeline=\"{pipeline}\"}} {total}\n\n").expect("memory");
            text
        });
    into.push_str(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_by_bucket_and_exported_as_a_histogram() {
        let pipeline: Arc<str> = "latency-test".into();
        let latencies = Latencies::of(&pipeline);
        assert!(Arc::ptr_eq(&latencies, &Latencies::of(&pipeline)), "writers of a pipeline share them");
        // The latencies are 0 ms, one of a timestamp in the future, 1 ms twice, 2 ms, 500 ms, and 20 minutes.
        latencies.count([10_000, 10_500, 9_999, 9_999, 9_998, 9_500, -1_190_000].into_iter(), 10_000);
        let mut text = String::new();
        render(&mut text, "help");
        for line in [
            "# TYPE tidegate_end_to_end_latency_seconds histogram",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"0.001\"} 4",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"0.0025\"} 5",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"0.35\"} 5",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"0.5\"} 6",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"600\"} 6",
            "tidegate_end_to_end_latency_seconds_bucket{pipeline=\"latency-test\",le=\"+Inf\"} 7",
            "tidegate_end_to_end_latency_seconds_sum{pipeline=\"latency-test\"} 1200.504",
            "tidegate_end_to_end_latency_seconds_count{pipeline=\"latency-test\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }
}
