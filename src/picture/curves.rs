//! Curves over a common axis, such as the losses of several trainings.

use super::scene::{Anchor, Rect, Rgb, Scene, Text, TextSize};

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// (x, y), in ascending order of x. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A picture of curves.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// Above everything.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// The curves; the first is drawn in the first colour.
    pub curves: Vec<Curve>,
}

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 800;
const LEFT: u32 = 140;
const RIGHT: u32 = 40;
const TOP: u32 = 90;
const BOTTOM: u32 = 110;
const LINE: u32 = 3;
/// Of the legend: the height of a line, the width of a colour's mark, and what is left beside it.
const LEGEND_LINE: u32 = 36;
const MARK: u32 = 50;
const GAP: u32 = 15;
const TICKS: usize = 6;
const INK: Rgb = [40, 40, 40];
const GRID: Rgb = [225, 225, 225];
/// Colours that stay apart for most colour-blind readers (Okabe and Ito).
const COLOURS: [Rgb; 7] = [
    [0, 114, 178],
    [230, 159, 0],
    [0, 158, 115],
    [204, 121, 167],
    [213, 94, 0],
    [86, 180, 233],
    [60, 60, 60],
];

/// Values along one side, and the pixels they fall on.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, from: u32, to: u32) -> Axis {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        // A single value, or none, still gets an axis.
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let high = if high > low { high } else { low + 1.0 };
        Axis { low, high, from: from.into(), to: to.into() }
    }

    fn pixel(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round numbers inside the range.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|v| *v <= self.high * (1.0 + 1e-9)).collect()
    }
}

impl Curves {
    /// The drawing.
    pub fn draw(&self) -> Scene {
        let points =
            || self.curves.iter().flat_map(|c| &c.points).filter(|p| p.0.is_finite() && p.1.is_finite());
        let x = Axis::new(points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let (places, top) = self.legend();
        let height = HEIGHT + top - TOP;
        let y = Axis::new(points().map(|p| p.1), height - BOTTOM, top);
        let mut scene = Scene { width: WIDTH, height, ..Scene::default() };
        self.frame(&mut scene, &x, &y);
        for (n, (curve, (left, line))) in self.curves.iter().zip(places).enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            curve.draw(&mut scene, &x, &y, colour);
            scene.rects.push(Rect { x: left, y: line - 3, width: MARK, height: 6, fill: colour });
            scene.texts.push(text(left + MARK + GAP, line, Anchor::Start, &curve.name));
        }
        scene
    }

    /// Where the legend's entries are, in lines below the title, and where the plot begins: no curve runs through a name.
    fn legend(&self) -> (Vec<(u32, u32)>, u32) {
        let (mut left, mut line) = (LEFT, TOP);
        let mut places = Vec::with_capacity(self.curves.len());
        for curve in &self.curves {
            let width = MARK + 3 * GAP + curve.name.chars().count() as u32 * TextSize::Label.advance();
            if left > LEFT && left + width > WIDTH {
                (left, line) = (LEFT, line + LEGEND_LINE);
            }
            places.push((left, line));
            left += width;
        }
        (places, line + LEGEND_LINE)
    }

    fn frame(&self, scene: &mut Scene, x: &Axis, y: &Axis) {
        let (bottom, top) = (y.from as u32, y.to as u32);
        for value in y.ticks() {
            let at = y.pixel(value).round() as u32;
            scene.rects.push(Rect { x: LEFT, y: at, width: WIDTH - LEFT - RIGHT, height: 1, fill: GRID });
            scene.texts.push(text(LEFT - 12, at, Anchor::End, &number(value)));
        }
        for value in x.ticks() {
            let at = x.pixel(value).round() as u32;
            scene.rects.push(Rect { x: at, y: top, width: 1, height: bottom - top, fill: GRID });
            scene.texts.push(text(at, bottom + 28, Anchor::Middle, &number(value)));
        }
        let title = Text { size: TextSize::Title, ..text(LEFT, TOP / 2, Anchor::Start, &self.title) };
        let side = Text { upwards: true, ..text(28, (top + bottom) / 2, Anchor::Middle, &self.y_label) };
        let below = text((LEFT + WIDTH - RIGHT) / 2, bottom + BOTTOM - 34, Anchor::Middle, &self.x_label);
        scene.texts.extend([title, side, below]);
    }
}

impl Curve {
    /// The curve as columns of pixels, each as high as the curve's course through it.
    fn draw(&self, scene: &mut Scene, x: &Axis, y: &Axis, fill: Rgb) {
        let pixels: Vec<(f64, f64)> = self
            .points
            .iter()
            .filter(|p| p.0.is_finite() && p.1.is_finite())
            .map(|p| (x.pixel(p.0), y.pixel(p.1)))
            .collect();
        for pair in pixels.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let columns = ((x1 - x0).abs().ceil() as u32).max(1);
            for column in 0..columns {
                let at = |step: u32| y0 + (y1 - y0) * f64::from(step) / f64::from(columns);
                let (above, below) = (at(column).min(at(column + 1)), at(column).max(at(column + 1)));
                let height = (below - above).round() as u32 + LINE;
                let left = (x0 + f64::from(column)).round() as u32;
                let top = (above.round() as u32).saturating_sub(LINE / 2);
                scene.rects.push(Rect { x: left, y: top, width: 1, height, fill });
            }
        }
    }
}

pub(super) fn text(x: u32, y: u32, anchor: Anchor, text: &str) -> Text {
    Text { x, y, size: TextSize::Label, anchor, upwards: false, fill: INK, text: text.to_string() }
}

/// A tick's label without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stay_inside_the_frame_and_have_a_legend() {
        let points =
            (0..50).map(|n| (f64::from(n), 5.0 / f64::from(n + 1))).chain([(50.0, f64::NAN)]).collect();
        let flat = Curve { name: "flat".into(), points: vec![(0.0, 2.0), (49.0, 2.0)] };
        let curves = vec![Curve { name: "one".into(), points }, flat];
        let picture = Curves { title: "t".into(), x_label: "x".into(), y_label: "y".into(), curves };
        let scene = picture.draw();
        assert!(scene.rects.iter().all(|r| r.x + r.width <= WIDTH && r.y + r.height <= scene.height));
        assert!(scene.texts.iter().any(|t| t.text == "flat") && scene.texts.iter().any(|t| t.text == "40"));
        assert!(scene.to_png().is_ok());
    }

    #[test]
    fn a_legend_takes_the_lines_it_needs_above_the_plot() {
        let curve = |n: usize| Curve {
            name: format!("run number {n} of the plot"),
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        };
        let curves = (0..7).map(curve).collect();
        let picture = Curves { title: "t".into(), x_label: "x".into(), y_label: "y".into(), curves };
        let (places, top) = picture.legend();
        assert!(places[6].1 > places[0].1 && places.iter().all(|place| place.1 < top));
        let of_plot = picture.draw().rects.into_iter().filter(|rect| rect.fill == GRID);
        assert!(of_plot.map(|rect| rect.y).min() >= Some(top));
    }
}
