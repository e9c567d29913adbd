//! Throwing entries away.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{Store, now};

/// What to throw away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Everything.
    All,
    /// Entries of other versions of the generator than this one, which no look-up of it finds.
    OtherGenerators {
        /// What kernels say that this one made.
        kernels: String,
        /// What tuning results and measurements say, who tell the templates apart too.
        tuned: String,
    },
    /// Entries made longer ago than this.
    OlderThan(Duration),
}

/// What was thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Compiled kernels.
    pub kernels: usize,
    /// Tuning results.
    pub tuned: usize,
    /// Measurements.
    pub trials: usize,
}

impl Store {
    /// Throws entries away and gives their room back to the file system.
    pub fn prune(&self, what: &Prune) -> Pruned {
        self.write(|connection| {
            let pruned = match what {
                Prune::All => delete(connection, ("made >= ?1", &i64::MIN), ("made >= ?1", &i64::MIN))?,
                Prune::OlderThan(age) => {
                    let limit = now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
                    delete(connection, ("made < ?1", &limit), ("made < ?1", &limit))?
                }
                Prune::OtherGenerators { kernels, tuned } => delete(
                    connection,
                    ("json_extract(manifest, '$.generator') <> ?1", kernels),
                    ("json_extract(problem, '$.generator') <> ?1", tuned),
                )?,
            };
            // Fails while another process reads, and then the room is reused instead.
            let _ = connection.execute_batch("VACUUM");
            Ok(pruned)
        })
    }
}

/// Deletes the rows that meet a condition with its value: kernels, and what tunes left.
fn delete(
    connection: &Connection,
    kernels: (&str, &dyn rusqlite::ToSql),
    tuned: (&str, &dyn rusqlite::ToSql),
) -> rusqlite::Result<Pruned> {
    let from = |table: &str, (condition, value): (&str, &dyn rusqlite::ToSql)| {
        connection.execute(&format!("DELETE FROM {table} WHERE {condition}"), params![value])
    };
    Ok(Pruned {
        kernels: from("kernel", kernels)?,
        tuned: from("tuned", tuned)?,
        trials: from("trial", tuned)?,
    })
}
