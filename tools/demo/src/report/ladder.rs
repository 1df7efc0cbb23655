//! The ladder's part of the report.

use super::{Sentence, Tone};
use crate::numbers::{Spread, grouped};
use crate::raw::Table;

pub(super) fn sentences(ladder: &Table) -> Vec<Sentence> {
    let of = |rung: &str, column: &str| {
        Spread::of(ladder.lines().filter(|line| line.text("rung") == rung).map(|line| line.count(column)))
            .map_or(f64::NAN, |spread| spread.median)
    };
    let rate = |rung: &str| of(rung, "rows_per_second");
    let setting = |rung: &str| {
        ladder
            .lines()
            .find(|line| line.text("rung") == rung)
            .map_or(String::new(), |line| line.text("setting").to_owned())
    };
    let (insert, copy, tidegate) = (rate("INSERT per record"), rate("COPY binary"), rate("tidegate from Kafka"));
    let multi = rate("multi-row VALUES").max(rate("multi-row UNNEST"));
    let asynchronous = rate("INSERT per record; synchronous_commit off");
    let others = |rung: &str| of(rung, "client_cpu_s_per_million") + of(rung, "kafka_cpu_s_per_million");
    let mut said = vec![
        Sentence::new(
            Tone::Plain,
            format!(
                "Batching, not Kafka, raises what the database takes: {} rows/s by INSERTs ({}), {} by multi-row INSERTs, {} by \
                 binary COPY, {:.0} times the first. A program that collects rows by itself gets there without Kafka.",
                grouped(insert),
                setting("INSERT per record"),
                grouped(multi),
                grouped(copy),
                copy / insert
            ),
        ),
        Sentence::new(
            Tone::Plain,
            format!(
                "INSERTs that don't wait for the disk (synchronous_commit off) reach {} rows/s, {:.1} times those that do; a \
                 crash of the database loses the last of them.",
                grouped(asynchronous),
                asynchronous / insert
            ),
        ),
        Sentence::new(
            Tone::Plain,
            format!(
                "The database spends {:.1} CPU-s and {} bytes of WAL a million rows and a row on INSERTs, {:.1} and {} on \
                 Tidegate's batches.",
                of("INSERT per record", "database_cpu_s_per_million"),
                grouped(of("INSERT per record", "wal_bytes_per_row")),
                of("tidegate from Kafka", "database_cpu_s_per_million"),
                grouped(of("tidegate from Kafka", "wal_bytes_per_row")),
            ),
        ),
    ];
    let share = tidegate / copy;
    let tone = if share < 1.0 { Tone::Worse } else { Tone::Plain };
    said.push(Sentence::new(
        tone,
        format!(
            "tidegate, from Kafka, with the JSON decoded and the ledger written, reaches {} rows/s: {:.0} % of COPY from memory. \
             Beside the database it and Kafka need {:.1} CPU-s a million rows, the bare COPY's program {:.1}.",
            grouped(tidegate),
            share * 100.0,
            others("tidegate from Kafka"),
            others("COPY binary"),
        ),
    ));
    said
}
