//! The figures of a run in the README: a block between two HTML comments (the marks), made from the raw files only.

use anyhow::{Context, Result, ensure};

use super::Report;
use crate::numbers::{Spread, duration, grouped};
use crate::raw::Table;

const BEGINS: &str = "<!-- figures of docs/demo, written by `make demo-docs` -->\n";
const ENDS: &str = "<!-- end of the figures -->\n";

/// Returns the text `readme`, with the figures of `report` between the marks.
///
/// # Errors
/// If the marks are missing, or if the run was shortened, used a dev build, or broke a promise.
pub(crate) fn with_figures(readme: &str, report: &Report) -> Result<String> {
    ensure!(report.run["scale"] == 1.0, "a shortened run: its figures are those of a trial");
    ensure!(report.run["versions"]["build"] == "release", "a run of a dev build");
    ensure!(report.is_good(), "the run broke a promise");
    let (before, rest) = readme.split_once(BEGINS).context("the README has no mark where the figures begin")?;
    let (_, after) = rest.split_once(ENDS).context("the README has no mark where the figures end")?;
    Ok(format!("{before}{BEGINS}{}{ENDS}{after}", figures(report)))
}

fn figures(report: &Report) -> String {
    let ladder = report.ladder_table.as_ref().map(ladder).unwrap_or_default();
    let flood = report.flood_table.as_ref().map(flood).unwrap_or_default();
    let word = |pointer: &str| report.run.pointer(pointer).and_then(|value| value.as_str()).unwrap_or("?").to_owned();
    let (day, postgres) = (word("/began"), word("/versions/postgres"));
    let postgres: Vec<&str> = postgres.split(' ').take(2).collect();
    format!(
        "{ladder}\n{flood}\nThese figures are from the run of {}, on {} cores ({}) that servers, load and Tidegate share, with \
         Kafka {} and {}, both with their default settings for durability (`fsync` on).\n",
        day.split('T').next().unwrap_or("?"),
        report.run.pointer("/machine/cores").map(ToString::to_string).unwrap_or_default(),
        word("/machine/cpu"),
        word("/versions/kafka"),
        postgres.join(" "),
    )
}

fn ladder(ladder: &Table) -> String {
    let of = |rung: &str, column: &str| {
        let runs = ladder.lines().filter(|line| line.text("rung") == rung);
        Spread::of(runs.map(|line| line.count(column))).map_or(f64::NAN, |spread| spread.median)
    };
    let rate = |rung: &str| of(rung, "rows_per_second");
    let (insert, copy, ours) = (rate("INSERT per record"), rate("COPY binary"), rate("tidegate from Kafka"));
    format!(
        "A, rows per second: {} by INSERT, {} by multi-row INSERT, {} by binary COPY from memory, {} by tidegate from Kafka. \
         Tidegate reaches {:.0} times the rate of INSERT, and {:.0} % of that of COPY.\n",
        grouped(insert),
        grouped(rate("multi-row VALUES").max(rate("multi-row UNNEST"))),
        grouped(copy),
        grouped(ours),
        ours / insert,
        ours / copy * 100.0
    )
}

fn flood(flood: &Table) -> String {
    let mut text = flood.lines().next().map_or_else(String::new, |line| {
        format!(
            "B: each program gets {} records: {} per second, and {} per second in the rush hour.\n\n",
            grouped(line.count("intended")),
            grouped(line.count("steady_per_second")),
            grouped(line.count("rush_per_second"))
        )
    });
    text += "| | records refused | acknowledged, then lost | written twice | longest wait for an answer | \
             time until the row is readable (median of the steady phase) | CPU seconds | of these, Kafka's |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|\n";
    for line in flood.lines() {
        let cpu =
            ["writer_cpu_s", "database_cpu_s", "kafka_cpu_s"].map(|column| line.count(column)).iter().sum::<f64>();
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {cpu:.0} | {:.0} |\n",
            line.text("way"),
            grouped(line.count("refused")),
            grouped(line.count("missing")),
            grouped(line.count("twice")),
            duration(line.count("longest_wait_ms")),
            line.number("commit_p50_ms").map_or("?".to_owned(), duration),
            line.count("kafka_cpu_s"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scale: f64) -> Report {
        let table = |text: &str| Some(Table::parse(text).unwrap());
        Report {
            ladder: Vec::new(),
            flood: Vec::new(),
            services: Vec::new(),
            run: serde_json::json!({"scale": scale, "began": "2026-01-02T03:04:05Z", "machine": {"cores": 2, "cpu": "C"},
                "versions": {"build": "release", "kafka": "4.2.0 (KRaft)", "postgres": "PostgreSQL 18.0 on x"}}),
            ladder_table: table(
                "rung,rows_per_second\nINSERT per record,10000\nCOPY binary,300000\ntidegate from Kafka,270000\n",
            ),
            flood_table: table(
                "way,intended,refused,missing,twice,longest_wait_ms,commit_p50_ms,writer_cpu_s,database_cpu_s,kafka_cpu_s\n\
                 tidegate,500000,0,0,0,700,262,3,6,17\n",
            ),
            services_table: None,
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let readme = format!("before\n{BEGINS}old\n{ENDS}after\n");
        let new = with_figures(&readme, &report(1.0)).unwrap();
        assert!(new.starts_with(&format!("before\n{BEGINS}A, rows per second: 10 000 by")), "{new}");
        assert!(new.contains("| tidegate | 0 | 0 | 0 | 700 ms | 262 ms | 26 | 17 |"), "{new}");
        assert!(new.contains("27 times the rate of INSERT, and 90 % of that of COPY"), "{new}");
        assert!(new.contains("and PostgreSQL 18.0, both with"), "{new}");
        assert!(new.ends_with(&format!("{ENDS}after\n")) && !new.contains("old"), "{new}");
        assert_eq!(with_figures(&new, &report(1.0)).unwrap(), new);
    }

    #[test]
    fn a_trial_is_not_shown() {
        let readme = format!("{BEGINS}{ENDS}");
        assert!(with_figures(&readme, &report(0.2)).is_err());
        assert!(with_figures("no marks", &report(1.0)).is_err());
    }
}
