//! The ladder: a bar a rung on a logarithmic axis, with the least and the greatest run, and the costs beside it.

use super::chart::Scale;
use super::svg::{Anchor, Svg};
use crate::ladder::RUNGS;
use crate::numbers::{Spread, grouped};
use crate::raw::Table;

const WIDTH: f64 = 1_120.0;
const LEFT: f64 = 290.0;
const BARS: f64 = 420.0;
const ROW: f64 = 44.0;
const TOP: f64 = 92.0;

pub(super) fn draw(ladder: &Table) -> String {
    // From the bottom up, though the runs were shuffled.
    let present = ladder.distinct("rung");
    let rungs: Vec<String> =
        RUNGS.map(|rung| rung.to_string()).into_iter().filter(|rung| present.contains(rung)).collect();
    let bottom = TOP + ROW * rungs.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 66.0, "Rows a second of each way into the same table, with what they cost");
    svg.text((20.0, 30.0), Anchor::Start, "title", "A  the ladder: what batching is worth");
    let runs = ladder.distinct("round").len();
    let lasted = Spread::of(ladder.lines().map(|line| line.count("seconds"))).map_or(0.0, |seconds| seconds.median);
    let note = format!(
        "same rows, table, indexes, fsync; median of {runs} runs of {lasted:.1} s in shuffled order, the line from the least to the greatest"
    );
    svg.text((20.0, 50.0), Anchor::Start, "dim", &note);
    let greatest = ladder.lines().map(|line| line.count("rows_per_second")).fold(0.0, f64::max);
    let least = ladder.lines().map(|line| line.count("rows_per_second")).fold(greatest, f64::min);
    let scale = Scale::decades(10_f64.powf(least.max(1.0).log10().floor()), greatest);
    let x = |value: f64| LEFT + BARS * scale.share(value);
    for mark in scale.marks() {
        svg.line((x(mark), TOP - 6.0), (x(mark), bottom), "grid");
        svg.text((x(mark), bottom + 16.0), Anchor::Middle, "dim num", &format!("{}/s", grouped(mark)));
    }
    let columns = [(865.0, "database CPU-s"), (985.0, "client + Kafka"), (1_090.0, "WAL bytes")];
    for (at, head) in columns {
        svg.text((at, TOP - 26.0), Anchor::End, "dim", head);
    }
    for (at, unit) in [(865.0, "per M rows"), (985.0, "CPU-s per M rows"), (1_090.0, "per row")] {
        svg.text((at, TOP - 12.0), Anchor::End, "dim", unit);
    }
    for (row, rung) in rungs.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let of = |column: &str| {
            Spread::of(ladder.lines().filter(|line| line.text("rung") == rung).map(|line| line.count(column)))
        };
        let Some(rate) = of("rows_per_second") else { continue };
        let setting = ladder.lines().find(|line| line.text("rung") == rung).map_or("", |line| line.text("setting"));
        svg.text((LEFT - 10.0, y + 16.0), Anchor::End, "", rung);
        svg.text((LEFT - 10.0, y + 31.0), Anchor::End, "dim", setting);
        let class = if rung.starts_with("tidegate") { "ours" } else { "bar" };
        svg.rectangle((LEFT, y + 6.0), x(rate.median) - LEFT, 22.0, class);
        svg.line((x(rate.min), y + 17.0), (x(rate.max), y + 17.0), "whisker");
        svg.text((x(rate.max) + 8.0, y + 21.0), Anchor::Start, "num", &grouped(rate.median));
        let median = |column: &str| of(column).map_or(0.0, |spread| spread.median);
        let others = median("client_cpu_s_per_million") + median("kafka_cpu_s_per_million");
        let costs = [
            format!("{:.1}", median("database_cpu_s_per_million")),
            format!("{others:.1}"),
            grouped(median("wal_bytes_per_row")),
        ];
        for ((at, _), cost) in columns.into_iter().zip(costs) {
            svg.text((at, y + 21.0), Anchor::End, "num", &cost);
        }
    }
    let note = "The rows of the first six come ready-made from memory. Tidegate's come from Kafka as JSON, and its ledger is written.";
    svg.text((20.0, bottom + 44.0), Anchor::Start, "dim", note);
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_has_its_bar_by_the_median_and_a_line_from_least_to_greatest() {
        let csv = "rung,setting,round,turn,rows,seconds,rows_per_second,database_cpu_s_per_million,\
            client_cpu_s_per_million,kafka_cpu_s_per_million,wal_bytes_per_row\n\
            INSERT a record,8 clients,1,1,0,1,10000,30,20,0,300\n\
            INSERT a record,8 clients,2,2,0,1,12000,30,20,0,300\n\
            INSERT a record,8 clients,3,1,0,1,11000,30,20,0,300\n\
            tidegate from Kafka,2 clients,1,2,0,1,300000,3,2,1,170\n";
        let svg = draw(&Table::parse(csv).unwrap());
        assert_eq!(svg.matches("class=\"bar\"").count(), 1);
        assert_eq!(svg.matches("class=\"ours\"").count(), 1);
        assert_eq!(svg.matches("class=\"whisker\"").count(), 2);
        assert!(svg.contains(">11 000</text>") && svg.contains(">300 000</text>"), "{svg}");
        assert!(svg.contains("median of 3 runs of 1.0 s"));
    }
}
