//! The tables, and how a file is told from another's.

use rusqlite::{Connection, TransactionBehavior};

/// Version of the tables below; a file holds it as its `user_version`. Raised with every change to them, and to the JSON in
/// them. Since 2 the key of a tuning result holds the number of query heads of a KV head; since 3 a measurement says what
/// was timed.
pub const SCHEMA: i64 = 3;
/// `LGdb` in ASCII: the file's `application_id`.
pub const APPLICATION: i64 = 0x4c47_6462;

/// Each row carries the blake3 of what it means, since SQLite itself notices a torn page but no changed byte.
const TABLES: &str = "
CREATE TABLE kernel (
    source    TEXT NOT NULL,     -- blake3 of source text and compiler options
    nvrtc     TEXT NOT NULL,     -- version of the compiler, major.minor
    made      INTEGER NOT NULL,  -- seconds since 1970
    manifest  TEXT NOT NULL,     -- JSON, says pattern, pass, D, type, target, generator; or operation, target, generator
    image     BLOB NOT NULL,     -- the cubin
    checksum  BLOB NOT NULL,     -- of manifest and image
    PRIMARY KEY (source, nvrtc)
) STRICT;
CREATE TABLE tuned (
    problem   TEXT NOT NULL,     -- JSON of the key without its length
    bucket    INTEGER NOT NULL,  -- length bucket: a power of two, in tokens
    made      INTEGER NOT NULL,
    choice    TEXT NOT NULL,     -- JSON: schedule, time, spread, provenance
    checksum  BLOB NOT NULL,     -- of problem, bucket and choice
    PRIMARY KEY (problem, bucket)
) STRICT;
CREATE TABLE trial (
    id        INTEGER PRIMARY KEY,
    problem   TEXT NOT NULL,
    bucket    INTEGER NOT NULL,
    made      INTEGER NOT NULL,
    trial     TEXT NOT NULL,     -- JSON: one measurement, or why there is none
    checksum  BLOB NOT NULL      -- of problem, bucket and trial
) STRICT;
CREATE INDEX trial_by_key ON trial (problem, bucket);
CREATE TABLE compiler (
    search    TEXT PRIMARY KEY,  -- where NVRTC was looked for
    file      TEXT NOT NULL,     -- what was found: the library, its size and time of change
    version   TEXT NOT NULL
) STRICT;
";

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing is in it yet.
    Empty,
    /// A store of this version.
    Current,
    /// A store of an older version.
    Older(i64),
    /// A store of a newer version.
    Newer(i64),
    /// A database of something else.
    Foreign,
}

/// Reads the marks of a file.
pub fn kind(connection: &Connection) -> rusqlite::Result<FileKind> {
    // All of one moment: another process may just be making the tables, and half of them would be a stranger's.
    let is_alone = connection.is_autocommit();
    let _moment = is_alone.then(|| connection.unchecked_transaction()).transpose()?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    if application != APPLICATION {
        let is_empty = application == 0 && version == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0;
        return Ok(if is_empty { FileKind::Empty } else { FileKind::Foreign });
    }
    Ok(match version {
        SCHEMA => FileKind::Current,
        older if older < SCHEMA => FileKind::Older(older),
        newer => FileKind::Newer(newer),
    })
}

/// Makes the tables of an empty file. Another process may have been quicker, so the file is looked at again under the lock.
pub fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if kind(&transaction)? == FileKind::Empty {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    transaction.commit()
}

/// Whether the tables are those above: a name or a column that is missing shows when the statement is prepared.
pub fn verify(connection: &Connection) -> rusqlite::Result<()> {
    for columns in [
        "source, nvrtc, made, manifest, image, checksum FROM kernel",
        "problem, bucket, made, choice, checksum FROM tuned",
        "id, problem, bucket, made, trial, checksum FROM trial",
        "search, file, version FROM compiler",
    ] {
        connection.prepare(&format!("SELECT {columns}"))?;
    }
    Ok(())
}
