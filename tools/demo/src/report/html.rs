//! The page: texts with plots and tables, and where the data comes from.

use std::fs;
use std::path::Path;

use super::{Report, Sentence};
use crate::numbers::{duration, grouped};
use crate::raw::Table;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
    svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}\
    .wide{overflow-x:auto}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}td:not(:first-child){white-space:nowrap}\
    li{list-style:none;margin:.3rem 0}ul{padding:0}.Kept{color:#0e6027}.Broken{color:#da1e28;font-weight:600}.Worse{color:#8a5a00}\
    .verdict{font-size:1.2rem;font-weight:600}.signs{font-size:.9rem}p{max-width:60rem}footer{color:#666;font-size:.85rem}pre{overflow-x:auto}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#444}.Kept{color:#6fdc8c}\
    .Broken{color:#ff8389}.Worse{color:#f1c21b}svg{background:#fff;border-radius:6px}footer{color:#aaa}}";

/// The rules that make the comparison fair. They don't depend on a run.
const FAIRNESS: [&str; 9] = [
    "Open loop: each vehicle has its time, and every wait counts from that time, also for who was sent late.",
    "All four arrangements get the same JSON, decode it, and have the same 64 MiB for what is not yet safe, counted in bytes of JSON.",
    "Answered means: committed with fsync, for INSERTs; in the program's memory, for the app buffer; taken by Kafka, for Tidegate.",
    "Who gets no answer tries again, and a write whose outcome is unknown is tried again: so a direct way loses nothing that it \
     answered for by a commit, and may write it twice.",
    "acks=all with one broker is that broker's page cache: it survives a killed broker, not a machine that fails. \
     synchronous_commit=on is an fsync, and survives that. With three brokers and min.insync.replicas=2 Kafka survives it too, and \
     costs more than is shown here.",
    "In the ladder the rows of the direct ways come ready-made from memory; Tidegate's come from Kafka as JSON.",
    "8 s after the last record what a direct way hasn't written still waits; Tidegate may drain for up to 60 s, since what is in Kafka \
     is at no risk, and its catch-up counts all of that time.",
    "Pipelined INSERTs aren't among the rungs: the driver has none.",
    "When a record was committed is Postgres' own word (track_commit_timestamp), for all alike.",
];

/// How to read the ladder's plot, for readers who see such a plot for the first time. `FLOOD` and `SERVICES` explain the other
/// plots.
const LADDER: &str = "Each bar is one way to put the same rows into the same table. A step of the axis to the right is ten times as \
    fast. From the top down the program sends the database more rows at a time; nothing else changes. Kafka appears in the last \
    bar alone.";
const FLOOD: &str = "Each column is one arrangement, and all four get the same records at the same times, from left to right: a \
    calm start, then a rush hour (yellow) that INSERTs can't keep up with, then the database is gone for a while (red), and when it is \
    back the program that writes is killed (red line) and started again. First row: how much was meant to be sent, was answered \
    for, and reached the table. Second row: what piles up between the two, and where there is no more room for it. Third row: how \
    long a vehicle waits until somebody says «I have it». Fourth row: what lies in a program's memory, gone if it dies.";
const SERVICES: &str = "The same records are read by three services, each for itself: what a trip costs, everything for later \
    questions, and where each taxi is now. Upwards is how far behind each of them is, which is no loss: what they haven't read yet \
    is in Kafka. What happened is numbered, and told below the plot.";

pub(super) fn page(report: &Report, folder: &Path) -> String {
    let svg = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let verdict = if report.is_good() {
        "Every promise of Tidegate was kept in this run."
    } else {
        "A promise of Tidegate was broken in this run: see ✘."
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>tidegate: the demo</title><style>{STYLE}</style>\n<h1>tidegate: what batching is worth, and what Kafka is worth</h1>\n\
         <p>Two claims, two experiments. <b>Batching</b> raises what the database takes; Kafka has no part in that (A). <b>Kafka</b> \
         keeps producers whole while the database is slower than they are, or away, and lets three services read what was sent \
         once (B, and the services). It isn't free: what it costs is marked with ▽.</p>\n\
         <p class=\"verdict\">{verdict}</p>\n<p class=\"signs\">✔ a promise that was kept · ✘ one that was broken · ▽ where Kafka or \
         tidegate does worse than the ways without · a figure, as it came out</p>\n"
    );
    let mut section = |title: &str, plot: &str, caption: &str, sentences: &[Sentence], table: String| {
        if !sentences.is_empty() {
            page += &format!(
                "<h2>{title}</h2>\n<p>{caption}</p>\n<div class=\"wide\">{}</div>\n{table}{}",
                svg(plot),
                list(sentences)
            );
        }
    };
    section("A: the ladder", "ladder.svg", LADDER, &report.ladder, String::new());
    let flood = report.flood_table.as_ref().map(flood_table).unwrap_or_default();
    section("B: the flood", "flood.svg", FLOOD, &report.flood, flood);
    let services = report.services_table.as_ref().map(services_table).unwrap_or_default();
    section("Three services on one topic", "services.svg", SERVICES, &report.services, services);
    let fair: String = FAIRNESS.iter().map(|text| format!("<li>{}</li>", escaped(text))).collect();
    let run = serde_json::to_string_pretty(&report.run).unwrap_or_default();
    page + &format!(
        "<h2>What was compared with what</h2>\n<ul>{fair}</ul>\n<footer><p>Drawn from the CSV files beside this page; \
         <code>demo --redraw</code> draws it again. Short runs on one machine that servers and load share: the ratios count.</p>\
         <pre>{}</pre></footer></html>\n",
        escaped(&run)
    )
}

fn list(sentences: &[Sentence]) -> String {
    let items = sentences.iter().map(|sentence| {
        format!("<li class=\"{:?}\">{} {}</li>\n", sentence.tone, sentence.sign(), escaped(&sentence.text))
    });
    format!("<ul>\n{}</ul>\n", items.collect::<String>())
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = head.iter().map(|text| format!("<th scope=\"col\">{text}</th>")).collect();
    let rows: String = rows
        .map(|row| {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!("<div class=\"wide\"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n")
}

fn flood_table(flood: &Table) -> String {
    let head = [
        "",
        "intended",
        "answered",
        "refused",
        "in the table",
        "answered, missing",
        "twice",
        "still waiting",
        "longest wait",
        "catch-up",
        "predicted",
    ];
    let rows = flood.lines().map(|line| {
        let count = |column: &str| grouped(line.count(column));
        let spare = line.count("capacity_per_second") - line.count("steady_per_second");
        let predicted = format!("{:.1} s", line.count("backlog_at_return") / spare);
        vec![
            format!("{} ({})", line.text("way"), line.text("setting")),
            count("intended"),
            count("acked"),
            count("refused"),
            count("in_table"),
            count("missing"),
            count("twice"),
            count("waiting"),
            duration(line.count("longest_wait_ms")),
            line.number("caught_up_s").map_or("not in this run".to_owned(), |seconds| format!("{seconds:.1} s")),
            if spare > 0.0 { predicted } else { "never".to_owned() },
        ]
    });
    table(&head, rows)
}

fn services_table(services: &Table) -> String {
    let columns =
        ["service", "sent", "expected", "in_table", "missing", "twice", "wrong", "dead_letters", "largest_lag"];
    let rows = services.lines().map(|line| {
        let words = |column: &&str| line.number(column).map_or_else(|| line.text(column).to_owned(), grouped);
        columns.iter().map(words).collect()
    });
    table(
        &columns.map(|column| match column {
            "in_table" => "in the table",
            "dead_letters" => "dead letters",
            "largest_lag" => "largest lag",
            other => other,
        }),
        rows,
    )
}

/// Returns text escaped for HTML and SVG, also for attributes in double quotes.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
