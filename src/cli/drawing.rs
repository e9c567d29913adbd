//! Where a picture goes, and in which of the two forms.

use std::path::{Path, PathBuf};

use longgen::picture::Scene;
use thiserror::Error;

use super::files::{self, FileError};

/// A picture file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    path: PathBuf,
    svg: bool,
}

/// What can go wrong with it.
#[derive(Debug, Error)]
pub enum DrawingError {
    /// A name that does not say what to draw.
    #[error("`{}` ends neither in .png nor in .svg: the name says what to draw", .0.display())]
    Format(PathBuf),
    /// An image that cannot be encoded.
    #[error("the picture cannot be encoded")]
    Png(#[from] png::EncodingError),
    /// A file that cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Drawing {
    /// The file, by its name's end.
    pub fn of(path: &Path) -> Result<Drawing, DrawingError> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_deref().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Drawing { path: path.into(), svg: false }),
            Some("svg") => Ok(Drawing { path: path.into(), svg: true }),
            _ => Err(DrawingError::Format(path.into())),
        }
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, scene: &Scene) -> Result<(), DrawingError> {
        let bytes = if self.svg { scene.to_svg().into_bytes() } else { scene.to_png()? };
        Ok(files::write(&self.path, bytes)?)
    }
}
