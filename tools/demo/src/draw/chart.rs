//! Axes: from values to places, with marks at round numbers.

use super::svg::{Anchor, Svg};
use crate::numbers::grouped;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From 0.
    Linear { max: f64 },
    /// From 0, with marks where one wants them.
    Steps { step: f64, max: f64 },
    /// By decades; what is below `min` lies on it.
    Log { min: f64, max: f64 },
}

impl Scale {
    /// Decades that hold everything up to `max`.
    pub(super) fn decades(min: f64, max: f64) -> Self {
        Self::Log { min, max: 10_f64.powf(max.max(min * 10.0).log10().ceil()) }
    }

    /// Round numbers that hold everything up to `max`.
    pub(super) fn upto(max: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = step(max);
        Self::Linear { max: (max / step).ceil() * step }
    }

    /// From 0 to 1.
    pub(super) fn share(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { max } | Self::Steps { max, .. } => value / max,
            Self::Log { min, max } => (value.max(min) / min).log10() / (max / min).log10(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Where the grid is drawn.
    pub(super) fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear { max } => Self::Steps { step: step(max), max }.marks(),
            Self::Steps { step, max } => std::iter::successors(Some(0.0), |mark| Some(mark + step))
                .take_while(|mark| *mark <= max * 1.001)
                .collect(),
            Self::Log { min, max } => std::iter::successors(Some(min), |mark| Some(mark * 10.0))
                .take_while(|mark| *mark <= max * 1.001)
                .collect(),
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that three to six marks come about.
fn step(max: f64) -> f64 {
    let raw = max / 4.0;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

/// A panel: time to the right, something upwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) seconds: f64,
    pub(super) scale: Scale,
}

impl Panel {
    pub(super) fn x(&self, second: f64) -> f64 {
        self.left + self.width * (second / self.seconds.max(1e-9)).clamp(0.0, 1.0)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - self.scale.share(value))
    }

    /// A stretch of time, behind everything.
    pub(super) fn shade(&self, svg: &mut Svg, from: f64, to: f64, class: &str) {
        svg.rectangle((self.x(from), self.top), self.x(to) - self.x(from), self.height, class);
    }

    /// Grid and marks; the values' words only where `is_labelled`, since panels side by side share them.
    pub(super) fn grid(&self, svg: &mut Svg, is_labelled: bool, word: impl Fn(f64) -> String) {
        for mark in self.scale.marks() {
            let y = self.y(mark);
            svg.line((self.left, y), (self.left + self.width, y), "grid");
            if is_labelled {
                let is_floor = matches!(self.scale, Scale::Log { min, .. } if mark <= min);
                let word = if is_floor { format!("≤ {}", word(mark)) } else { word(mark) };
                svg.text((self.left - 6.0, y + 4.0), Anchor::End, "dim num", &word);
            }
        }
        svg.line((self.left, self.top + self.height), (self.left + self.width, self.top + self.height), "axis");
    }

    /// Seconds under the panel.
    pub(super) fn seconds(&self, svg: &mut Svg) {
        for mark in Scale::upto(self.seconds).marks().into_iter().filter(|mark| *mark <= self.seconds) {
            let text = format!("{} s", grouped(mark));
            svg.text((self.x(mark), self.top + self.height + 15.0), Anchor::Middle, "dim num", &text);
        }
    }

    pub(super) fn event(&self, svg: &mut Svg, second: f64, class: &str) {
        let x = self.x(second);
        svg.line((x, self.top), (x, self.top + self.height), class);
    }

    /// A line through the values.
    pub(super) fn curve(&self, svg: &mut Svg, points: impl IntoIterator<Item = (f64, Option<f64>)>, class: &str) {
        let places = points.into_iter().map(|(second, value)| value.map(|value| (self.x(second), self.y(value))));
        svg.path(places, class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_that_hold_the_greatest() {
        assert_eq!(Scale::upto(640_123.0).marks(), [0.0, 200_000.0, 400_000.0, 600_000.0, 800_000.0]);
        assert_eq!(Scale::upto(0.0), Scale::Linear { max: 1.0 });
        assert_eq!(Scale::decades(1.0, 250.0).marks(), [1.0, 10.0, 100.0, 1_000.0]);
    }

    #[test]
    fn values_lie_between_the_ends() {
        let log = Scale::decades(1.0, 1_000.0);
        assert_eq!([log.share(0.0), log.share(10.0).mul_add(3.0, 0.0).round(), log.share(1e9)], [0.0, 1.0, 1.0]);
        let panel = Panel { left: 10.0, top: 0.0, width: 100.0, height: 50.0, seconds: 4.0, scale: Scale::upto(100.0) };
        assert_eq!((panel.x(2.0), panel.y(50.0), panel.y(100.0)), (60.0, 25.0, 0.0));
    }
}
