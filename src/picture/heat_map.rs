//! A table of shares as coloured cells.

use super::curves::text;
use super::scene::{Anchor, Rect, Rgb, Scene, Text, TextSize};

/// A picture of shares from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Above everything.
    pub title: String,
    /// Below the columns.
    pub x_label: String,
    /// Beside the rows.
    pub y_label: String,
    /// Labels of the columns.
    pub columns: Vec<String>,
    /// Labels of the rows, from above.
    pub rows: Vec<String>,
    /// One list for each row; `None` for what was not measured.
    pub values: Vec<Vec<Option<f64>>>,
}

const CELL_WIDTH: u32 = 150;
const CELL_HEIGHT: u32 = 70;
const LEFT: u32 = 150;
const TOP: u32 = 90;
const UNKNOWN: Rgb = [235, 235, 235];
/// From none to all: dark blue, over yellow.
const NONE: Rgb = [68, 85, 140];
const ALL: Rgb = [250, 220, 90];
const LIGHT: Rgb = [255, 255, 255];

impl HeatMap {
    /// The drawing.
    pub fn draw(&self) -> Scene {
        let width = LEFT + CELL_WIDTH * self.columns.len() as u32 + 40;
        let height = TOP + CELL_HEIGHT * self.rows.len() as u32 + 110;
        let mut scene = Scene { width, height, ..Scene::default() };
        let middle_x = |n: usize| LEFT + CELL_WIDTH * n as u32 + CELL_WIDTH / 2;
        let middle_y = |n: usize| TOP + CELL_HEIGHT * n as u32 + CELL_HEIGHT / 2;
        for (row, values) in self.values.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let (x, y) = (LEFT + CELL_WIDTH * column as u32, TOP + CELL_HEIGHT * row as u32);
                let fill = value.map_or(UNKNOWN, colour);
                scene.rects.push(Rect { x, y, width: CELL_WIDTH - 2, height: CELL_HEIGHT - 2, fill });
                if let Some(value) = value {
                    let label = format!("{:.0}%", 100.0 * value);
                    let text = text(middle_x(column), middle_y(row), Anchor::Middle, &label);
                    let fill = if *value < 0.4 { LIGHT } else { text.fill };
                    scene.texts.push(Text { fill, ..text });
                }
            }
        }
        let below = height - 110;
        for (n, label) in self.columns.iter().enumerate() {
            scene.texts.push(text(middle_x(n), below + 26, Anchor::Middle, label));
        }
        for (n, label) in self.rows.iter().enumerate() {
            scene.texts.push(text(LEFT - 14, middle_y(n), Anchor::End, label));
        }
        let title = Text { size: TextSize::Title, ..text(LEFT, TOP / 2, Anchor::Start, &self.title) };
        let x_label = text((LEFT + width - 40) / 2, below + 72, Anchor::Middle, &self.x_label);
        let y_label = Text { upwards: true, ..text(28, (TOP + below) / 2, Anchor::Middle, &self.y_label) };
        scene.texts.extend([title, x_label, y_label]);
        scene
    }
}

fn colour(value: f64) -> Rgb {
    let share = value.clamp(0.0, 1.0);
    std::array::from_fn(|c| (f64::from(NONE[c]) * (1.0 - share) + f64::from(ALL[c]) * share).round() as u8)
}
