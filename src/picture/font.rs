//! The bitmap font of PNG pictures, and the metrics that SVG pictures share with it.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width};

use super::scene::TextSize;

impl TextSize {
    fn face(self) -> (FontWeight, RasterHeight) {
        match self {
            TextSize::Title => (FontWeight::Bold, RasterHeight::Size32),
            TextSize::Label => (FontWeight::Regular, RasterHeight::Size24),
        }
    }

    /// Pixels from one character to the next.
    pub(super) fn advance(self) -> u32 {
        let (weight, height) = self.face();
        get_raster_width(weight, height) as u32
    }

    /// Pixels from one line to the next.
    pub(super) fn line_height(self) -> u32 {
        self.face().1.val() as u32
    }

    /// A character's coverage; a question mark stands in for one that the font lacks.
    pub(super) fn glyph(self, character: char) -> Option<RasterizedChar> {
        let (weight, height) = self.face();
        get_raster(character, weight, height).or_else(|| get_raster('?', weight, height))
    }
}
