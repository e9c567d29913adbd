//! What is remembered between runs: compiled kernels and tuning results, in one database file.
//!
//! The file is SQLite's, with a rollback journal: any number of processes may use it at once, a writer that is killed leaves
//! nothing half-done, and reading needs no second file and no right to write. Nothing here fails hard: whatever happens to
//! the file, look-ups answer "not there", results are kept in memory, and [`Store::take_notices`] says what happened.
//!
//! ```
//! use longgen_runtime::store::{Store, StoreLocation};
//!
//! let store = Store::open(StoreLocation::Memory);
//! assert!(store.kernels().is_empty() && store.take_notices().is_empty());
//! ```

mod connect;
mod exchange;
mod kernels;
mod notice;
mod prune;
mod repair;
mod schema;
mod tuned;

pub use exchange::{ExchangeError, Transferred};
pub use kernels::{KernelAbout, KernelKey, KernelRow, Operation};
pub use notice::StoreNotice;
pub use prune::{Prune, Pruned};
pub use tuned::{
    Provenance, Trial, TrialOutcome, TuneKey, TuneProblem, TunedChoice, TunedRow, length_bucket,
};

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use connect::Opened;

/// Name of the file in a cache folder.
pub const FILE_NAME: &str = "longgen.db";

/// Where a store keeps what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In this file, which need not exist.
    File(PathBuf),
    /// In this process only.
    Memory,
}

impl StoreLocation {
    /// [`FILE_NAME`] in a cache folder.
    pub fn in_folder(folder: &Path) -> Self {
        StoreLocation::File(folder.join(FILE_NAME))
    }
}

/// Compiled kernels and tuning results. Shared between threads.
#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The file, as long as it serves.
    file: Option<Connection>,
    /// What the file would not take. Opened when it is first needed.
    memory: Option<Connection>,
    notices: Vec<StoreNotice>,
    /// Notices already given: the same thing is said once.
    said: Vec<StoreNotice>,
}

impl Store {
    /// Opens the file, or makes it. An unusable file is set aside, and what can be read of it carried over; where no file can
    /// be had, the store works in memory. [`Store::take_notices`] tells.
    pub fn open(location: StoreLocation) -> Store {
        let (path, opened) = match location {
            StoreLocation::Memory => (None, Opened::default()),
            StoreLocation::File(path) => {
                let opened = connect::open(&path);
                (Some(path), opened)
            }
        };
        let state = State {
            file: opened.connection,
            memory: None,
            said: opened.notices.clone(),
            notices: opened.notices,
        };
        Store { path, state: Mutex::new(state) }
    }

    /// The file, unless the store was opened in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What happened since this was last asked; each thing is told once.
    pub fn take_notices(&self) -> Vec<StoreNotice> {
        std::mem::take(&mut self.lock().notices)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each use of the state leaves it whole: a panic elsewhere cannot have left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the file and from memory: the first answer of the two.
    fn read<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<Option<T>>) -> Option<T> {
        let mut state = self.lock();
        state.read_file(self.path(), &query).flatten().or_else(|| state.read_memory(&query).flatten())
    }

    /// Reads from both and joins the answers.
    fn read_all<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<Vec<T>>) -> Vec<T> {
        let mut state = self.lock();
        let mut rows = state.read_file(self.path(), &query).unwrap_or_default();
        rows.extend(state.read_memory(&query).unwrap_or_default());
        rows
    }

    /// Writes to the file, or to memory when the file does not take it.
    fn write<T: Default>(&self, change: impl Fn(&Connection) -> rusqlite::Result<T>) -> T {
        let mut state = self.lock();
        match state.write_file(self.path(), &change) {
            Some(done) => done,
            None => state.memory().and_then(|memory| change(memory).ok()).unwrap_or_default(),
        }
    }

    /// Says that an entry did not match its checksum.
    fn tell_damaged(&self) {
        if let Some(path) = &self.path {
            self.lock().tell(StoreNotice::Damaged { path: path.clone() });
        }
    }
}

impl State {
    fn tell(&mut self, notice: StoreNotice) {
        if !self.said.contains(&notice) {
            self.said.push(notice.clone());
            self.notices.push(notice);
        }
    }

    fn read_memory<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        // A database in memory fails only when memory does.
        self.memory.as_ref().and_then(|memory| query(memory).ok())
    }

    fn read_file<T>(
        &mut self,
        path: Option<&Path>,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let path = path?;
        let not_read = |reason| StoreNotice::NotRead { path: path.to_owned(), reason };
        self.attempt(path, query, not_read)
    }

    fn write_file<T>(
        &mut self,
        path: Option<&Path>,
        change: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let path = path?;
        let not_kept = |reason| StoreNotice::NotKept { path: path.to_owned(), reason };
        self.attempt(path, change, not_kept)
    }

    /// Works on the file; on damage once more on the file that takes its place.
    fn attempt<T>(
        &mut self,
        path: &Path,
        work: impl Fn(&Connection) -> rusqlite::Result<T>,
        notice: impl Fn(String) -> StoreNotice,
    ) -> Option<T> {
        let error = match work(self.file.as_ref()?) {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        if connect::is_damage(&error) {
            self.file = None;
            let opened = repair::replace(path, &connect::reason(&error));
            self.file = opened.connection;
            opened.notices.into_iter().for_each(|notice| self.tell(notice));
            return work(self.file.as_ref()?).ok();
        }
        self.tell(match connect::is_read_only(&error) {
            true => StoreNotice::ReadOnly { path: path.to_owned() },
            false => notice(connect::reason(&error)),
        });
        None
    }

    fn memory(&mut self) -> Option<&Connection> {
        if self.memory.is_none() {
            let mut connection = Connection::open_in_memory().ok()?;
            schema::create(&mut connection).ok()?;
            self.memory = Some(connection);
        }
        self.memory.as_ref()
    }
}

/// Seconds since 1970; 0 on a clock before that.
fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// blake3 of some parts, each with its length, so that no two lists of parts give the same bytes.
fn checksum(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
