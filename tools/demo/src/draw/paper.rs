//! The base of all plots: paper, colours, texts, and panels with the time on the horizontal axis.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::numbers::{grouped, to_u64};
use crate::report::escaped;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Chart<'a, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>;

// Most people can distinguish these colours. Curves that often lie upon each other also differ in width.
pub(super) const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
pub(super) const VIOLET: RGBColor = RGBColor(0x8a, 0x3f, 0xfc);
pub(super) const GREEN: RGBColor = RGBColor(0x19, 0x80, 0x38);
pub(super) const AMBER: RGBColor = RGBColor(0xb2, 0x86, 0x00);
pub(super) const RED: RGBColor = RGBColor(0xda, 0x1e, 0x28);
pub(super) const GREY: RGBColor = RGBColor(0xcc, 0xcc, 0xcc);
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const DIM: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// The appearance of a text: size in pixels, colour, bold or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look(f64, RGBColor, bool);

pub(super) const TITLE: Look = Look(18.0, INK, true);
pub(super) const HEAD: Look = Look(14.0, INK, true);
pub(super) const PLAIN: Look = Look(12.0, INK, false);
pub(super) const NOTE: Look = Look(11.0, DIM, false);
pub(super) const WARN: Look = Look(11.0, RED, false);
pub(super) const GOOD: Look = Look(11.0, GREEN, false);

impl Look {
    /// Returns the style of a text that is vertically centred on its point.
    pub(super) fn style(self, align: HPos) -> TextStyle<'static> {
        let Self(size, colour, is_bold) = self;
        let font = if is_bold { FontStyle::Bold } else { FontStyle::Normal };
        // plotters divides every size by this factor.
        let font = FontDesc::new(FontFamily::Name("system-ui, sans-serif"), size * 1.24, font);
        font.color(&colour).pos(Pos::new(align, VPos::Center))
    }
}

/// Draws on a white background, so that the plot is readable on dark pages too. Returns the SVG. `title` is for screen readers.
pub(super) fn paint(title: &str, size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let paper = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    paper.fill(&WHITE)?;
    draw(&paper)?;
    paper.present()?;
    drop(paper);
    Ok(svg.replacen(">\n", &format!(" role=\"img\">\n<title>{}</title>\n", escaped(title)), 1))
}

pub(super) fn write(area: &Area<'_>, text: &str, look: Look, align: HPos, at: (i32, i32)) -> Result<()> {
    Ok(area.draw_text(text, &look.style(align), at)?)
}

pub(super) fn head(area: &Area<'_>, title: &str, note: &str) -> Result<()> {
    write(area, title, TITLE, HPos::Left, (20, 24))?;
    write(area, note, NOTE, HPos::Left, (20, 46))
}

/// Returns the bounds of a logarithmic axis and the number of its marks. It has whole decades, from `min` to at least `max`.
pub(super) fn decades(min: f64, max: f64) -> (Range<f64>, usize) {
    let decades = (max.max(min * 10.0) / min).log10().ceil();
    (min..min * 10_f64.powf(decades), usize::try_from(to_u64(decades)).unwrap_or(0) + 1)
}

/// The position of a panel, and the lengths of its axes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) at: (i32, i32),
    pub(super) size: (u32, u32),
    /// The space for labels on the left, in pixels; 0 if there are no labels.
    pub(super) left: u32,
    /// Whether the panel is in the last row, under which the seconds are labelled.
    pub(super) is_last: bool,
    pub(super) seconds: f64,
}

impl Frame {
    pub(super) fn open<'a, Y>(&self, area: &Area<'a>, values: Y) -> Result<Chart<'a, Y::CoordDescType>>
    where
        Y: AsRangedCoord<Value = f64>,
    {
        let below = if self.is_last { 22 } else { 0 };
        let (x, y) = self.at;
        let left = i32::try_from(self.left)?;
        let area = area.clone().shrink((x - left, y), (self.size.0 + self.left, self.size.1 + below));
        let mut builder = ChartBuilder::on(&area);
        builder.y_label_area_size(self.left).x_label_area_size(below);
        Ok(builder.build_cartesian_2d(0.0..self.seconds, values)?)
    }

    /// Draws about `marks` horizontal lines at round values.
    pub(super) fn grid<Y>(&self, chart: &mut Chart<'_, Y>, marks: usize, word: &dyn Fn(&f64) -> String) -> Result<()>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().max_light_lines(0).bold_line_style(GRID).axis_style(GRID);
        mesh.label_style(NOTE.style(HPos::Right)).x_labels(4).y_labels(marks);
        Ok(mesh.x_label_formatter(&|second| format!("{} s", grouped(*second))).y_label_formatter(word).draw()?)
    }
}

/// Shades a period. Curves that are drawn later cover the shade.
pub(super) fn shade<Y>(chart: &mut Chart<'_, Y>, (from, to): (f64, f64), colour: RGBColor) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    let values = chart.y_range();
    chart.draw_series([Rectangle::new([(from, values.start), (to, values.end)], colour.filled())])?;
    Ok(())
}

pub(super) fn moment<Y>(chart: &mut Chart<'_, Y>, second: f64) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    let values = chart.y_range();
    let line = [(second, values.start), (second, values.end)];
    chart.draw_series([PathElement::new(line, RED)])?;
    Ok(())
}

/// Draws a curve through the points. It is interrupted where a point has no value. Values beyond the axis are drawn at its end.
pub(super) fn curve<Y>(chart: &mut Chart<'_, Y>, points: &[(f64, Option<f64>)], style: ShapeStyle) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    for run in runs(points, &chart.y_range()) {
        chart.draw_series(LineSeries::new(run, style))?;
    }
    Ok(())
}

/// Splits the points at the gaps, and clamps their values to the axis.
pub(super) fn runs(points: &[(f64, Option<f64>)], values: &Range<f64>) -> Vec<Vec<(f64, f64)>> {
    let on_axis = |&(second, value): &(f64, Option<f64>)| Some((second, value?.clamp(values.start, values.end)));
    let runs = points.split(|(_, value)| value.is_none()).filter(|run| !run.is_empty());
    runs.map(|run| run.iter().filter_map(on_axis).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_breaks_where_nothing_was_measured_and_stays_on_its_axis() {
        let points = [(1.0, Some(0.0)), (2.0, Some(5.0)), (3.0, None), (4.0, None), (5.0, Some(20.0))];
        assert_eq!(runs(&points, &(1.0..10.0)), [vec![(1.0, 1.0), (2.0, 5.0)], vec![(5.0, 10.0)]]);
    }

    #[test]
    fn a_logarithmic_axis_has_whole_decades() {
        assert_eq!(decades(100.0, 250_000.0), (100.0..1_000_000.0, 5));
        assert_eq!(decades(1.0, 0.0), (1.0..10.0, 2));
    }

    #[test]
    fn the_title_is_for_screen_readers() {
        let svg = paint("a < b", (10, 10), |_| Ok(())).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains(" role=\"img\">\n<title>a &lt; b</title>"), "{svg}");
    }
}
