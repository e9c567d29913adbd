//! Entries from one file to another: export, import, and what a repair carries over.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Row};

use super::kernels::{self, RawKernel};
use super::schema::{self, FileKind};
use super::tuned::{self, RawValue};
use super::{State, Store, Trial, TunedChoice, connect};

/// How many entries went over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Transferred {
    /// Compiled kernels.
    pub kernels: usize,
    /// Tuning results.
    pub tuned: usize,
    /// Measurements.
    pub trials: usize,
    /// Entries left behind because they do not match their checksum.
    pub damaged: usize,
}

impl Transferred {
    /// All that went over.
    pub fn total(&self) -> usize {
        self.kernels + self.tuned + self.trials
    }
}

/// Why nothing was exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The file cannot be read or written.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is something else.
    #[error("`{}` is no export of kernels and tuning results", path.display())]
    NotAnExport {
        /// The file.
        path: PathBuf,
    },
    /// The file has tables of another version.
    #[error("`{}` has layout {found}; this version reads {}", path.display(), schema::SCHEMA)]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
    },
}

impl Store {
    /// Writes everything to a file of its own, which appears whole or not at all.
    ///
    /// # Errors
    /// [`ExchangeError::File`] when it cannot be written.
    pub fn export(&self, path: &Path) -> Result<Transferred, ExchangeError> {
        let failed = |reason: String| ExchangeError::File { path: path.to_owned(), reason };
        let mut name = path.file_name().ok_or_else(|| failed("is no file".to_owned()))?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let staging = path.with_file_name(name);
        let written = self.export_to(&staging);
        let outcome = written.map_err(|error| connect::reason(&error)).and_then(|transferred| {
            std::fs::rename(&staging, path).map_err(|error| error.to_string())?;
            Ok(transferred)
        });
        if outcome.is_err() {
            // The export's own error is the one to report.
            let _ = std::fs::remove_file(&staging);
        }
        outcome.map_err(failed)
    }

    fn export_to(&self, path: &Path) -> rusqlite::Result<Transferred> {
        let mut target = Connection::open(path)?;
        schema::create(&mut target)?;
        let state = self.lock();
        let mut sum = Transferred::default();
        for source in [&state.file, &state.memory].into_iter().flatten() {
            let part = copy(source, &mut target)?;
            sum.kernels += part.kernels;
            sum.tuned += part.tuned;
            sum.trials += part.trials;
            sum.damaged += part.damaged;
        }
        drop(state);
        target.close().map_err(|(_, error)| error)?;
        Ok(sum)
    }

    /// Takes the entries of an exported file. An entry that is here already is replaced by a later one.
    ///
    /// # Errors
    /// [`ExchangeError`] when the file cannot be read, or is no export of this version.
    pub fn import(&self, path: &Path) -> Result<Transferred, ExchangeError> {
        let failed = |error| {
            if connect::is_damage(&error) {
                return ExchangeError::NotAnExport { path: path.to_owned() };
            }
            ExchangeError::File { path: path.to_owned(), reason: connect::reason(&error) }
        };
        let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        match schema::kind(&source).map_err(failed)? {
            FileKind::Current => {}
            FileKind::Empty | FileKind::Foreign => {
                return Err(ExchangeError::NotAnExport { path: path.to_owned() });
            }
            FileKind::Older(found) | FileKind::Newer(found) => {
                return Err(ExchangeError::Version { path: path.to_owned(), found });
            }
        }
        let mut state = self.lock();
        if state.file.is_none() {
            state.memory();
        }
        let State { file, memory, .. } = &mut *state;
        let own = self.path().map_or_else(|| "memory".into(), Path::to_path_buf);
        let not_kept = |reason| ExchangeError::File { path: own, reason };
        match file.as_mut().or(memory.as_mut()) {
            Some(target) => copy(&source, target).map_err(|error| not_kept(connect::reason(&error))),
            None => Err(not_kept("no memory".to_owned())),
        }
    }
}

/// Takes what is whole of a file that is not: any error ends the reading of one table and no more.
pub fn copy_rows(from: &Path, into: &mut Connection) -> rusqlite::Result<Transferred> {
    // Opened to write, so that SQLite may first undo a transaction that was cut off.
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Else SQLite reads nothing of a file that is shorter than its header says.
    source.pragma_update(None, "writable_schema", true)?;
    copy(&source, into)
}

/// Copies the rows that match their checksums, all in one transaction; what an older layout wrote in another form stays
/// behind. A table that cannot be read is an empty one; only a failure to write is an error.
fn copy(source: &Connection, target: &mut Connection) -> rusqlite::Result<Transferred> {
    let transaction = target.transaction()?;
    let mut sum = Transferred::default();
    each(source, &format!("SELECT {}", kernels::COLUMNS), RawKernel::from_row, |row| {
        match row.is_whole() {
            true => sum.kernels += row.merge(&transaction)?,
            false => sum.damaged += 1,
        }
        Ok(())
    })?;
    each(source, &format!("SELECT {}", tuned::CHOICES), RawValue::from_row, |row| {
        match row.is_whole() {
            true if row.is_of_this_form::<TunedChoice>() => sum.tuned += row.merge_choice(&transaction)?,
            true => {}
            false => sum.damaged += 1,
        }
        Ok(())
    })?;
    each(source, &format!("SELECT {} ORDER BY id", tuned::TRIALS), RawValue::from_row, |row| {
        match row.is_whole() {
            true if row.is_of_this_form::<Trial>() => sum.trials += row.merge_trial(&transaction)?,
            true => {}
            false => sum.damaged += 1,
        }
        Ok(())
    })?;
    transaction.commit()?;
    Ok(sum)
}

fn each<T>(
    source: &Connection,
    sql: &str,
    decode: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    mut take: impl FnMut(T) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let Ok(mut statement) = source.prepare(sql) else { return Ok(()) };
    let Ok(mut rows) = statement.query([]) else { return Ok(()) };
    while let Ok(Some(row)) = rows.next() {
        if let Ok(decoded) = decode(row) {
            take(decoded)?;
        }
    }
    Ok(())
}
