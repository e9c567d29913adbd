//! The small files of a model directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::ModelError;

/// More bytes than any `config.json`, or index of shards, has.
pub const CONFIG_LIMIT: u64 = 16 << 20;
/// The largest `tokenizer.json` in use has some 40 MB.
pub const TOKENIZER_LIMIT: u64 = 1 << 28;

/// Reads a file of at most `limit` bytes, and never more, whatever the file is.
///
/// # Errors
/// A file that cannot be read, or is larger.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ModelError::io(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    if bytes.len() as u64 > limit {
        let problem = format!("has more than {limit} bytes, which is too many for such a file");
        return Err(ModelError::Config { path: path.into(), problem });
    }
    Ok(bytes)
}
