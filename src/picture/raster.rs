//! A scene as a PNG image.

use super::scene::{Anchor, Rect, Rgb, Scene, Text};

struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Scene {
    /// The drawing as an 8-bit RGB PNG of its width and height.
    ///
    /// # Errors
    /// An image without pixels.
    pub fn to_png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut canvas = Canvas::white(self.width, self.height);
        self.rects.iter().for_each(|rect| canvas.fill(rect));
        self.texts.iter().for_each(|text| canvas.write(text));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&canvas.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

impl Canvas {
    fn white(width: u32, height: u32) -> Canvas {
        Canvas { width, height, pixels: vec![255; 3 * width as usize * height as usize] }
    }

    fn fill(&mut self, rect: &Rect) {
        let right = self.width.min(rect.x + rect.width);
        for y in rect.y..self.height.min(rect.y + rect.height) {
            for x in rect.x..right {
                self.blend(x.into(), y.into(), rect.fill, 255);
            }
        }
    }

    fn write(&mut self, text: &Text) {
        let advance = i64::from(text.size.advance());
        let length = advance * text.text.chars().count() as i64;
        let before = match text.anchor {
            Anchor::Start => 0,
            Anchor::Middle => length / 2,
            Anchor::End => length,
        };
        let above = i64::from(text.size.line_height() / 2);
        for (n, character) in text.text.chars().enumerate() {
            let Some(glyph) = text.size.glyph(character) else { continue };
            for (row, line) in glyph.rows().enumerate() {
                for (column, &coverage) in line.iter().enumerate() {
                    let along = n as i64 * advance + column as i64 - before;
                    let across = row as i64 - above;
                    let (dx, dy) = if text.upwards { (across, -along) } else { (along, across) };
                    self.blend(i64::from(text.x) + dx, i64::from(text.y) + dy, text.fill, coverage);
                }
            }
        }
    }

    /// Paints over one pixel; what lies outside is cut off.
    fn blend(&mut self, x: i64, y: i64, colour: Rgb, coverage: u8) {
        let inside = (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y);
        if !inside || coverage == 0 {
            return;
        }
        let at = 3 * (y as usize * self.width as usize + x as usize);
        for (channel, new) in self.pixels[at..at + 3].iter_mut().zip(colour) {
            let (old, new, alpha) = (u32::from(*channel), u32::from(new), u32::from(coverage));
            *channel = ((old * (255 - alpha) + new * alpha + 127) / 255) as u8;
        }
    }
}
