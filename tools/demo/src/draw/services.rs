//! The story: how far behind each service is, over time, with what happened.

use super::chart::{Panel, Scale};
use super::svg::{Anchor, Svg};
use crate::numbers::grouped;
use crate::raw::Table;

const WIDTH: f64 = 1_120.0;
const LEFT: f64 = 100.0;
const TOP: f64 = 84.0;
const HEIGHT: f64 = 96.0;
const GAP: f64 = 36.0;
/// Letters of an event's line that surely fit.
const LETTERS: usize = 150;

pub(super) fn draw(series: &Table, events: &Table) -> String {
    let services = series.distinct("service");
    let happened: Vec<_> = events.lines().collect();
    let bottom = TOP + services.len() as f64 * (HEIGHT + GAP);
    let told: Vec<String> = happened
        .iter()
        .zip(1..)
        .flat_map(|(event, number)| {
            folded(&format!("{number} · {:.0} s: {}", event.count("second"), event.text("event")))
        })
        .collect();
    let height = bottom + 24.0 + 18.0 * told.len() as f64;
    let mut svg = Svg::new(WIDTH, height, "How far behind each of the three services is, over time");
    svg.text((20.0, 30.0), Anchor::Start, "title", "Three services on one topic: records behind");
    let note = "each reads everything that was sent once, at its own pace; the dashes are the events below";
    svg.text((20.0, 50.0), Anchor::Start, "dim", note);
    let seconds = series.lines().map(|line| line.count("second")).fold(1.0, f64::max);
    let scale = Scale::upto(series.lines().map(|line| line.count("lag")).fold(0.0, f64::max));
    for (row, service) in services.iter().enumerate() {
        let top = TOP + row as f64 * (HEIGHT + GAP);
        let panel = Panel { left: LEFT, top, width: WIDTH - LEFT - 24.0, height: HEIGHT, seconds, scale };
        svg.text((LEFT, top - 8.0), Anchor::Start, "head", service);
        panel.grid(&mut svg, true, grouped);
        let lines = series.lines().filter(|line| line.text("service") == service);
        panel.curve(&mut svg, lines.map(|line| (line.count("second"), line.number("lag"))), "line amber");
        for (number, event) in happened.iter().enumerate() {
            panel.event(&mut svg, event.count("second"), "thin reddash");
            if row == 0 {
                let place = (panel.x(event.count("second")) + 3.0, top + 11.0);
                svg.text(place, Anchor::Start, "dim", &(number + 1).to_string());
            }
        }
        if row + 1 == services.len() {
            panel.seconds(&mut svg);
        }
    }
    for (row, text) in told.iter().enumerate() {
        svg.text((LEFT, bottom + 12.0 + 18.0 * row as f64), Anchor::Start, "dim", text);
    }
    svg.finish()
}

/// A text in lines that fit, broken between words.
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
    fn each_service_has_a_panel_and_each_event_a_dash_in_all() {
        let series = "second,service,sent,written,lag\n1,fare,10,10,0\n1,ride_analysis,10,4,6\n2,fare,20,20,0\n2,ride_analysis,20,4,16\n";
        let events = "second,kind,event\n1.5,locked,someone locks the table\n";
        let svg = draw(&Table::parse(series).unwrap(), &Table::parse(events).unwrap());
        assert_eq!(svg.matches("class=\"line amber\"").count(), 2);
        assert_eq!(svg.matches("class=\"thin reddash\"").count(), 2);
        assert!(svg.contains("1 · 2 s: someone locks the table"), "{svg}");
    }
}
