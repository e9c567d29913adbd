//! What a figure is made of: rectangles and texts, in pixels from the top left corner.

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// The two sizes of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSize {
    /// Titles, bold.
    Title,
    /// Everything else.
    Label,
}

/// Which point of a text its position names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end (its lower end when it is turned).
    Start,
    /// Its middle.
    Middle,
    /// Its right end (its upper end when it is turned).
    End,
}

/// A filled rectangle.
#[derive(Clone, Debug, PartialEq)]
pub struct Rect {
    /// Left side.
    pub x: u32,
    /// Upper side.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
    /// Fill.
    pub fill: Rgb,
}

/// One line of text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Position of the anchor.
    pub x: u32,
    /// Middle of the line.
    pub y: u32,
    /// Size and weight.
    pub size: TextSize,
    /// What the position names.
    pub anchor: Anchor,
    /// Turned by a quarter, to read upwards.
    pub upwards: bool,
    /// Colour.
    pub fill: Rgb,
    /// The text.
    pub text: String,
}

/// A drawing, before it becomes SVG or PNG.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Rectangles, later ones on top.
    pub rects: Vec<Rect>,
    /// Texts, on top of all rectangles.
    pub texts: Vec<Text>,
}
