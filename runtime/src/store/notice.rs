//! What a store has to say about its file.

use std::path::PathBuf;

/// Something about the file that a user should know. The store went on working.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreNotice {
    /// The file cannot be opened or made.
    #[error("kernels and tuning results are kept in memory only: `{}` cannot be opened ({reason})", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file can be read and not written.
    #[error("new kernels and tuning results are kept in memory only: `{}` cannot be written", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The file was unusable; it was moved away and a new one begun.
    #[error("`{}` {reason}; it was set aside as `{}`, and {kept} entries were carried over", path.display(), aside.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// What it is called now.
        aside: PathBuf,
        /// What was wrong with it.
        reason: String,
        /// Entries of it that are in the new file.
        kept: usize,
    },
    /// A newer version's file is left to that version.
    #[error(
        "kernels and tuning results are kept in memory only: `{}` was written by a newer version (layout {found})",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version of its tables.
        found: i64,
    },
    /// Something could not be written; it is kept in memory.
    #[error("a result was not kept in `{}`: {reason}", path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something could not be read; it counts as absent.
    #[error("`{}` cannot be read: {reason}", path.display())]
    NotRead {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An entry does not match its checksum; it was removed.
    #[error("an entry of `{}` was damaged; it was removed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}
