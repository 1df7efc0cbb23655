//! The plot of the services: the lag of each service over time, with the events.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::paper::{AMBER, Frame, HEAD, NOTE, curve, head, moment, paint, write};
use crate::numbers::grouped;
use crate::raw::Table;

const WIDTH: u32 = 1_120;
const LEFT: i32 = 100;
const TOP: i32 = 84;
const HEIGHT: u32 = 96;
const ROW: i32 = 132;
/// The longest line of an event's text, in characters. Such a line is never wider than the plot.
const LETTERS: usize = 150;

pub(super) fn draw(series: &Table, events: &Table) -> Result<String> {
    let services = series.distinct("service");
    let moments: Vec<f64> = events.lines().map(|event| event.count("second")).collect();
    let told: Vec<String> = events
        .lines()
        .zip(1..)
        .flat_map(|(event, number)| {
            folded(&format!("{number} · {:.0} s: {}", event.count("second"), event.text("event")))
        })
        .collect();
    let bottom = TOP + ROW * i32::try_from(services.len())?;
    let height = u32::try_from(bottom)? + 24 + 18 * u32::try_from(told.len())?;
    let seconds = series.lines().map(|line| line.count("second")).fold(1.0, f64::max);
    let most = series.lines().map(|line| line.count("lag")).fold(1.0, f64::max);
    paint("How far behind each of the three services is, over time", (WIDTH, height), |paper| {
        let note = "each reads everything that was sent once, at its own pace; the red lines are the events below";
        head(paper, "Three services on one topic: records behind", note)?;
        for (service, row) in services.iter().zip(0..) {
            let top = TOP + ROW * row;
            write(paper, service, HEAD, HPos::Left, (LEFT, top - 12))?;
            let is_last = top + ROW == bottom;
            let frame = Frame { at: (LEFT, top), size: (WIDTH - 124, HEIGHT), left: 90, is_last, seconds };
            let mut chart = frame.open(paper, 0.0..most * 1.05)?;
            frame.grid(&mut chart, 4, &|value| grouped(*value))?;
            let lines = series.lines().filter(|line| line.text("service") == service);
            let points: Vec<_> = lines.map(|line| (line.count("second"), line.number("lag"))).collect();
            curve(&mut chart, &points, AMBER.stroke_width(2))?;
            for (second, number) in moments.iter().zip(1..) {
                moment(&mut chart, *second)?;
                if row == 0 {
                    let at = chart.backend_coord(&(*second, most));
                    write(paper, &number.to_string(), NOTE, HPos::Left, (at.0 + 3, at.1 + 4))?;
                }
            }
        }
        for (text, row) in told.iter().zip(0..) {
            write(paper, text, NOTE, HPos::Left, (LEFT, bottom + 12 + 18 * row))?;
        }
        Ok(())
    })
}

/// Breaks a text between words into lines of at most [`LETTERS`] characters.
fn folded(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one is there from the start");
        if line.chars().count() + word.chars().count() >= LETTERS {
            lines.push(format!("      {word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_broken_between_words_and_loses_none() {
        let text = "consumer A0 has 0 1; ".repeat(20);
        let lines = folded(text.trim());
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= LETTERS + 6), "{lines:?}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines.join(" ")), words(&text));
        assert_eq!(folded("short"), ["short"]);
    }

    #[test]
    fn each_service_has_a_panel_and_each_event_a_line_in_all() {
        let series = "second,service,sent,written,lag\n1,fare,10,10,0\n1,ride_analysis,10,4,6\n2,fare,20,20,0\n2,ride_analysis,20,4,16\n";
        let events = "second,kind,event\n1.5,locked,someone locks the table\n";
        let svg = draw(&Table::parse(series).unwrap(), &Table::parse(events).unwrap()).unwrap();
        assert_eq!(svg.matches("stroke=\"#B28600\"").count(), 2);
        assert_eq!(svg.matches("stroke=\"#DA1E28\"").count(), 2);
        assert!(svg.contains("1 · 2 s: someone locks the table") && svg.contains("ride_analysis"), "{svg}");
    }
}
