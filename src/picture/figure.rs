//! The layout of a figure: title, one panel for each head, axes in tokens, legend.

use super::grid::{Cell, Class, MaskGrid};
use super::scene::{Anchor, Rect, Rgb, Scene, Text, TextSize};

const INK: Rgb = [31, 41, 51];
const MUTED: Rgb = [100, 112, 125];
const FRAME: Rgb = [196, 203, 211];
const FULL: Rgb = [38, 84, 140];
const EDGE: Rgb = [94, 148, 204];
const EDGE_HIDDEN: Rgb = [217, 230, 244];
const PARTIAL: Rgb = [230, 140, 44];
const PARTIAL_HIDDEN: Rgb = [252, 232, 206];
const SKIPPED: Rgb = [234, 237, 241];
const FUTURE: Rgb = [255, 255, 255];

/// Space around everything and between panels.
const MARGIN: u32 = 40;
/// Space for the query axis: its numbers and its name.
const QUERY_AXIS: u32 = 148;
/// Space below a panel for the key axis.
const KEY_AXIS: u32 = 84;
/// Side of the square of a legend entry.
const SWATCH: u32 = 26;

/// One head's mask.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What the panel shows, like `KV head 0`.
    pub title: String,
    /// A remark at the right, like the share of visible pairs.
    pub remark: String,
    /// The mask.
    pub grid: MaskGrid,
}

/// A picture of one pattern, heads side by side.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The pattern.
    pub title: String,
    /// Length, tile and whatever else holds for all panels.
    pub subtitle: String,
    /// At least one, all with grids of the same size.
    pub panels: Vec<Panel>,
}

impl Figure {
    /// Lays the figure out.
    pub fn draw(&self) -> Scene {
        let target = if self.panels.len() > 1 { 600 } else { 900 };
        let cells = self.panels.iter().map(|panel| panel.grid.side()).max().unwrap_or(1);
        let cell = (target / cells.max(1)).max(1);
        let side = cell * cells;
        let count = self.panels.len() as u32;
        let plots = QUERY_AXIS + count * side + count.saturating_sub(1) * MARGIN;
        let legend = Legend::of(&self.panels);
        let width = 2 * MARGIN + plots.max(legend.width(plots.max(900)));
        let characters = |size: TextSize| ((width - 2 * MARGIN) / size.advance()) as usize;
        let mut scene = Scene { width, ..Scene::default() };

        let mut y = MARGIN + 16;
        scene.text(
            MARGIN,
            y,
            TextSize::Title,
            Anchor::Start,
            INK,
            shortened(&self.title, characters(TextSize::Title)),
        );
        y += 40;
        scene.text(
            MARGIN,
            y,
            TextSize::Label,
            Anchor::Start,
            MUTED,
            shortened(&self.subtitle, characters(TextSize::Label)),
        );
        y += 64;
        for (n, panel) in (0..).zip(&self.panels) {
            let x = MARGIN + QUERY_AXIS + n * (side + MARGIN);
            let frame = Frame { x, y, side, cell };
            frame.draw(&mut scene, panel);
            frame.key_axis(&mut scene, &panel.grid);
            if n == 0 {
                frame.query_axis(&mut scene, &panel.grid);
            }
        }
        y += side + KEY_AXIS + 40;
        y = legend.draw(&mut scene, y, width - 2 * MARGIN);
        scene.height = y + MARGIN;
        scene
    }
}

/// Where a panel's plot lies.
struct Frame {
    x: u32,
    y: u32,
    side: u32,
    cell: u32,
}

impl Frame {
    fn draw(&self, scene: &mut Scene, panel: &Panel) {
        let (x, y, side) = (self.x, self.y, self.side);
        let columns = (side / TextSize::Label.advance()) as usize;
        let remark = shortened(&panel.remark, columns);
        let room = columns.saturating_sub(remark.chars().count() + 1);
        scene.text(x, y - 24, TextSize::Label, Anchor::Start, INK, shortened(&panel.title, room));
        scene.text(x + side, y - 24, TextSize::Label, Anchor::End, MUTED, remark);
        scene.rect(x - 2, y - 2, side + 4, side + 4, FRAME);
        scene.rect(x, y, side, side, FUTURE);
        self.cells(scene, &panel.grid);
        self.tile_lines(scene, &panel.grid);
    }

    /// Runs of equal cells become one rectangle, and so do equal runs below each other.
    fn cells(&self, scene: &mut Scene, grid: &MaskGrid) {
        let mut open: Vec<Rect> = Vec::new();
        for query in 0..grid.side() {
            let y = self.y + query * self.cell;
            let mut runs: Vec<Rect> = Vec::new();
            for key in 0..grid.side() {
                let fill = colour(grid.cell(query, key));
                match runs.last_mut() {
                    Some(run) if run.fill == fill => run.width += self.cell,
                    _ => runs.push(Rect {
                        x: self.x + key * self.cell,
                        y,
                        width: self.cell,
                        height: self.cell,
                        fill,
                    }),
                }
            }
            for run in &mut runs {
                let same = |above: &Rect| (above.x, above.width, above.fill) == (run.x, run.width, run.fill);
                if let Some(above) = open.iter().position(same) {
                    let above = open.swap_remove(above);
                    (run.y, run.height) = (above.y, above.height + self.cell);
                }
            }
            scene.rects.append(&mut open);
            open = runs;
            // The ground has this colour already.
            open.retain(|rect| rect.fill != FUTURE);
        }
        scene.rects.append(&mut open);
    }

    /// The borders of tiles, where there is room for them.
    fn tile_lines(&self, scene: &mut Scene, grid: &MaskGrid) {
        let (down, right) = (grid.tile().queries / grid.cell_tokens(), grid.tile().keys / grid.cell_tokens());
        if self.cell * down.min(right) < 12 {
            return;
        }
        let thick = if self.cell * down.min(right) < 32 { 1 } else { 2 };
        // Only as far as the diagonal: there are no tiles past it.
        for m in 1..grid.side().div_ceil(down) {
            let end = (m * down).div_ceil(right) * right;
            let width = (end.min(grid.side())) * self.cell;
            scene.rect(self.x, self.y + m * down * self.cell - thick / 2, width, thick, FUTURE);
        }
        for n in 1..grid.side().div_ceil(right) {
            let start = n * right / down * down * self.cell;
            scene.rect(
                self.x + n * right * self.cell - thick / 2,
                self.y + start,
                thick,
                self.side - start,
                FUTURE,
            );
        }
    }

    fn key_axis(&self, scene: &mut Scene, grid: &MaskGrid) {
        let bottom = self.y + self.side;
        for (position, label) in self.ticks(grid) {
            let x = self.x + position;
            scene.rect(x.saturating_sub(1), bottom + 2, 2, 8, FRAME);
            let anchor = if position == self.side { Anchor::End } else { Anchor::Middle };
            scene.text(x, bottom + 26, TextSize::Label, anchor, MUTED, label);
        }
        let middle = self.x + self.side / 2;
        scene.text(middle, bottom + 60, TextSize::Label, Anchor::Middle, INK, "key (token)".into());
    }

    fn query_axis(&self, scene: &mut Scene, grid: &MaskGrid) {
        for (position, label) in self.ticks(grid) {
            let y = self.y + position;
            scene.rect(self.x - 10, y.saturating_sub(1), 8, 2, FRAME);
            scene.text(self.x - 18, y, TextSize::Label, Anchor::End, MUTED, label);
        }
        scene.texts.push(Text {
            x: MARGIN + 10,
            y: self.y + self.side / 2,
            size: TextSize::Label,
            anchor: Anchor::Middle,
            upwards: true,
            fill: INK,
            text: "query (token)".into(),
        });
    }

    /// Positions in pixels and the token that stands there.
    fn ticks(&self, grid: &MaskGrid) -> Vec<(u32, String)> {
        let tokens = u64::from(grid.side()) * u64::from(grid.cell_tokens());
        let step = (u64::from(grid.tokens()) / 4).max(1).next_power_of_two();
        let place = |token: u64| (token * u64::from(self.side) / tokens) as u32;
        let end = u64::from(grid.tokens());
        let inner = (0..).map(|n| n * step).take_while(|&token| token + step / 2 < end);
        inner.chain([end]).map(|token| (place(token), axis_number(token))).collect()
    }
}

/// A token count on an axis: whole multiples of 1,024 from 16k on as `k` or `M`.
fn axis_number(token: u64) -> String {
    match token {
        0 => "0".into(),
        _ if token.is_multiple_of(1 << 20) => format!("{}M", token >> 20),
        _ if token >= 1 << 14 && token.is_multiple_of(1 << 10) => format!("{}k", token >> 10),
        _ => token.to_string(),
    }
}

/// Explains the colours that occur.
struct Legend {
    entries: Vec<(Rgb, Option<Rgb>, &'static str)>,
}

impl Legend {
    fn of(panels: &[Panel]) -> Legend {
        let occurs = |class: Class| {
            panels.iter().any(|panel| {
                let side = panel.grid.side();
                (0..side).any(|query| (0..side).any(|key| panel.grid.cell(query, key).class == class))
            })
        };
        let all = [
            (Class::Full, FULL, None, "full tile: no mask"),
            (Class::Edge, EDGE, Some(EDGE_HIDDEN), "causal edge: only key <= query"),
            (Class::Partial, PARTIAL, Some(PARTIAL_HIDDEN), "partial tile: visible / hidden"),
            (Class::Skipped, SKIPPED, None, "skipped: never computed"),
        ];
        let shown = all.into_iter().filter(|(class, ..)| occurs(*class));
        Legend { entries: shown.map(|(_, fill, hidden, label)| (fill, hidden, label)).collect() }
    }

    fn entry_width(label: &str) -> u32 {
        SWATCH + 14 + label.chars().count() as u32 * TextSize::Label.advance() + 44
    }

    /// Width of the widest line when no line may be wider than `most`, if a single entry is not.
    fn width(&self, most: u32) -> u32 {
        let (mut widest, mut line) = (0, 0);
        for (.., label) in &self.entries {
            let entry = Self::entry_width(label);
            line = if line + entry > most { entry } else { line + entry };
            widest = widest.max(line);
        }
        widest
    }

    /// Draws lines of at most `most` pixels from `y` down and returns where they end.
    fn draw(&self, scene: &mut Scene, mut y: u32, most: u32) -> u32 {
        let mut x = MARGIN;
        for &(fill, hidden, label) in &self.entries {
            let entry = Self::entry_width(label);
            if x > MARGIN && x + entry > MARGIN + most + 44 {
                (x, y) = (MARGIN, y + SWATCH + 16);
            }
            scene.rect(x, y, SWATCH, SWATCH, fill);
            if let Some(hidden) = hidden {
                scene.rect(x + SWATCH / 2, y, SWATCH / 2, SWATCH, hidden);
            }
            let middle = y + SWATCH / 2;
            scene.text(x + SWATCH + 14, middle, TextSize::Label, Anchor::Start, INK, label.into());
            x += entry;
        }
        y + SWATCH
    }
}

impl Scene {
    fn rect(&mut self, x: u32, y: u32, width: u32, height: u32, fill: Rgb) {
        self.rects.push(Rect { x, y, width, height, fill });
    }

    fn text(&mut self, x: u32, y: u32, size: TextSize, anchor: Anchor, fill: Rgb, text: String) {
        self.texts.push(Text { x, y, size, anchor, upwards: false, fill, text });
    }
}

fn colour(cell: Cell) -> Rgb {
    match cell.class {
        Class::Future => FUTURE,
        Class::Skipped => SKIPPED,
        Class::Full => FULL,
        Class::Edge => mixed(EDGE_HIDDEN, EDGE, cell.share),
        Class::Partial => mixed(PARTIAL_HIDDEN, PARTIAL, cell.share),
    }
}

/// By the root of the share, so that a thin stripe in a large cell can be seen; in sixteen steps, so that neighbours
/// often share a colour and a rectangle.
fn mixed(from: Rgb, to: Rgb, share: f32) -> Rgb {
    let share = (share.sqrt() * 16.0).ceil() / 16.0;
    let channel =
        |n: usize| (f32::from(from[n]) + (f32::from(to[n]) - f32::from(from[n])) * share).round() as u8;
    [channel(0), channel(1), channel(2)]
}

fn shortened(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_string();
    }
    let kept: String = text.chars().take(characters.saturating_sub(3)).collect();
    format!("{kept}...")
}
