//! The text form of a schedule: `key=value` pairs, in one order.

use std::fmt;
use std::str::FromStr;

use super::Schedule;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseScheduleError {
    /// A word is not `key=value`.
    #[error("`{0}` is not of the form key=value")]
    Shape(String),
    /// The key is unknown.
    #[error("unknown key `{0}`; keys are tile_m, tile_n, stages, threads, consumers")]
    Key(String),
    /// The value is no number.
    #[error("`{key}` is `{value}`, which is no number from 0 to 4294967295")]
    Value {
        /// The key.
        key: String,
        /// What stands for its value.
        value: String,
    },
    /// A key is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A key stands twice.
    #[error("`{0}` stands twice")]
    Twice(String),
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Schedule { tile_m, tile_n, stages, threads, consumers } = self;
        write!(f, "tile_m={tile_m} tile_n={tile_n} stages={stages} threads={threads} consumers={consumers}")
    }
}

impl FromStr for Schedule {
    type Err = ParseScheduleError;

    fn from_str(text: &str) -> Result<Self, ParseScheduleError> {
        const KEYS: [&str; 5] = ["tile_m", "tile_n", "stages", "threads", "consumers"];
        let mut values = [None; 5];
        for word in text.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                return Err(ParseScheduleError::Shape(word.to_owned()));
            };
            let Some(at) = KEYS.iter().position(|known| *known == key) else {
                return Err(ParseScheduleError::Key(key.to_owned()));
            };
            let wrong = |_| ParseScheduleError::Value { key: key.to_owned(), value: value.to_owned() };
            if values[at].replace(value.parse::<u32>().map_err(wrong)?).is_some() {
                return Err(ParseScheduleError::Twice(key.to_owned()));
            }
        }
        let get = |at: usize| values[at].ok_or(ParseScheduleError::Missing(KEYS[at]));
        Ok(Schedule {
            tile_m: get(0)?,
            tile_n: get(1)?,
            stages: get(2)?,
            threads: get(3)?,
            consumers: get(4)?,
        })
    }
}
