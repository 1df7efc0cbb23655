//! The flood plot: one column per arrangement and one row per quantity. All panels of a row have the same axes.

use anyhow::Result;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::paper::{
    AMBER, Area, BLUE, Chart, Frame, GOOD, GREEN, GREY, HEAD, Look, NOTE, RED, VIOLET, WARN, curve, decades, head,
    moment, paint, runs, shade, write,
};
use crate::numbers::{duration, grouped};
use crate::raw::{Line, Table};

const LEFT: i32 = 84;
const TOP: i32 = 134;
const SIZE: (u32, u32) = (262, 132);
/// The distance in pixels from the left edge of one panel to that of the next, and from the top of one panel to that of the next.
const STEP: (i32, i32) = (280, 174);
const MIB: f64 = 1_048_576.0;
/// The approximate width of a character of a heading, in tenths of a pixel.
const CHARACTER: i32 = 84;
/// A rate is averaged over this many bins. Otherwise the batches of each half second would make the curve jagged.
const SMOOTH: usize = 3;
const RUSH: RGBColor = RGBColor(0xff, 0xf3, 0xd1);
const AWAY: RGBColor = RGBColor(0xf3, 0xd9, 0xd9);

/// A quantity with its heading, legend and axis, and its curves with their colours and widths.
struct Quantity {
    title: &'static str,
    legend: &'static str,
    axis: Axis,
    word: fn(f64) -> String,
    curves: &'static [(&'static str, RGBColor, u32)],
    /// Values are divided by this number. `None` if the values are counts per bin, which are shown per second.
    unit: Option<f64>,
}

#[derive(Clone, Copy)]
enum Axis {
    /// A linear axis, from 0 to at least this value.
    Linear(f64),
    /// A logarithmic axis that begins at this value.
    Decades(f64),
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        title: "records a second",
        legend: "grey area: intended · green, widest: in the table · blue: taken · violet, thin: answered · red: refused (means of 1.5 s)",
        axis: Axis::Decades(100.0),
        word: grouped,
        curves: &[
            ("intended", GREY, 0),
            ("committed", GREEN, 4),
            ("sent", BLUE, 2),
            ("acked", VIOLET, 1),
            ("refused", RED, 2),
        ],
        unit: None,
    },
    Quantity {
        title: "backlog: taken and not yet in the table, records",
        legend: "red: the reservoir ends here (64 MiB of a program's memory; Kafka's retention)",
        axis: Axis::Linear(1.0),
        word: grouped,
        curves: &[("backlog", AMBER, 2)],
        unit: Some(1.0),
    },
    Quantity {
        title: "the vehicle waits for its answer, from its intended time",
        legend: "green, wide: half of them · violet: 99 of 100 · red, thin: the longest",
        axis: Axis::Decades(0.1),
        word: duration,
        curves: &[("wait_p50_ms", GREEN, 3), ("wait_p99_ms", VIOLET, 2), ("wait_max_ms", RED, 1)],
        unit: Some(1.0),
    },
    Quantity {
        title: "bounded buffer (64 MiB for each)",
        legend: "",
        axis: Axis::Linear(64.0),
        word: |mib| format!("{mib:.0} MiB"),
        curves: &[("buffer_bytes", BLUE, 2)],
        unit: Some(MIB),
    },
];

struct Files<'a> {
    flood: &'a Table,
    series: &'a Table,
    events: &'a Table,
}

pub(super) fn draw(flood: &Table, series: &Table, events: &Table) -> Result<String> {
    let ways = flood.distinct("way");
    let files = Files { flood, series, events };
    let rows = i32::try_from(QUANTITIES.len())?;
    let width = LEFT + i32::try_from(ways.len())? * STEP.0 + 10;
    let height = TOP + rows * STEP.1 + 40;
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    let seconds = flood.lines().map(|line| line.count("ended_s")).fold(1.0, f64::max);
    paint("The same flood on four arrangements: rates, backlog, waiting and buffer over time", size, |paper| {
        head(paper, "B  the flood: the same open-loop load on four arrangements", &subtitle(flood))?;
        for (way, left) in ways.iter().zip((LEFT..).step_by(280)) {
            let middle = left + i32::try_from(SIZE.0 / 2)?;
            write(paper, way, HEAD, HPos::Center, (middle, TOP - 52))?;
            let (look, outcome) = outcome(flood, way);
            write(paper, &outcome, look, HPos::Center, (middle, TOP - 34))?;
        }
        for (quantity, row) in QUANTITIES.iter().zip(0..) {
            let top = TOP + row * STEP.1;
            write(paper, quantity.title, HEAD, HPos::Left, (LEFT, top - 12))?;
            let beside = LEFT + 16 + CHARACTER * i32::try_from(quantity.title.chars().count())? / 10;
            write(paper, quantity.legend, NOTE, HPos::Left, (beside, top - 12))?;
            let values = |line: Line<'_>| {
                quantity
                    .curves
                    .iter()
                    .map(|(column, ..)| line.count(column) / unit(quantity, series))
                    .fold(0.0, f64::max)
            };
            let most = series.lines().map(values).fold(0.0, f64::max);
            for (column, way) in (0..).zip(&ways) {
                let at = (LEFT + column * STEP.0, top);
                let left = if column == 0 { 76 } else { 0 };
                let frame = Frame { at, size: SIZE, left, is_last: row + 1 == rows, seconds };
                match quantity.axis {
                    Axis::Linear(least) => panel(paper, frame, &files, way, quantity, 0.0..most.max(least) * 1.15, 5)?,
                    Axis::Decades(min) => {
                        let (values, marks) = decades(min, most);
                        panel(paper, frame, &files, way, quantity, values.log_scale(), marks)?;
                    }
                }
            }
        }
        let legend = "yellow: rush hour · red: the database is stopped · thin red line: the writer is killed (SIGKILL) and started again";
        write(paper, legend, NOTE, HPos::Left, (20, height - 18))
    })
}

/// Returns the number by which the values of a quantity are divided: for counts per bin, the length of a bin in seconds.
fn unit(quantity: &Quantity, series: &Table) -> f64 {
    let bin = || series.lines().next().map_or(1.0, |line| line.count("second")).max(1e-3);
    quantity.unit.unwrap_or_else(bin)
}

fn panel<Y>(
    paper: &Area<'_>,
    frame: Frame,
    files: &Files<'_>,
    way: &str,
    quantity: &Quantity,
    values: Y,
    marks: usize,
) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = frame.open(paper, values)?;
    background(&mut chart, way, files)?;
    let range = chart.y_range();
    let is_log = matches!(quantity.axis, Axis::Decades(_));
    let floor = |value: f64| if is_log && value <= range.start { "≤ " } else { "" };
    frame.grid(&mut chart, marks, &|value| format!("{}{}", floor(*value), (quantity.word)(*value)))?;
    let lines = || files.series.lines().filter(|line| line.text("way") == way);
    let unit = unit(quantity, files.series);
    for (name, colour, width) in quantity.curves {
        // Leave out bins without refused records. Otherwise their curve would run along the bottom of the panel.
        let is_there = |value: &f64| *name != "refused" || *value > 0.0;
        let value = |line: Line<'_>| line.number(name).filter(is_there).map(|value| value / unit);
        let mut points: Vec<_> = lines().map(|line| (line.count("second"), value(line))).collect();
        if quantity.unit.is_none() {
            points = smoothed(&points);
        }
        if *width == 0 {
            for run in runs(&points, &range) {
                chart.draw_series(AreaSeries::new(run, range.start, colour.mix(0.6)))?;
            }
        } else {
            curve(&mut chart, &points, colour.stroke_width(*width))?;
        }
    }
    if quantity.title.starts_with("backlog")
        && let Some(line) = files.flood.lines().find(|line| line.text("way") == way)
    {
        reservoir(paper, &mut chart, line, frame)?;
    }
    let killed = |line: &Line<'_>| line.text("way") == way && line.text("event").contains("killed");
    for event in files.events.lines().filter(killed) {
        moment(&mut chart, event.count("second"))?;
    }
    Ok(())
}

/// Returns a short text about the fate of an arrangement's records, and the text's appearance.
fn outcome(flood: &Table, way: &str) -> (Look, String) {
    let Some(line) = flood.lines().find(|line| line.text("way") == way) else { return (NOTE, String::new()) };
    let columns =
        [("refused", "refused"), ("missing", "answered, then lost"), ("twice", "twice"), ("waiting", "still waiting")];
    let troubles: Vec<String> = columns
        .into_iter()
        .filter(|(column, _)| line.count(column) > 0.0)
        .map(|(column, words)| format!("{} {words}", grouped(line.count(column))))
        .collect();
    if troubles.is_empty() {
        (GOOD, "none refused, none lost, none twice".to_owned())
    } else {
        (WARN, troubles.join(", "))
    }
}

/// Replaces each value by the mean of itself and its neighbours. `None` stays `None`.
fn smoothed(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    let mean = |at: usize| {
        let near = &points[at.saturating_sub(SMOOTH / 2)..points.len().min(at + SMOOTH / 2 + 1)];
        let known: Vec<f64> = near.iter().filter_map(|(_, value)| *value).collect();
        points[at].1.map(|_| known.iter().sum::<f64>() / known.len().max(1) as f64)
    };
    points.iter().enumerate().map(|(at, (second, _))| (*second, mean(at))).collect()
}

/// Writes the capacity of the buffer or log that holds the backlog. If a buffer's capacity is within the axis, draws a line
/// there.
fn reservoir<Y>(paper: &Area<'_>, chart: &mut Chart<'_, Y>, line: Line<'_>, frame: Frame) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    let (left, top) = (frame.at.0 + 5, frame.at.1 + 10);
    if let Some(seconds) = line.number("reservoir_s") {
        let records = seconds * line.count("rush_per_second");
        let text = format!("▲ {:.0} h of rush hour: {:.1} G records", seconds / 3_600.0, records / 1e9);
        write(paper, &text, WARN, HPos::Left, (left, top))?;
    } else if let Some(bytes) = line.number("reservoir_bytes") {
        let records = bytes / line.count("bytes_per_record").max(1.0);
        if records < chart.y_range().end {
            curve(chart, &[(0.0, Some(records)), (frame.seconds, Some(records))], RED.stroke_width(2))?;
            let (_, y) = chart.backend_coord(&(0.0, records));
            write(paper, &format!("full at {}", grouped(records)), WARN, HPos::Left, (left, y - 8))?;
        } else {
            write(paper, &format!("▲ full at {}", grouped(records)), WARN, HPos::Left, (left, top))?;
        }
    }
    Ok(())
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

/// Shades the rush hour (its planned times) and the outage (its actual times).
fn background<Y>(chart: &mut Chart<'_, Y>, way: &str, files: &Files<'_>) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    let Files { series, events, .. } = files;
    let intended: Vec<(f64, f64)> = series
        .lines()
        .filter(|line| line.text("way") == way)
        .map(|line| (line.count("second"), line.count("intended")))
        .collect();
    let most = intended.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let mut rush = intended.iter().filter(|(_, count)| *count > most * 0.75).map(|(second, _)| *second);
    if let Some(first) = rush.next() {
        let bin = intended.first().map_or(0.0, |(second, _)| *second);
        shade(chart, (first - bin, rush.next_back().unwrap_or(first)), RUSH)?;
    }
    let when = |event: &str| {
        let found = events.lines().find(|line| line.text("way") == way && line.text("event") == event);
        found.map(|line| line.count("second"))
    };
    if let (Some(from), Some(to)) = (when("database stopped"), when("database back")) {
        shade(chart, (from, to), AWAY)?;
    }
    Ok(())
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
        let svg = draw(&parse(flood), &parse(&series), &parse(events)).unwrap();
        // Only one arrangement had an outage. Each of its four panels shows the outage as a shaded area.
        assert_eq!(svg.matches("fill=\"#F3D9D9\"").count(), 4);
        assert_eq!(svg.matches("fill=\"#FFF3D1\"").count(), 8);
        // The longest wait was not measured, so it has no curve.
        assert_eq!(svg.matches("stroke=\"#DA1E28\" stroke-width=\"1\" points=\"84,").count(), 0);
        assert_eq!(svg.matches("stroke=\"#B28600\"").count(), 2);
        assert!(svg.contains("in the rush hour 20 000/s"));
        // The memory limit is a line. Kafka's retention is a text only.
        assert_eq!(svg.matches("stroke=\"#DA1E28\" stroke-width=\"2\"").count(), 1, "and none was refused");
        assert_eq!(svg.matches("\nnone refused, none lost, none twice\n").count(), 2);
        assert!(svg.contains("full at 5\n") && svg.contains("▲ 72 h of rush hour: 5.2 G records"), "{svg}");
    }

    #[test]
    fn a_rate_is_the_mean_of_its_neighbours_and_a_hole_stays_one() {
        let points = [(1.0, Some(0.0)), (2.0, Some(6.0)), (3.0, Some(0.0)), (4.0, None)];
        assert_eq!(smoothed(&points), [(1.0, Some(3.0)), (2.0, Some(2.0)), (3.0, Some(3.0)), (4.0, None)]);
    }
}
