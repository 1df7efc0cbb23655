//! The flood: a column an arrangement, a row a quantity, and the same axes along each row.

use super::chart::{Panel, Scale};
use super::svg::{Anchor, Svg};
use crate::numbers::{bytes, duration, grouped};
use crate::raw::{Line, Table};

const LEFT: f64 = 84.0;
const TOP: f64 = 134.0;
const WIDTH: f64 = 262.0;
const HEIGHT: f64 = 132.0;
const GAP: (f64, f64) = (18.0, 42.0);
const MIB: f64 = 1_048_576.0;
/// About what a character of a heading takes.
const CHARACTER: f64 = 8.4;
/// Bins that a rate is the mean of: batches of half a second would make a comb of it.
const SMOOTH: usize = 3;

/// A quantity: its heading, its legend, its axis, and the curves with their strokes.
struct Quantity {
    title: &'static str,
    legend: &'static str,
    scale: fn(f64) -> Scale,
    word: fn(f64) -> String,
    curves: &'static [(&'static str, &'static str)],
    /// Whether the values are counts of a bin, to be shown by the second.
    is_rate: bool,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        title: "records a second",
        legend: "dotted: intended · blue: taken · violet, dashed: answered · green, thick: in the table · red: refused (means of 1.5 s)",
        scale: |max| Scale::decades(100.0, max),
        word: grouped,
        curves: &[
            ("intended", "thin grey"),
            ("sent", "line blue"),
            ("acked", "line violet"),
            ("refused", "line red"),
            ("committed", "line green"),
        ],
        is_rate: true,
    },
    Quantity {
        title: "backlog: taken and not yet in the table, records",
        legend: "red: the reservoir ends here (64 MiB of a program's memory; Kafka's retention)",
        scale: Scale::upto,
        word: grouped,
        curves: &[("backlog", "line amber")],
        is_rate: false,
    },
    Quantity {
        title: "the vehicle waits for its answer, from its intended time",
        legend: "green: half of them · violet, dashed: 99 of 100 · red: the longest",
        scale: |max| Scale::decades(0.1, max),
        word: duration,
        curves: &[("wait_max_ms", "thin red"), ("wait_p99_ms", "line violet"), ("wait_p50_ms", "line green")],
        is_rate: false,
    },
    Quantity {
        title: "bounded buffer (64 MiB for each)",
        legend: "",
        scale: |max| Scale::Steps { step: 16.0 * MIB, max: max.max(64.0 * MIB) },
        word: bytes,
        curves: &[("buffer_bytes", "line blue")],
        is_rate: false,
    },
];

pub(super) fn draw(flood: &Table, series: &Table, events: &Table) -> String {
    let ways = flood.distinct("way");
    let width = LEFT + ways.len() as f64 * (WIDTH + GAP.0) + 10.0;
    let height = TOP + QUANTITIES.len() as f64 * (HEIGHT + GAP.1) + 40.0;
    let title = "The same flood on four arrangements: rates, backlog, waiting and buffer over time";
    let mut svg = Svg::new(width, height, title);
    svg.text((20.0, 30.0), Anchor::Start, "title", "B  the flood: the same open-loop load on four arrangements");
    svg.text((20.0, 50.0), Anchor::Start, "dim", &subtitle(flood));
    let seconds = flood.lines().map(|line| line.count("ended_s")).fold(1.0, f64::max);
    let bin = series.lines().next().map_or(1.0, |line| line.count("second")).max(1e-3);
    for (row, quantity) in QUANTITIES.iter().enumerate() {
        let unit = if quantity.is_rate { bin } else { 1.0 };
        let values =
            |line: Line<'_>| quantity.curves.iter().map(|(column, _)| line.count(column) / unit).fold(0.0, f64::max);
        let scale = (quantity.scale)(series.lines().map(values).fold(0.0, f64::max));
        let top = TOP + row as f64 * (HEIGHT + GAP.1);
        svg.text((LEFT, top - 8.0), Anchor::Start, "head", quantity.title);
        let beside = LEFT + 16.0 + CHARACTER * quantity.title.chars().count() as f64;
        svg.text((beside, top - 8.0), Anchor::Start, "dim", quantity.legend);
        for (column, way) in ways.iter().enumerate() {
            let left = LEFT + column as f64 * (WIDTH + GAP.0);
            let panel = Panel { left, top, width: WIDTH, height: HEIGHT, seconds, scale };
            background(&mut svg, &panel, way, series, events);
            panel.grid(&mut svg, column == 0, quantity.word);
            if row == 0 {
                svg.text((left + WIDTH / 2.0, TOP - 46.0), Anchor::Middle, "head", way);
                let (class, outcome) = outcome(flood, way);
                svg.text((left + WIDTH / 2.0, TOP - 30.0), Anchor::Middle, class, &outcome);
            }
            if row + 1 == QUANTITIES.len() {
                panel.seconds(&mut svg);
            }
            let lines = || series.lines().filter(|line| line.text("way") == way);
            for (name, class) in quantity.curves {
                // Where nothing was refused there is no line for it.
                let is_there = |value: &f64| *name != "refused" || *value > 0.0;
                let value = |line: Line<'_>| line.number(name).filter(is_there).map(|value| value / unit);
                let points: Vec<_> = lines().map(|line| (line.count("second"), value(line))).collect();
                panel.curve(&mut svg, if quantity.is_rate { smoothed(&points) } else { points }, class);
            }
            if quantity.title.starts_with("backlog")
                && let Some(line) = flood.lines().find(|line| line.text("way") == way)
            {
                reservoir(&mut svg, &panel, line);
            }
            for event in events.lines().filter(|line| line.text("way") == way && line.text("event").contains("killed"))
            {
                panel.event(&mut svg, event.count("second"), "thin reddash");
            }
        }
    }
    let legend = "yellow: rush hour · red: the database is stopped · red dashes: the writer is killed (SIGKILL) and started again";
    svg.text((20.0, height - 14.0), Anchor::Start, "dim", legend);
    svg.finish()
}

/// What became of a way's records, in a few words.
fn outcome(flood: &Table, way: &str) -> (&'static str, String) {
    let Some(line) = flood.lines().find(|line| line.text("way") == way) else { return ("dim", String::new()) };
    let columns =
        [("refused", "refused"), ("missing", "answered, then lost"), ("twice", "twice"), ("waiting", "still waiting")];
    let troubles: Vec<String> = columns
        .into_iter()
        .filter(|(column, _)| line.count(column) > 0.0)
        .map(|(column, words)| format!("{} {words}", grouped(line.count(column))))
        .collect();
    if troubles.is_empty() {
        ("good", "none refused, none lost, none twice".to_owned())
    } else {
        ("warn", troubles.join(", "))
    }
}

/// Each value as the mean of itself and its neighbours.
fn smoothed(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    let mean = |at: usize| {
        let near = &points[at.saturating_sub(SMOOTH / 2)..points.len().min(at + SMOOTH / 2 + 1)];
        let known: Vec<f64> = near.iter().filter_map(|(_, value)| *value).collect();
        points[at].1.map(|_| known.iter().sum::<f64>() / known.len().max(1) as f64)
    };
    points.iter().enumerate().map(|(at, (second, _))| (*second, mean(at))).collect()
}

/// Where what takes the backlog is full: a line, or words where it is out of sight.
fn reservoir(svg: &mut Svg, panel: &Panel, line: Line<'_>) {
    let (left, top) = (panel.left + 5.0, panel.top + 12.0);
    if let Some(seconds) = line.number("reservoir_s") {
        let records = seconds * line.count("rush_per_second");
        let text = format!("▲ {:.0} h of rush hour: {:.1} G records", seconds / 3_600.0, records / 1e9);
        svg.text((left, top), Anchor::Start, "warn", &text);
    } else if let Some(bytes) = line.number("reservoir_bytes") {
        let records = bytes / line.count("bytes_per_record").max(1.0);
        let y = panel.y(records);
        if panel.scale.share(records) < 1.0 {
            svg.line((panel.left, y), (panel.left + panel.width, y), "line red");
            svg.text((left, y - 4.0), Anchor::Start, "warn", &format!("full at {}", grouped(records)));
        } else {
            svg.text((left, top), Anchor::Start, "warn", &format!("▲ full at {}", grouped(records)));
        }
    }
}

fn subtitle(flood: &Table) -> String {
    let Some(line) = flood.lines().next() else { return String::new() };
    format!(
        "each gets {} records, {}/s and in the rush hour {}/s; a vehicle sends at its time, whatever became of the others",
        grouped(line.count("intended")),
        grouped(line.count("steady_per_second")),
        grouped(line.count("rush_per_second"))
    )
}

/// The rush hour, seen by what was intended, and the outage, by what happened.
fn background(svg: &mut Svg, panel: &Panel, way: &str, series: &Table, events: &Table) {
    let intended: Vec<(f64, f64)> = series
        .lines()
        .filter(|line| line.text("way") == way)
        .map(|line| (line.count("second"), line.count("intended")))
        .collect();
    let most = intended.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let mut rush = intended.iter().filter(|(_, count)| *count > most * 0.75).map(|(second, _)| *second);
    if let Some(first) = rush.next() {
        let bin = intended.first().map_or(0.0, |(second, _)| *second);
        panel.shade(svg, first - bin, rush.next_back().unwrap_or(first), "rush");
    }
    let when = |event: &str| {
        let found = events.lines().find(|line| line.text("way") == way && line.text("event") == event);
        found.map(|line| line.count("second"))
    };
    if let (Some(from), Some(to)) = (when("database stopped"), when("database back")) {
        panel.shade(svg, from, to, "away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_drawn_from_the_files_alone_a_column_each() {
        let flood = "way,intended,steady_per_second,rush_per_second,ended_s,bytes_per_record,reservoir_bytes,reservoir_s\n\
            INSERT,30000,5000,20000,3,200,1000,\ntidegate,30000,5000,20000,3,200,,259200\n";
        let mut series = "way,second,intended,sent,acked,refused,committed,backlog,buffer_bytes,wait_p50_ms,wait_p99_ms,wait_max_ms\n".to_owned();
        for way in ["INSERT", "tidegate"] {
            for (second, intended) in [(1, 5_000), (2, 20_000), (3, 5_000)] {
                series += &format!("{way},{second},{intended},{intended},{intended},0,{intended},7,1000,1,2,\n");
            }
        }
        let events =
            "way,second,event\nINSERT,1.5,database stopped\nINSERT,2.5,database back\ntidegate,2.8,writer killed\n";
        let parse = |text: &str| Table::parse(text).unwrap();
        let svg = draw(&parse(flood), &parse(&series), &parse(events));
        // Four quantities; the outage of one way in each, the kill of the other.
        assert_eq!(svg.matches("class=\"away\"").count(), 4);
        assert_eq!(svg.matches("class=\"thin reddash\"").count(), 4);
        assert_eq!(svg.matches("class=\"rush\"").count(), 8);
        // The longest wait was not measured: no curve for it.
        assert_eq!(svg.matches("class=\"thin red\"").count(), 0);
        assert_eq!(svg.matches("class=\"line amber\"").count(), 2);
        assert!(svg.contains("in the rush hour 20 000/s"));
        // The end of memory is a line, the end of Kafka's retention out of sight.
        assert_eq!(svg.matches("class=\"line red\"").count(), 1, "and none was refused");
        assert_eq!(svg.matches(">none refused, none lost, none twice<").count(), 2);
        assert!(svg.contains("full at 5<") && svg.contains("▲ 72 h of rush hour: 5.2 G records"), "{svg}");
    }

    #[test]
    fn a_rate_is_the_mean_of_its_neighbours_and_a_hole_stays_one() {
        let points = [(1.0, Some(0.0)), (2.0, Some(6.0)), (3.0, Some(0.0)), (4.0, None)];
        assert_eq!(smoothed(&points), [(1.0, Some(3.0)), (2.0, Some(2.0)), (3.0, Some(3.0)), (4.0, None)]);
    }
}
