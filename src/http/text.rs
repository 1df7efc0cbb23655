//! Renders the document of `/api/status` as plain text: for `tidegate status`, and for browsers without scripts.

mod board;
mod flood;

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use super::document::{PipelineView, Status};
use super::history::Columns;
use super::words::{Level, duration, records, whole, whole_number};
use crate::config::GroupProtocol;

const EVENTS: usize = 20;
/// The width of the labels, in characters.
const LABEL: usize = 14;

/// The number of seconds for which the rates are drawn.
pub(crate) const FLOOD_SECONDS: usize = 60;

/// Renders the whole document. `history` returns what `/api/history` returns for a pipeline; `None` if that isn't available.
pub(crate) fn render(status: &Status, history: impl Fn(&str) -> Option<Columns>) -> String {
    let mut text = String::new();
    let others = status.instances.len();
    line(
        &mut text,
        &format!(
            "tidegate {} · {} · {} instance{} · {} UTC",
            status.tidegate,
            status.instance,
            others + 1,
            if others == 0 { "" } else { "s" },
            clock(status.now_ms)
        ),
    );
    heading(&mut text, "STATE");
    for sentence in &status.sentences {
        let sign = match sentence.level {
            Level::Bad => "■",
            Level::Warning => "▲",
            Level::Passing => "·",
            Level::Well => "✓",
        };
        line(&mut text, &format!("{sign} {}", sentence.text));
        if let Some(section) = &sentence.runbook {
            line(&mut text, &format!("  → {}/runbook#{section}", status.url));
        }
    }
    heading(&mut text, "PIPELINES");
    pipelines(&mut text, &status.pipelines, status.now_ms);
    for pipeline in &status.pipelines {
        one(&mut text, pipeline, status.now_ms, history(&pipeline.name).as_ref());
    }
    let memory = &status.memory;
    let mib = |bytes: u64| bytes >> 20;
    let resident = memory.resident_bytes.map_or_else(|| "?".to_owned(), |bytes| mib(bytes).to_string());
    heading(&mut text, "MEMORY");
    line(
        &mut text,
        &format!(
            "{resident} of {} MiB are in use, {} MiB of them by open batches",
            mib(memory.limit_bytes),
            mib(memory.buffered_bytes)
        ),
    );
    heading(&mut text, "TIMELINE");
    if status.timeline.is_empty() {
        line(&mut text, "nothing yet");
    }
    for event in status.timeline.iter().rev().take(EVENTS) {
        let pipeline = event.pipeline.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let at = Timestamp::from_millisecond(event.at_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S");
        line(&mut text, &format!("{at}  {:<10} {pipeline}{}", event.kind, event.text));
    }
    text
}

/// Returns whether the lag was never read, or was read so long ago that it must not be shown as the current lag.
fn stale(pipeline: &PipelineView, now_ms: i64) -> bool {
    pipeline.lag_seen_ms.is_none_or(|at| now_ms - at > 10_000)
}

fn pipelines(text: &mut String, pipelines: &[PipelineView], now_ms: i64) {
    let head = [
        "pipeline",
        "table (mode)",
        "records in/s",
        "written/s",
        "oldest waits",
        "caught up in",
        "Kafka deletes in",
        "dead letters",
        "state",
    ]
    .map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(head)
        .chain(pipelines.iter().map(|p| {
            [
                p.name.clone(),
                format!("{} ({})", p.table, word(&p.mode)),
                rate(p.into_per_second),
                rate(p.out_per_second),
                if p.lag_records == 0 || stale(p, now_ms) { "-".to_owned() } else { duration(p.lag_seconds) },
                time(p.empty_in_seconds),
                match p.retention_headroom_seconds.filter(|_| !stale(p, now_ms)) {
                    None if p.retention_unlimited => "no limit".to_owned(),
                    left => time(left),
                },
                whole_number(p.dead_letters),
                p.state_words.to_string(),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..9).map(width).collect();
    for row in &rows {
        let mut cells = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            // Align numbers to the right, and words to the left.
            let cell = if (2..8).contains(&column) { format!("{pad}{cell}  ") } else { format!("{cell}{pad}  ") };
            cells.push_str(&cell);
        }
        line(text, cells.trim_end());
    }
}

fn one(text: &mut String, pipeline: &PipelineView, now_ms: i64, history: Option<&Columns>) {
    let partitions = pipeline.partitions.len();
    heading(
        text,
        &format!(
            "{} · {}, {partitions} partition{} · group {} · {}",
            pipeline.name,
            pipeline.topics.join(" "),
            if partitions == 1 { "" } else { "s" },
            pipeline.group,
            match pipeline.protocol {
                GroupProtocol::Cooperative => "cooperative-sticky",
                GroupProtocol::Eager => "eager",
                GroupProtocol::Consumer => "consumer",
            },
        ),
    );
    // The rate is 0 until a minute has ten samples.
    let best = (pipeline.best_per_second > 0.0).then(|| format!("best minute {}/s", whole(pipeline.best_per_second)));
    let flow = pipeline.flow_limit_per_second.map(|limit| format!("limit {}/s", whole_number(u64::from(limit))));
    let marks: Vec<_> = best.into_iter().chain(flow).collect();
    let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
    let stale = stale(pipeline, now_ms);
    let backlog = match (pipeline.lag_seen_ms, pipeline.lag_records) {
        (None, _) => "unknown".to_owned(),
        (Some(at), lag) if stale => format!("{}, as read at {}", records(lag), clock(at)),
        (Some(_), 0) => records(0),
        (Some(_), lag) => format!("{}, the oldest waits {}", records(lag), duration(pipeline.lag_seconds)),
    };
    line(
        text,
        &format!(
            "{}{}/s into Kafka, {}/s into Postgres{marks}; backlog {backlog}",
            label("rates:"),
            rate(pipeline.into_per_second),
            rate(pipeline.out_per_second),
        ),
    );
    history.into_iter().flat_map(flood::draw).for_each(|drawn| line(text, &drawn));
    line(
        text,
        &match pipeline.retention_headroom_seconds.filter(|_| !stale) {
            Some(left) => format!("{}Kafka deletes the oldest unwritten record in {}", label(""), duration(left)),
            None if pipeline.retention_unlimited => format!("{}Kafka keeps records without a limit", label("")),
            None => format!("{}it is unknown when Kafka deletes unwritten records", label("")),
        },
    );
    readers(text, pipeline, now_ms);
    times(text, pipeline);
    let batches = &pipeline.batches;
    let closed: Vec<String> =
        batches.by_trigger.iter().map(|(trigger, n)| format!("{n} by {}", cause(trigger))).collect();
    if !closed.is_empty() {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}"));
        line(
            text,
            &format!(
                "{}closed {}; median {} rows, {} kB; half of them were written within {} ms, 99 % within {} ms",
                label("batches:"),
                closed.join(", "),
                batches.rows_median.unwrap_or_default(),
                batches.bytes_median.unwrap_or_default() / 1000,
                ms(batches.write_p50_ms),
                ms(batches.write_p99_ms)
            ),
        );
    }
    for dead in &pipeline.dead {
        let newest = dead.newest.first().map(|place| {
            let ago = ago(now_ms, place.at_ms);
            format!(", the newest {}/{}@{} {ago} ago", place.topic, place.partition, place.offset)
        });
        let label = label("dead letters:");
        line(text, &format!("{label}{} × {}{}", dead.count, dead.reason, newest.unwrap_or_default()));
    }
    if !pipeline.dead.is_empty() {
        line(text, &format!("{}tidegate dead-letters list --config FILE --pipeline {}", label(""), pipeline.name));
    }
}

/// Writes which consumer reads which partitions, and which partitions have the most lag.
fn readers(text: &mut String, pipeline: &PipelineView, now_ms: i64) {
    let seats = &pipeline.board;
    line(text, &format!("{}{}", label("consumers:"), seats.rule));
    for column in &seats.columns {
        let this = match &column.url {
            _ if column.this => " (this daemon)".to_owned(),
            Some(url) => format!(" ({url})"),
            None => String::new(),
        };
        for seat in &column.consumers {
            let chips = board::chips(pipeline, seat);
            line(text, &format!("{}{}, consumer {}{this}: {chips}", label(""), column.instance, seat.consumer));
        }
    }
    if !seats.nobody.is_empty() {
        line(text, &format!("{}without a consumer: {}", label(""), board::unread(pipeline, &seats.nobody, now_ms)));
    }
    let worst = board::behind(&pipeline.partitions);
    if !worst.is_empty() {
        line(text, &format!("{}partitions with the most lag: {}", label(""), worst.join(", ")));
    }
}

/// Writes what the consumers spend their time on, and what limits the pipeline.
fn times(text: &mut String, pipeline: &PipelineView) {
    for consumer in &pipeline.consumers {
        let percent = |share: f64| whole(share * 100.0);
        let time = &consumer.time;
        line(
            text,
            &format!(
                "{}consumer {} waits for Kafka {} %, decodes {} %, is held back {} %; its writer copies {} %, commits {} %, waits for the end of an outage {} %",
                label("time:"),
                consumer.consumer,
                percent(time.poll),
                percent(time.decode),
                percent(time.held),
                percent(time.copy),
                percent(time.commit),
                percent(time.outage)
            ),
        );
    }
    if let Some(limit) = &pipeline.limit {
        line(text, &format!("{}{limit}", label("")));
    }
}

/// Returns what closed a batch, in words. `trigger` is a value of the label `trigger` of the metric `tidegate_batches_total`.
fn cause(trigger: &str) -> &str {
    match trigger {
        "rows" => "max_rows",
        "bytes" => "max_bytes",
        "age" => "max_age",
        "revoke" => "a rebalance",
        "shutdown" => "a shutdown",
        other => other,
    }
}

/// Returns the label of a line, padded so that the lines of a pipeline are aligned. A line that continues the one before has an
/// empty label.
fn label(label: &str) -> String {
    format!("{label:<LABEL$}")
}

fn heading(text: &mut String, heading: &str) {
    line(text, "");
    line(text, heading);
}

/// Writes a line. Control characters in names are replaced, because they could control a terminal.
fn line(text: &mut String, line: &str) {
    let plain: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    // Writing to a String can't fail.
    let _infallible = writeln!(text, "{plain}");
}

/// Returns the word by which the JSON document shows `value`, such as `insert_new` for a write mode.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("the value is a word in the document, not {other:?}"),
    }
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), whole)
}

fn ago(now_ms: i64, at_ms: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run are far below 2^53")]
    duration((now_ms - at_ms).max(0) as f64 / 1000.0)
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), duration)
}

/// Returns the time of day in UTC, such as `10:42:07`.
fn clock(at_ms: i64) -> String {
    let second = at_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(document: Value) -> T {
        serde_json::from_value(document).unwrap()
    }

    fn status(name: &str) -> Status {
        read(json!({"version": 1, "instance": "tg-0", "tidegate": "0", "now_ms": 38_527_000,
            "sentences": [{"level": "well", "text": "Everything flows."}],
            "pipelines": [{"name": name, "table": "public.rides", "mode": "append", "topics": ["telemetry"], "group": "rides",
                "into_per_second": 5012.0, "out_per_second": null, "lag_records": 5, "lag_seconds": 0.4, "dead_letters": 0,
                "retention_headroom_seconds": 255_600.0, "lag_seen_ms": 38_525_000, "protocol": "cooperative", "state_words": "flowing",
                "dead": [{"reason": "invalid_json", "count": 2,
                    "newest": [{"topic": "telemetry", "partition": 1, "offset": 7, "at_ms": 38_524_000}]}],
                "partitions": [{"partition": 0, "sign": "flowing"},
                    {"topic": "telemetry", "partition": 1, "sign": "fenced", "lag_records": 5, "lag_seconds": 0.4}],
                "board": {"rule": "2 partitions, 2 consumers: idle", "nobody": [],
                    "columns": [{"instance": "tg-0", "this": true, "consumers": [{"consumer": 0, "partitions": [0, 1]}, {"consumer": 1, "partitions": []}]}]}}]}))
    }

    #[test]
    fn every_region_is_there_in_words() {
        let history = json!({"into": [10.0, 80.0, null], "out": [10.0, 40.0, 40.0]});
        let text = render(&status("rides"), |name| (name == "rides").then(|| read(history.clone())));
        for part in [
            "1 instance ·",
            "rides · telemetry, 2 partitions · group rides · cooperative",
            "backlog 5 records, the oldest waits 0.4 s",
            "pipeline  table (mode)           records in/s  written/s  oldest waits  caught up in  Kafka deletes in  dead letters  state\n",
            "rates:        5012/s into Kafka, -/s into Postgres",
            "into Kafka    ▁█   the last 3 s, up to 80/s",
            "into Postgres ▁▄▄",
            "Kafka deletes the oldest unwritten record in 71 h",
            "consumers:    2 partitions, 2 consumers: idle",
            "partitions with the most lag: telemetry/1 5 records (the oldest waits 0.4 s)",
            "dead letters: 2 × invalid_json, the newest telemetry/1@7 3.0 s ago",
            "tidegate dead-letters list --config FILE --pipeline rides",
            "10:42:07 UTC",
            "✓ Everything flows.",
            "5012",
            "public.rides (append)",
            "tg-0, consumer 0 (this daemon): partitions 0, 1 (another instance has taken it over)",
            "tg-0, consumer 1 (this daemon): idle, because each partition has another consumer",
            "TIMELINE\nnothing yet",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }

    #[test]
    fn a_lag_that_was_read_long_ago_is_not_the_current_one() {
        let of = |seen: Option<i64>| {
            let mut status = status("rides");
            status.pipelines[0].lag_seen_ms = seen;
            render(&status, |_| None)
        };
        for (seen, backlog) in
            [(None, "backlog unknown\n"), (Some(38_515_000), "backlog 5 records, as read at 10:41:55\n")]
        {
            let text = of(seen);
            assert!(text.contains(backlog) && text.contains("it is unknown when Kafka deletes"), "{text}");
            assert!(!text.contains("71 h") && !text.contains("0.4 s  "), "{text}");
        }
    }

    #[test]
    fn an_unlimited_retention_and_the_last_owner_of_an_unread_partition_are_told() {
        let mut status = status("rides");
        let pipeline = &mut status.pipelines[0];
        (pipeline.retention_headroom_seconds, pipeline.retention_unlimited) = (None, true);
        pipeline.board.nobody = vec![0, 1];
        pipeline.partitions[1].owner = Some("tg-1/c0".to_owned());
        pipeline.partitions[1].unread_since_ms = Some(38_515_000);
        let text = render(&status, |_| None);
        for part in [
            "  no limit  ",
            "Kafka keeps records without a limit",
            "without a consumer: /0 (never read), telemetry/1 (last by tg-1/c0, 12 s ago)",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        let text = render(&status("a\u{1b}[2Jb"), |_| None);
        assert!(text.contains("a\u{fffd}[2Jb") && !text.contains('\u{1b}'));
    }

    #[test]
    fn a_document_without_its_fields_is_still_text() {
        assert!(render(&read(json!({})), |_| None).contains("STATE"));
    }
}
