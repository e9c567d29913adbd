//! Read-only memory maps: the only unsafe step of loading a model.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

/// Maps a whole file.
pub(super) fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and lives shorter than the load that uses it. That nobody shortens or rewrites a
    // checkpoint while it is being read is the user's side of the contract; our own writers never touch a file in
    // place, they rename whole ones.
    unsafe { Mmap::map(&file) }
}
