//! The few shapes of SVG that plots are made of.

/// Blue, violet, green, amber, red and greys that are told apart by most eyes; lines differ in stroke as well.
const STYLE: &str = "\
    svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#222}.dim{fill:#666;font-size:11px}\
    .head{font-weight:600;font-size:14px}.title{font-weight:600;font-size:18px}.num{font-variant-numeric:tabular-nums}\
    .grid{stroke:#ddd;stroke-width:1}.axis{stroke:#999;stroke-width:1}\
    .line{fill:none;stroke-width:1.6;stroke-linejoin:round}.thin{fill:none;stroke-width:1}\
    .blue{stroke:#1f6fb4}.violet{stroke:#8a3ffc;stroke-dasharray:5 2}.green{stroke:#198038;stroke-width:2.4}\
    .grey{stroke:#888;stroke-dasharray:2 2}.amber{stroke:#b28600}.red{stroke:#da1e28}\
    .reddash{stroke:#da1e28;stroke-dasharray:4 3}\
    .warn{fill:#da1e28;font-size:11px}.good{fill:#198038;font-size:11px}\
    .rush{fill:#fff3d1}.away{fill:#f3d9d9}.bar{fill:#8fb8de}.ours{fill:#74b87f}.whisker{stroke:#222;stroke-width:1.5}";

/// Where a text stands by its point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being drawn.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// `title` is read out by screen readers.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let body = format!("<title>{}</title>\n", escaped(title));
        Self { width, height, body }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.push(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(&format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" class=\"{class}\"/>"));
    }

    pub(super) fn rectangle(&mut self, (x, y): (f64, f64), width: f64, height: f64, class: &str) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        self.push(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>"
        ));
    }

    /// A line through points; it breaks where there is none.
    pub(super) fn path(&mut self, points: impl IntoIterator<Item = Option<(f64, f64)>>, class: &str) {
        let (mut data, mut is_down) = (String::new(), false);
        for point in points {
            match point {
                Some((x, y)) => {
                    data += &format!("{}{x:.1} {y:.1}", if is_down { 'L' } else { 'M' });
                    is_down = true;
                }
                None => is_down = false,
            }
        }
        if !data.is_empty() {
            self.push(&format!("<path d=\"{data}\" class=\"{class}\"/>"));
        }
    }

    pub(super) fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\">\n\
             <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: &str) {
        self.body += element;
        self.body.push('\n');
    }
}

/// As text and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_breaks_where_nothing_was_measured() {
        let mut svg = Svg::new(10.0, 10.0, "a < b");
        svg.path([Some((0.0, 1.0)), Some((1.0, 1.0)), None, Some((3.0, 2.0))], "blue");
        let text = svg.finish();
        assert!(text.contains("d=\"M0.0 1.0L1.0 1.0M3.0 2.0\""), "{text}");
        assert!(text.contains("<title>a &lt; b</title>"));
    }
}
