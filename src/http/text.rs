//! The page's regions as plain text, from the document of `/api/status`: for `tidegate status`, and for who runs no script.

mod board;
mod flood;

use std::fmt::Write as _;

use serde_json::Value;

use super::words::{duration, records, whole, whole_number};

/// Events shown.
const EVENTS: usize = 20;

/// The seconds of the flood that are drawn.
pub(crate) const FLOOD_SECONDS: usize = 60;

/// All of it. `history` answers for a pipeline as `/api/history` does, where it can.
pub(crate) fn render(status: &Value, history: impl Fn(&str) -> Option<Value>) -> String {
    let mut text = String::new();
    let now_ms = status["now_ms"].as_i64().unwrap_or_default();
    let others = list(&status["instances"]).len();
    line(
        &mut text,
        &format!(
            "tidegate {} · {} · {} instance{} · {} UTC",
            word(&status["tidegate"]),
            word(&status["instance"]),
            others + 1,
            if others == 0 { "" } else { "s" },
            clock(now_ms)
        ),
    );
    heading(&mut text, "STATE");
    for sentence in list(&status["sentences"]) {
        let sign = match word(&sentence["level"]) {
            "bad" => "■",
            "warning" => "▲",
            "passing" => "·",
            _ => "✓",
        };
        line(&mut text, &format!("{sign} {}", word(&sentence["text"])));
    }
    heading(&mut text, "PIPELINES");
    pipelines(&mut text, list(&status["pipelines"]));
    for pipeline in list(&status["pipelines"]) {
        one(&mut text, pipeline, now_ms, history(word(&pipeline["name"])).as_ref());
    }
    let memory = &status["memory"];
    let mib = |value: &Value| value.as_u64().map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string());
    heading(&mut text, "MEMORY");
    line(
        &mut text,
        &format!(
            "{} of {} MiB, {} MiB of it in open batches",
            mib(&memory["resident_bytes"]),
            mib(&memory["limit_bytes"]),
            mib(&memory["buffered_bytes"])
        ),
    );
    heading(&mut text, "TIMELINE");
    let events = list(&status["timeline"]);
    if events.is_empty() {
        line(&mut text, "nothing yet");
    }
    for event in events.iter().rev().take(EVENTS) {
        let at = clock(event["at_ms"].as_i64().unwrap_or_default());
        let pipeline = event["pipeline"].as_str().map(|name| format!("{name}: ")).unwrap_or_default();
        line(&mut text, &format!("{at}  {:<10} {pipeline}{}", word(&event["kind"]), word(&event["text"])));
    }
    text
}

fn pipelines(text: &mut String, pipelines: &[Value]) {
    let head =
        ["pipeline", "table", "in/s", "out/s", "oldest", "empty in", "headroom", "dead", "state"].map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(head)
        .chain(pipelines.iter().map(|p| {
            [
                word(&p["name"]).to_owned(),
                format!("{} ({})", word(&p["table"]), word(&p["mode"])),
                rate(&p["into_per_second"]),
                rate(&p["out_per_second"]),
                if p["lag_records"].as_u64() == Some(0) { "-".to_owned() } else { time(&p["lag_seconds"]) },
                time(&p["empty_in_seconds"]),
                time(&p["retention_headroom_seconds"]),
                whole_number(p["dead_letters"].as_u64().unwrap_or_default()),
                word(&p["state_words"]).to_owned(),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..9).map(width).collect();
    for row in &rows {
        let mut cells = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            // Numbers to the right, words to the left.
            let cell = if (2..8).contains(&column) { format!("{pad}{cell}  ") } else { format!("{cell}{pad}  ") };
            cells.push_str(&cell);
        }
        line(text, cells.trim_end());
    }
}

fn one(text: &mut String, pipeline: &Value, now_ms: i64, history: Option<&Value>) {
    let partitions = list(&pipeline["partitions"]);
    heading(
        text,
        &format!(
            "{} · {}, {} partition{} · group {} · {}",
            word(&pipeline["name"]),
            list(&pipeline["topics"]).iter().map(word).collect::<Vec<_>>().join(" "),
            partitions.len(),
            if partitions.len() == 1 { "" } else { "s" },
            word(&pipeline["group"]),
            match word(&pipeline["protocol"]) {
                "cooperative" => "cooperative-sticky",
                other => other,
            },
        ),
    );
    let lag = pipeline["lag_records"].as_u64().unwrap_or_default();
    let flow = pipeline["flow_limit_per_second"]
        .as_u64()
        .map(|limit| format!(", limit {}/s", whole_number(limit)))
        .unwrap_or_default();
    line(
        text,
        &format!(
            "flood:   {}/s into Kafka, {}/s into Postgres (best minute {}/s{flow}); backlog {}{}",
            rate(&pipeline["into_per_second"]),
            rate(&pipeline["out_per_second"]),
            rate(&pipeline["best_per_second"]),
            records(lag),
            if lag == 0 { String::new() } else { format!(", the oldest waits {}", time(&pipeline["lag_seconds"])) }
        ),
    );
    history.into_iter().flat_map(flood::draw).for_each(|drawn| line(text, &drawn));
    line(
        text,
        &match pipeline["retention_headroom_seconds"].as_f64() {
            Some(left) => format!("         Kafka deletes the oldest unwritten in {}", duration(left)),
            None => "         no age is known at which Kafka deletes".to_owned(),
        },
    );
    let seats = &pipeline["board"];
    line(text, &format!("readers: {}", word(&seats["rule"])));
    for column in list(&seats["columns"]) {
        let this = match column["url"].as_str() {
            _ if column["this"] == true => " (this daemon)".to_owned(),
            Some(url) => format!(" ({url})"),
            None => String::new(),
        };
        for seat in list(&column["consumers"]) {
            line(
                text,
                &format!(
                    "         {}/c{}{this}: {}",
                    word(&column["instance"]),
                    seat["consumer"],
                    board::chips(pipeline, &seat["partitions"])
                ),
            );
        }
    }
    if !list(&seats["nobody"]).is_empty() {
        line(text, &format!("         nobody: {}", board::unread(pipeline, &seats["nobody"])));
    }
    let worst = board::behind(partitions);
    if !worst.is_empty() {
        line(text, &format!("         behind the most: {}", worst.join(", ")));
    }
    for consumer in list(&pipeline["consumers"]) {
        let percent = |phase: &str| whole(consumer["time"][phase].as_f64().unwrap_or_default() * 100.0);
        line(
            text,
            &format!(
                "time:    c{} waits for Kafka {} %, decodes {} %, held {} % | its writer: COPY {} %, commit {} %, outage {} %",
                consumer["consumer"],
                percent("poll"),
                percent("decode"),
                percent("held"),
                percent("copy"),
                percent("commit"),
                percent("outage")
            ),
        );
    }
    if let Some(limit) = pipeline["limit"].as_str() {
        line(text, &format!("         {limit}"));
    }
    let batches = &pipeline["batches"];
    let closed: Vec<String> =
        batches["by_trigger"].as_object().into_iter().flatten().map(|(trigger, n)| format!("{trigger} {n}")).collect();
    if !closed.is_empty() {
        line(
            text,
            &format!(
                "batches: closed by {}; median {} rows, {} kB; written in {} ms p50, {} ms p99",
                closed.join(", "),
                batches["rows_median"],
                batches["bytes_median"].as_u64().unwrap_or_default() / 1000,
                batches["write_p50_ms"],
                batches["write_p99_ms"]
            ),
        );
    }
    for dead in list(&pipeline["dead"]) {
        let place = &dead["newest"][0];
        let ago = now_ms - place["at_ms"].as_i64().unwrap_or(now_ms);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run are far below 2^53")]
        let ago = duration(ago as f64 / 1000.0);
        line(
            text,
            &format!(
                "dead:    {} × {}, the newest {}/{}@{} {ago} ago",
                dead["count"],
                word(&dead["reason"]),
                word(&place["topic"]),
                place["partition"],
                place["offset"]
            ),
        );
    }
    if !list(&pipeline["dead"]).is_empty() {
        line(
            text,
            &format!("         tidegate dead-letters list --config FILE --pipeline {}", word(&pipeline["name"])),
        );
    }
}

fn heading(text: &mut String, heading: &str) {
    line(text, "");
    line(text, heading);
}

/// Names may hold anything; a control character could play with a terminal.
fn line(text: &mut String, line: &str) {
    let plain: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    // Writing to a String can't fail.
    let _infallible = writeln!(text, "{plain}");
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), whole)
}

fn time(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), duration)
}

/// `10:42:07`
fn clock(at_ms: i64) -> String {
    let second = at_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(name: &str) -> Value {
        json!({"version": 1, "instance": "tg-0", "tidegate": "0", "now_ms": 38_527_000,
            "sentences": [{"level": "well", "text": "Everything flows."}],
            "pipelines": [{"name": name, "table": "public.rides", "mode": "append", "topics": ["telemetry"], "group": "rides",
                "into_per_second": 5012.0, "out_per_second": null, "lag_records": 5, "lag_seconds": 0.4, "dead_letters": 0,
                "retention_headroom_seconds": 255_600.0, "protocol": "cooperative", "state_words": "flowing",
                "dead": [{"reason": "invalid_json", "count": 2,
                    "newest": [{"topic": "telemetry", "partition": 1, "offset": 7, "at_ms": 38_524_000}]}],
                "partitions": [{"partition": 0, "sign": "flowing"},
                    {"topic": "telemetry", "partition": 1, "sign": "fenced", "lag_records": 5, "lag_seconds": 0.4}],
                "board": {"rule": "2 partitions, 2 consumers: idle", "nobody": [],
                    "columns": [{"instance": "tg-0", "this": true, "consumers": [{"consumer": 0, "partitions": [0, 1]}, {"consumer": 1, "partitions": []}]}]}}]})
    }

    #[test]
    fn every_region_is_there_in_words() {
        let history = json!({"into": [10.0, 80.0, null], "out": [10.0, 40.0, 40.0]});
        let text = render(&status("rides"), |name| (name == "rides").then(|| history.clone()));
        for part in [
            "1 instance ·",
            "rides · telemetry, 2 partitions · group rides · cooperative",
            "backlog 5 records, the oldest waits 0.4 s",
            "into Kafka    ▁█   the last 3 s, up to 80/s",
            "into Postgres ▁▄▄",
            "Kafka deletes the oldest unwritten in 71 h",
            "behind the most: telemetry/1 5 (0.4 s)",
            "2 × invalid_json, the newest telemetry/1@7 3.0 s ago",
            "tidegate dead-letters list --config FILE --pipeline rides",
            "10:42:07 UTC",
            "✓ Everything flows.",
            "5012",
            "tg-0/c0 (this daemon): 0 1(fenced)",
            "tg-0/c1 (this daemon): idle",
            "TIMELINE\nnothing yet",
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
        assert!(render(&json!({}), |_| None).contains("STATE"));
    }
}
