//! Reading files up to a limit, whatever the file turns out to be: configurations, tokenizers, what a user names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// More bytes than any `config.json`, index of shards, or state of a training has.
pub const CONFIG_LIMIT: u64 = 16 << 20;
/// The largest `tokenizer.json` in use has some 40 MB.
pub const TOKENIZER_LIMIT: u64 = 1 << 28;

/// Why a file was not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The system refuses.
    #[error("`{}` cannot be read", .path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A directory stands where a file is expected.
    #[error("`{}` is a directory, not a file", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// It is larger than any such file needs to be.
    #[error("`{}` has more than {limit} bytes, which is no {what}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Reads a file of at most `limit` bytes, and never more; `what` names it in errors.
///
/// # Errors
/// A file that cannot be read, or is larger.
pub fn read_limited(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>, ReadError> {
    if path.is_dir() {
        return Err(ReadError::Directory { path: path.into() });
    }
    let file = File::open(path).map_err(|source| ReadError::System { path: path.into(), source })?;
    take(file, path, what, limit)
}

/// The same of what is open already; `path` names it in errors.
///
/// # Errors
/// As [`read_limited`].
pub fn take(from: impl Read, path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let read = from.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| ReadError::System { path: path.into(), source })?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge { path: path.into(), what, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        let read = |limit| take(io::repeat(b'a').take(8), Path::new("-"), "text", limit);
        assert_eq!(read(8).unwrap(), [b'a'; 8]);
        let endless = take(io::repeat(b'a'), Path::new("-"), "text", 8).unwrap_err().to_string();
        assert!(endless.contains("`-` has more than 8 bytes, which is no text"), "{endless}");
    }
}
