//! Opening the file, and what its errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Error, ErrorCode, MAIN_DB};

use super::notice::StoreNotice;
use super::repair;
use super::schema::{self, FileKind};

/// How long to wait for another process' transaction. Each is a few milliseconds long, even with many writers.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection, if the file serves, and what there is to say.
#[derive(Debug, Default)]
pub struct Opened {
    /// To the file.
    pub connection: Option<Connection>,
    /// What happened.
    pub notices: Vec<StoreNotice>,
}

impl Opened {
    /// No file.
    pub fn nothing(notice: StoreNotice) -> Opened {
        Opened { connection: None, notices: vec![notice] }
    }
}

/// What a file that opened may still be.
pub enum Attempt {
    /// A store of this version.
    Ready(Connection),
    /// Not usable as it is, and for good: the reason.
    Broken(String),
    /// A newer version's.
    Newer(i64),
}

/// Opens the file, makes it, or puts another in its place.
pub fn open(path: &Path) -> Opened {
    if let Some(folder) = path.parent()
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        return Opened::nothing(unavailable(path, error.to_string()));
    }
    match attempt(path) {
        Ok(Attempt::Ready(connection)) => {
            let read_only = connection.is_readonly(MAIN_DB).unwrap_or(false);
            let notice = || StoreNotice::ReadOnly { path: path.to_owned() };
            let notices = read_only.then(notice).into_iter().collect();
            Opened { connection: Some(connection), notices }
        }
        Ok(Attempt::Broken(reason)) => repair::replace(path, &reason),
        Ok(Attempt::Newer(found)) => Opened::nothing(StoreNotice::Newer { path: path.to_owned(), found }),
        Err(error) => Opened::nothing(unavailable(path, reason(&error))),
    }
}

/// Opens a file and tells what it is. Makes the tables of an empty one.
///
/// # Errors
/// When the file cannot be had at all: no right to it, no room, a lock that is never given up.
pub fn attempt(path: &Path) -> rusqlite::Result<Attempt> {
    // A process that still holds a file set aside takes the new one's journal for its own and removes it: the tables are there,
    // and their maker is told of a failing disk.
    look(path).or_else(|error| match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => look(path),
        _ => Err(error),
    })
}

fn look(path: &Path) -> rusqlite::Result<Attempt> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    let outcome = schema::kind(&connection).and_then(|kind| match kind {
        FileKind::Empty => schema::create(&mut connection).map(|()| FileKind::Current),
        FileKind::Current => schema::verify(&connection).map(|()| FileKind::Current),
        other => Ok(other),
    });
    match outcome {
        Ok(FileKind::Empty | FileKind::Current) => Ok(Attempt::Ready(connection)),
        Ok(FileKind::Older(found)) => Ok(Attempt::Broken(format!("has an older layout ({found})"))),
        Ok(FileKind::Newer(found)) => Ok(Attempt::Newer(found)),
        Ok(FileKind::Foreign) => Ok(Attempt::Broken("is no store of this program".to_owned())),
        Err(error) if is_damage(&error) => Ok(Attempt::Broken(format!("is damaged ({})", reason(&error)))),
        Err(error) => Err(error),
    }
}

/// Whether the file's content is at fault, so that no retry will help.
pub fn is_damage(error: &Error) -> bool {
    match error {
        // A table or column that is not there.
        Error::SqlInputError { .. } => true,
        error => {
            matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            ) || matches!(error, Error::InvalidColumnType(..) | Error::FromSqlConversionFailure(..))
        }
    }
}

/// Whether the file, or its folder, may not be written.
pub fn is_read_only(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

/// The error in a few words.
pub fn reason(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}

fn unavailable(path: &Path, reason: String) -> StoreNotice {
    StoreNotice::Unavailable { path: path.to_owned(), reason }
}
