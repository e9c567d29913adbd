//! How the CPU kernels cut a problem into tiles. Generated code reads it from the work item, so that a blocking costs no
//! compilation and one object can hold several.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::abi::{LANES, MOST_ROWS, STRIP};

/// Tile shape of one CPU kernel. Prints and parses as `lanes=64 rows=64 gather_below=32 copy_uses=12`, or `copy_uses=never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blocking {
    /// Query rows that stay (keys, in the kernel of dK and dV) while the others are walked: whole strips of 16, up to 64.
    pub lanes: u32,
    /// Rows walked at a time: a multiple of 8 up to 128.
    pub rows: u32,
    /// Shorter runs of rows are gathered into whole tiles; longer ones are read in place.
    pub gather_below: u32,
    /// Rows that at least so many tiles walk are first copied into contiguous f32; with [`Blocking::NEVER`] none are.
    pub copy_uses: u32,
}

impl Default for Blocking {
    fn default() -> Blocking {
        Blocking { lanes: LANES as u32, rows: 64, gather_below: 32, copy_uses: 12 }
    }
}

/// Why a blocking was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockingError {
    /// A word is not `key=value`.
    #[error("`{0}` is not of the form key=value")]
    Shape(String),
    /// The key is unknown.
    #[error("unknown key `{0}`; keys are lanes, rows, gather_below, copy_uses")]
    Key(String),
    /// A key stands twice.
    #[error("`{0}` stands twice")]
    Twice(String),
    /// A key is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A value is out of range.
    #[error("`{key}` is `{value}`; {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands for its value.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
}

const LANES_ALLOWED: &str = "16, 32, 48 and 64 are allowed";
const ROWS_ALLOWED: &str = "multiples of 8 from 8 to 128 are allowed";
const COUNT_ALLOWED: &str = "whole numbers from 0 to 4294967295 are allowed";
const USES_ALLOWED: &str = "whole numbers from 0 to 4294967295, which is `never`, are allowed";
/// How [`Blocking::NEVER`] is written.
const NEVER_WORD: &str = "never";

impl Blocking {
    /// A `copy_uses` that no number of tiles reaches.
    pub const NEVER: u32 = u32::MAX;

    /// Whether kernels take it.
    ///
    /// # Errors
    /// The first number out of range.
    pub fn check(&self) -> Result<(), BlockingError> {
        let wrong =
            |key, value: u32, allowed| BlockingError::Value { key, value: value.to_string(), allowed };
        let Blocking { lanes, rows, .. } = *self;
        if lanes == 0 || !lanes.is_multiple_of(STRIP as u32) || lanes > LANES as u32 {
            return Err(wrong("lanes", lanes, LANES_ALLOWED));
        }
        if rows == 0 || !rows.is_multiple_of(8) || rows > MOST_ROWS as u32 {
            return Err(wrong("rows", rows, ROWS_ALLOWED));
        }
        Ok(())
    }
}

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blocking { lanes, rows, gather_below, copy_uses } = self;
        write!(f, "lanes={lanes} rows={rows} gather_below={gather_below} copy_uses=")?;
        match *copy_uses {
            Blocking::NEVER => f.write_str(NEVER_WORD),
            uses => write!(f, "{uses}"),
        }
    }
}

impl FromStr for Blocking {
    type Err = BlockingError;

    fn from_str(text: &str) -> Result<Blocking, BlockingError> {
        const KEYS: [(&str, &str); 4] = [
            ("lanes", LANES_ALLOWED),
            ("rows", ROWS_ALLOWED),
            ("gather_below", COUNT_ALLOWED),
            ("copy_uses", USES_ALLOWED),
        ];
        let mut values = [None; 4];
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| BlockingError::Shape(word.to_owned()))?;
            let at = KEYS.iter().position(|(known, _)| *known == key);
            let at = at.ok_or_else(|| BlockingError::Key(key.to_owned()))?;
            let (key, allowed) = KEYS[at];
            let number = match value {
                NEVER_WORD if key == "copy_uses" => Ok(Blocking::NEVER),
                digits => digits.parse::<u32>(),
            };
            let number =
                number.map_err(|_| BlockingError::Value { key, value: value.to_owned(), allowed })?;
            if values[at].replace(number).is_some() {
                return Err(BlockingError::Twice(key.to_owned()));
            }
        }
        let value = |at: usize| values[at].ok_or(BlockingError::Missing(KEYS[at].0));
        let blocking =
            Blocking { lanes: value(0)?, rows: value(1)?, gather_below: value(2)?, copy_uses: value(3)? };
        blocking.check()?;
        Ok(blocking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let never = Blocking { lanes: 48, rows: 96, gather_below: 0, copy_uses: Blocking::NEVER };
        assert_eq!(never.to_string(), "lanes=48 rows=96 gather_below=0 copy_uses=never");
        for blocking in [never, Blocking { copy_uses: 0, ..never }, Blocking::default()] {
            assert_eq!(blocking.to_string().parse(), Ok(blocking));
            assert_eq!(blocking.to_string().replace("never", "4294967295").parse(), Ok(blocking));
        }
        assert_eq!(Blocking::default().check(), Ok(()));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| text.parse::<Blocking>().expect_err("wrong").to_string();
        assert!(message("lanes").contains("key=value"));
        assert!(message("tiles=1").contains("unknown key `tiles`"));
        assert!(message("lanes=64 lanes=64").contains("twice"));
        assert!(message("lanes=64").contains("`rows` is missing"));
        assert!(message("lanes=24 rows=64 gather_below=1 copy_uses=1").contains("16, 32, 48 and 64"));
        assert!(message("lanes=64 rows=136 gather_below=1 copy_uses=1").contains("multiples of 8"));
        assert!(message("lanes=64 rows=-8 gather_below=1 copy_uses=1").contains("`rows` is `-8`"));
        assert!(
            message("lanes=64 rows=64 gather_below=never copy_uses=1").contains("`gather_below` is `never`")
        );
        assert!(
            message("lanes=64 rows=64 gather_below=1 copy_uses=once")
                .contains("4294967295, which is `never`, are")
        );
    }
}
