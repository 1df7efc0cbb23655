//! Draws the rates of the last minute as two lines of bars.

use super::super::history::Columns;
use super::super::words::whole;
use super::{FLOOD_SECONDS, label};

/// Returns the rates into Kafka and into Postgres in the last minute, as two lines of bars with a common scale. Returns no lines
/// if both rates were always 0 or unknown.
pub(super) fn draw(history: &Columns) -> Vec<String> {
    let column = |rates: &[Option<f32>]| -> Vec<Option<f64>> {
        let last = &rates[rates.len().saturating_sub(FLOOD_SECONDS)..];
        last.iter().map(|rate| rate.map(f64::from)).collect()
    };
    let (into, out) = (column(&history.into), column(&history.out));
    let top = into.iter().chain(&out).flatten().copied().fold(0.0, f64::max);
    if top <= 0.0 {
        return Vec::new();
    }
    let bars = |values: &[Option<f64>]| -> String {
        values.iter().map(|value| value.map_or(' ', |value| bar(value / top))).collect()
    };
    vec![
        format!("{}into Kafka    {}  the last {} s, up to {}/s", label(""), bars(&into), into.len(), whole(top)),
        format!("{}into Postgres {}", label(""), bars(&out)),
    ]
}

fn bar(share: f64) -> char {
    match share {
        s if s <= 0.0 => '·',
        s if s <= 0.125 => '▁',
        s if s <= 0.25 => '▂',
        s if s <= 0.375 => '▃',
        s if s <= 0.5 => '▄',
        s if s <= 0.625 => '▅',
        s if s <= 0.75 => '▆',
        s if s <= 0.875 => '▇',
        _ => '█',
    }
}
