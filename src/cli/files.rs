//! Reading inputs with a limit and writing outputs whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use longgen_runtime::read::{ReadError, read_limited, take};
use thiserror::Error;

/// What can go wrong with a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It cannot be written.
    #[error("`{}` cannot be written; nothing was left behind", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory stands where a file is expected.
    #[error("`{}` is a directory, not a file", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Its bytes are not UTF-8.
    #[error("`{}` is no text", .path.display())]
    NoText {
        /// The file.
        path: PathBuf,
        /// Where it stops being one.
        source: std::str::Utf8Error,
    },
}

/// More bytes than any text that a model reads.
const TEXT_LIMIT: u64 = 1 << 30;

/// Reads a text for a model, from standard input where the path is `-`.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = match path.as_os_str() == "-" {
        true => take(io::stdin().lock(), path, "text", TEXT_LIMIT)?,
        false => read_limited(path, "text", TEXT_LIMIT)?,
    };
    String::from_utf8(bytes)
        .map_err(|error| FileError::NoText { path: path.into(), source: error.utf8_error() })
}

/// Files that appear together: all are written under temporary names before the first gets its own.
#[derive(Debug, Default)]
pub struct FileSet {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl FileSet {
    /// Adds a file to be written.
    pub fn add(&mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) {
        self.files.push((path.into(), bytes.into()));
    }

    /// How many files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Writes all files; on an error none of them is left behind and older ones stay as they were.
    pub fn commit(self) -> Result<(), FileError> {
        let mut pending = Pending::default();
        for (path, bytes) in &self.files {
            let failed = |source| FileError::Write { path: path.clone(), source };
            if path.is_dir() {
                return Err(FileError::Directory { path: path.clone() });
            }
            pending.stage(path, bytes).map_err(failed)?;
        }
        pending.publish()
    }
}

/// Writes one file, whole or not at all.
pub fn write(path: &Path, bytes: impl Into<Vec<u8>>) -> Result<(), FileError> {
    let mut files = FileSet::default();
    files.add(path, bytes);
    files.commit()
}

/// A folder to write into. What had to be created goes away again, unless it is kept.
#[derive(Debug)]
pub struct Folder {
    /// Folders that were not there before, outermost first.
    created: Vec<PathBuf>,
}

impl Folder {
    /// Makes sure that the folder is there.
    pub fn create(path: &Path) -> Result<Folder, FileError> {
        let missing =
            path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let mut created: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        created.reverse();
        let folder = Folder { created };
        fs::create_dir_all(path).map_err(|source| FileError::Write { path: path.into(), source })?;
        Ok(folder)
    }

    /// Leaves the folder where it is.
    pub fn keep(mut self) {
        self.created.clear();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for folder in self.created.iter().rev() {
            // Only an empty folder goes, and only after an error that is being reported.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Staged files; those that were not published are removed when it goes away.
#[derive(Default)]
struct Pending {
    staged: Vec<(PathBuf, PathBuf)>,
}

impl Pending {
    fn stage(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Through a symbolic link to the file it means; what does not exist yet has no link to follow.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if fs::metadata(&target).is_ok_and(|existing| !existing.is_file()) {
            // A device or a pipe takes bytes as they come and must not be replaced by a file.
            return File::options().write(true).open(&target)?.write_all(bytes);
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let mut file = File::options().write(true).create_new(true).open(&temporary)?;
        self.staged.push((temporary, target));
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn publish(mut self) -> Result<(), FileError> {
        for (temporary, target) in std::mem::take(&mut self.staged) {
            fs::rename(&temporary, &target).map_err(|source| {
                self.staged.push((temporary, target.clone()));
                FileError::Write { path: target, source }
            })?;
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        for (temporary, _) in &self.staged {
            // Cleaning up after an error that is being reported; a second one would hide it.
            let _ = fs::remove_file(temporary);
        }
    }
}
