//! Line charts as inline SVG.

use std::fmt::Write;

use super::{Markup, escape};

/// Size of a chart in its own units, and the room for its labels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 36.0;

/// Values of one name, drawn as a curve, or as a dot when there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// The straight scale that maps values to the picture.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About five round values within the range.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// Draws curves over common axes; y begins at 0.
pub fn lines(x_label: &str, y_label: &str, series: &[Series]) -> Markup {
    let points = || {
        let all = series.iter().flat_map(|series| &series.points);
        all.filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
    let x = Scale {
        low: 0.0,
        high: largest(&mut points().map(|point| point.0)),
        from: LEFT,
        to: WIDTH - RIGHT,
    };
    let y = Scale {
        low: 0.0,
        high: largest(&mut points().map(|point| point.1)) * 1.05,
        from: HEIGHT - BOTTOM,
        to: TOP,
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(y_label)
    );
    axes(&mut svg, &x, &y, [x_label, y_label]);
    for (index, series) in series.iter().enumerate() {
        if let [(px, py)] = series.points.as_slice()
            && px.is_finite()
            && py.is_finite()
        {
            let (cx, cy) = (x.at(*px), y.at(*py));
            let _ = write!(
                svg,
                "<circle class=\"s{}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"5\"/>",
                index % 4
            );
            continue;
        }
        let mut path = String::new();
        for (px, py) in &series.points {
            if px.is_finite() && py.is_finite() {
                let command = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x.at(*px), y.at(*py));
            }
        }
        let _ = write!(svg, "<path class=\"curve s{}\" d=\"{path}\"/>", index % 4);
    }
    legend(&mut svg, series);
    svg.push_str("</svg>");
    Markup(svg)
}

fn axes(svg: &mut String, x: &Scale, y: &Scale, [x_label, y_label]: [&str; 2]) {
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            short(tick)
        );
    }
    for tick in x.ticks() {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x.at(tick),
            HEIGHT - BOTTOM + 15.0,
            short(tick)
        );
    }
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{base}\" y2=\"{base}\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"14\">{}</text>",
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        HEIGHT - 5.0,
        escape(x_label),
        escape(y_label),
        base = HEIGHT - BOTTOM,
    );
}

fn legend(svg: &mut String, series: &[Series]) {
    let mut right = WIDTH - RIGHT;
    for (index, series) in series.iter().enumerate().rev() {
        // Letters of this font are about 6.2 units wide.
        let width = series.name.chars().count() as f64 * 6.2 + 20.0;
        right -= width;
        let _ = write!(
            svg,
            "<rect class=\"s{}\" x=\"{right:.1}\" y=\"6\" width=\"10\" height=\"10\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"15\">{}</text>",
            index % 4,
            right + 14.0,
            escape(&series.name)
        );
    }
}

/// A number with as few digits as it needs.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series {
            name: name.to_owned(),
            points: values
                .iter()
                .enumerate()
                .map(|(i, y)| (i as f64, *y))
                .collect(),
        }
    }

    #[test]
    fn every_series_becomes_a_curve_within_the_picture() {
        let all = [
            series("a & b", &[2.0, 1.0, 0.5]),
            series("c", &[1.5, f64::NAN, 1.0]),
        ];
        let Markup(svg) = lines("epoch", "loss", &all);
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.contains("a &amp; b") && !svg.contains("NaN"));
        let Markup(svg) = lines("epoch", "loss", &[series("one", &[2.0])]);
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        for all in [
            vec![],
            vec![series("empty", &[])],
            vec![series("one", &[0.0])],
        ] {
            let Markup(svg) = lines("epoch", "loss", &all);
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for high in [0.013, 0.9, 1.386, 12.0, 4096.0] {
            let scale = Scale {
                low: 0.0,
                high,
                from: 0.0,
                to: 1.0,
            };
            let ticks = scale.ticks();
            assert!((3..=6).contains(&ticks.len()), "{high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (0.0..=high * 1.001).contains(tick)));
        }
    }
}
