//! Pictures of masks: a [`MaskGrid`] sampled from the tile plan, drawn in the terminal ([`TextPicture`]) or as a
//! [`Figure`] with one panel for each head, which writes SVG and PNG from one drawing.
//!
//! A grid has a bounded number of cells whatever the length; nothing here is of size length x length.

mod curves;
mod figure;
mod font;
mod grid;
mod heat_map;
mod raster;
mod scene;
mod svg;
mod text;

pub use curves::{Curve, Curves};
pub use figure::{Figure, Panel};
pub use grid::{Cell, Class, MaskGrid};
pub use heat_map::HeatMap;
pub use scene::Scene;
pub use text::TextPicture;
