//! The page's regions as plain text, from the document of `/api/status`: for `tidegate status`, and for who runs no script.

use std::fmt::Write as _;

use serde_json::Value;

use super::words::{duration, records, whole, whole_number};

/// Events shown.
const EVENTS: usize = 20;
/// Partitions named in a box; the others are counted.
const PARTITIONS: usize = 24;

/// All of it.
pub(crate) fn render(status: &Value) -> String {
    let mut text = String::new();
    let now_ms = status["now_ms"].as_i64().unwrap_or_default();
    line(
        &mut text,
        &format!("tidegate {} · {} · {} UTC", word(&status["tidegate"]), word(&status["instance"]), clock(now_ms)),
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
        one(&mut text, pipeline, now_ms);
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

fn one(text: &mut String, pipeline: &Value, now_ms: i64) {
    heading(
        text,
        &format!(
            "{} · {} · group {}",
            word(&pipeline["name"]),
            list(&pipeline["topics"]).iter().map(word).collect::<Vec<_>>().join(" "),
            word(&pipeline["group"])
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
            "flood:   {}/s into Kafka, {}/s into Postgres (best minute {}/s{flow}); backlog {}",
            rate(&pipeline["into_per_second"]),
            rate(&pipeline["out_per_second"]),
            rate(&pipeline["best_per_second"]),
            records(lag)
        ),
    );
    let board = &pipeline["board"];
    line(text, &format!("readers: {}", word(&board["rule"])));
    for column in list(&board["columns"]) {
        let this = if column["this"] == true { " (this daemon)" } else { "" };
        for seat in list(&column["consumers"]) {
            line(
                text,
                &format!(
                    "         {}/c{}{this}: {}",
                    word(&column["instance"]),
                    seat["consumer"],
                    chips(pipeline, &seat["partitions"])
                ),
            );
        }
    }
    if !list(&board["nobody"]).is_empty() {
        line(text, &format!("         nobody: {}", chips(pipeline, &board["nobody"])));
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
}

fn chips(pipeline: &Value, places: &Value) -> String {
    let places = list(places);
    if places.is_empty() {
        return "idle".to_owned();
    }
    let several = list(&pipeline["topics"]).len() > 1;
    let name = |place: &Value| {
        let partition =
            &pipeline["partitions"][usize::try_from(place.as_u64().unwrap_or_default()).unwrap_or_default()];
        let topic = if several { format!("{}/", word(&partition["topic"])) } else { String::new() };
        let sign = match word(&partition["sign"]) {
            "flowing" => String::new(),
            sign => format!("({sign})"),
        };
        format!("{topic}{}{sign}", partition["partition"])
    };
    let mut names: Vec<String> = places.iter().take(PARTITIONS).map(name).collect();
    if places.len() > PARTITIONS {
        names.push(format!("and {} more", places.len() - PARTITIONS));
    }
    names.join(" ")
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
                "state_words": "flowing", "partitions": [{"partition": 0, "sign": "flowing"}, {"partition": 1, "sign": "fenced"}],
                "board": {"rule": "2 partitions, 2 consumers: idle", "nobody": [],
                    "columns": [{"instance": "tg-0", "this": true, "consumers": [{"consumer": 0, "partitions": [0, 1]}, {"consumer": 1, "partitions": []}]}]}}]})
    }

    #[test]
    fn every_region_is_there_in_words() {
        let text = render(&status("rides"));
        for part in [
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
        let text = render(&status("a\u{1b}[2Jb"));
        assert!(text.contains("a\u{fffd}[2Jb") && !text.contains('\u{1b}'));
    }

    #[test]
    fn a_document_without_its_fields_is_still_text() {
        assert!(render(&json!({})).contains("STATE"));
    }
}
