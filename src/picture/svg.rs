//! A scene as SVG text.

use std::fmt::Write;

use super::scene::{Anchor, Rect, Rgb, Scene, Text, TextSize};

/// Advance over font size of the monospaced faces named below.
const ADVANCE: f32 = 0.6;

impl Scene {
    /// The drawing as an SVG document, shown at half its pixels: PNGs are drawn for dense screens.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        let (width, height) = (self.width, self.height);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"'Noto Sans Mono', 'DejaVu Sans Mono', Menlo, Consolas, monospace\">",
            width / 2,
            height / 2
        );
        let _ = writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>");
        svg.push_str("<g shape-rendering=\"crispEdges\">\n");
        self.rects.iter().for_each(|rect| push_rect(&mut svg, rect));
        svg.push_str("</g>\n");
        self.texts.iter().for_each(|text| push_text(&mut svg, text));
        svg.push_str("</svg>\n");
        svg
    }
}

fn push_rect(svg: &mut String, rect: &Rect) {
    let Rect { x, y, width, height, fill } = rect;
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
        hex(*fill)
    );
}

fn push_text(svg: &mut String, text: &Text) {
    let anchor = match text.anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let weight = if text.size == TextSize::Title { " font-weight=\"bold\"" } else { "" };
    let (x, y) = (text.x, text.y);
    let turn = if text.upwards { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{:.1}\" text-anchor=\"{anchor}\" dominant-baseline=\"central\" \
         fill=\"{}\"{weight}{turn}>{}</text>",
        text.size.advance() as f32 / ADVANCE,
        hex(text.fill),
        escaped(&text.text)
    );
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
