//! The ladder plot: one bar per rung (way to write rows) on a logarithmic axis. The bar ends at the median run, and a line goes
//! from the slowest run to the fastest one. The costs are on the right.

use anyhow::{Context, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::paper::{GRID, INK, NOTE, PLAIN, decades, head, paint, write};
use crate::ladder::RUNGS;
use crate::numbers::{Spread, grouped};
use crate::raw::Table;

const WIDTH: u32 = 1_120;
const LEFT: i32 = 290;
const BARS: u32 = 420;
const ROW: i32 = 44;
const TOP: i32 = 92;
/// The columns next to the bars: content, unit and right edge.
const COLUMNS: [(&str, &str, i32); 3] = [
    ("database CPU-s", "per M rows", 865),
    ("client + Kafka", "CPU-s per M rows", 985),
    ("WAL bytes", "per row", 1_090),
];
const BAR: RGBColor = RGBColor(0x8f, 0xb8, 0xde);
const OURS: RGBColor = RGBColor(0x74, 0xb8, 0x7f);

pub(super) fn draw(ladder: &Table) -> Result<String> {
    // The runs were made in random order. Show the rungs in the order of the ladder.
    let present = ladder.distinct("rung");
    let rungs: Vec<String> =
        RUNGS.map(|rung| rung.to_string()).into_iter().filter(|rung| present.contains(rung)).collect();
    let count = i32::try_from(rungs.len())?;
    let bottom = TOP + ROW * count;
    let runs = ladder.distinct("round").len();
    let lasted = Spread::of(ladder.lines().map(|line| line.count("seconds"))).map_or(0.0, |seconds| seconds.median);
    let rates = Spread::of(ladder.lines().map(|line| line.count("rows_per_second"))).context("no rung was measured")?;
    let (axis, marks) = decades(10_f64.powf(rates.min.max(1.0).log10().floor()), rates.max);
    let size = (WIDTH, u32::try_from(bottom)? + 66);
    paint("Rows a second of each way into the same table, with what they cost", size, |paper| {
        let note = format!(
            "same rows, table, indexes, fsync; median of {runs} runs of {lasted:.1} s in shuffled order, the line from the least to the greatest"
        );
        head(paper, "A  the ladder: what batching is worth", &note)?;
        for (name, unit, at) in COLUMNS {
            write(paper, name, NOTE, HPos::Right, (at, TOP - 30))?;
            write(paper, unit, NOTE, HPos::Right, (at, TOP - 16))?;
        }
        let area = paper.clone().shrink((LEFT, TOP), (BARS, u32::try_from(bottom - TOP)? + 24));
        let mut builder = ChartBuilder::on(&area);
        builder.x_label_area_size(24);
        // Each row has a height of 1. Rows are drawn from top to bottom.
        let mut chart = builder.build_cartesian_2d(axis.clone().log_scale(), f64::from(count)..0.0)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().disable_y_axis().max_light_lines(0).bold_line_style(GRID).axis_style(GRID);
        mesh.label_style(NOTE.style(HPos::Center)).x_labels(marks);
        mesh.x_label_formatter(&|rate| format!("{}/s", grouped(*rate))).draw()?;
        for (rung, row) in rungs.iter().zip(0..) {
            let lines = || ladder.lines().filter(|line| line.text("rung") == rung);
            let of = |column: &str| Spread::of(lines().map(|line| line.count(column)));
            let Some(rate) = of("rows_per_second") else { continue };
            let colour = if rung.starts_with("tidegate") { OURS } else { BAR };
            let (high, low, middle) = (f64::from(row) + 0.15, f64::from(row) + 0.65, f64::from(row) + 0.4);
            chart.draw_series([Rectangle::new([(axis.start, high), (rate.median, low)], colour.filled())])?;
            chart.draw_series([PathElement::new([(rate.min, middle), (rate.max, middle)], INK.stroke_width(2))])?;
            let (end, y) = chart.backend_coord(&(rate.max, middle));
            write(paper, &grouped(rate.median), PLAIN, HPos::Left, (end + 8, y))?;
            write(paper, rung, PLAIN, HPos::Right, (LEFT - 10, y - 6))?;
            let setting = lines().next().map_or("", |line| line.text("setting"));
            write(paper, setting, NOTE, HPos::Right, (LEFT - 10, y + 9))?;
            let median = |column: &str| of(column).map_or(0.0, |spread| spread.median);
            let others = median("client_cpu_s_per_million") + median("kafka_cpu_s_per_million");
            let costs = [
                format!("{:.1}", median("database_cpu_s_per_million")),
                format!("{others:.1}"),
                grouped(median("wal_bytes_per_row")),
            ];
            for ((_, _, at), cost) in COLUMNS.into_iter().zip(costs) {
                write(paper, &cost, PLAIN, HPos::Right, (at, y))?;
            }
        }
        let note = "The rows of the first six come ready-made from memory. Tidegate's come from Kafka as JSON, and its ledger is written.";
        write(paper, note, NOTE, HPos::Left, (20, bottom + 44))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_has_its_bar_by_the_median_and_a_line_from_least_to_greatest() {
        let csv = "rung,setting,round,turn,rows,seconds,rows_per_second,database_cpu_s_per_million,\
            client_cpu_s_per_million,kafka_cpu_s_per_million,wal_bytes_per_row\n\
            INSERT per record,8 clients,1,1,0,1,10000,30,20,0,300\n\
            INSERT per record,8 clients,2,2,0,1,12000,30,20,0,300\n\
            INSERT per record,8 clients,3,1,0,1,11000,30,20,0,300\n\
            tidegate from Kafka,2 clients,1,2,0,1,300000,3,2,1,170\n";
        let svg = draw(&Table::parse(csv).unwrap()).unwrap();
        assert_eq!(svg.matches("fill=\"#8FB8DE\"").count(), 1);
        assert_eq!(svg.matches("fill=\"#74B87F\"").count(), 1);
        assert_eq!(svg.matches("stroke=\"#222222\" stroke-width=\"2\"").count(), 2);
        assert!(svg.contains("\n11 000\n</text>") && svg.contains("\n300 000\n</text>"), "{svg}");
        assert!(svg.contains("median of 3 runs of 1.0 s"));
    }
}
