//! The TOML form of patterns.
//!
//! ```toml
//! name = "example"
//! sink = 4                      # clauses at the top are a union
//! window = 4096
//! stride = 8
//!
//! [layers]
//! count = 32
//! full = "10..=21"              # or 5, [5, 11], "every 6 from 5", { every = 6, from = 5 }
//!
//! [softmax]
//! softcap = 50.0
//! sink_logit = true
//!
//! [[heads]]                     # another mask for some KV heads, the last rule that matches holds
//! heads = "0..=3"               # all heads where it is left out
//! layers = "0..=9"              # all layers where it is left out
//! intersection = [{ window = 1024 }, { where = "k % 2 == 0" }]
//! ```

mod mask;
mod print;
mod read;
mod values;

use super::error::Fault;
use super::{Pattern, PatternError, Problem};

/// Largest file accepted, in bytes.
pub const MAX_TOML_BYTES: usize = 1 << 20;

impl Pattern {
    /// Reads the TOML form. `source_name` names the text in errors: a file's path, for example.
    ///
    /// # Errors
    /// A TOML syntax error, an unknown key, a value that breaks a rule: each with line, column and what is allowed.
    pub fn from_toml_str(source_name: &str, text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_TOML_BYTES {
            let problem =
                Problem::Limit { what: format!("the size of {source_name}"), limit: "1 MiB".to_string() };
            return Err(problem.into());
        }
        if let Some(zero) = text.find('\0') {
            return Err(
                Fault::syntax("not a text: it holds a zero byte", zero..zero + 1).in_text(source_name, text)
            );
        }
        read::document(text).map_err(|fault| fault.in_text(source_name, text))
    }

    /// Reads the TOML form from a file's bytes, which may be anything.
    ///
    /// # Errors
    /// As [`Pattern::from_toml_str`]; also bytes that are not UTF-8.
    pub fn from_toml_bytes(source_name: &str, bytes: &[u8]) -> Result<Self, PatternError> {
        if bytes.len() > MAX_TOML_BYTES {
            let problem =
                Problem::Limit { what: format!("the size of {source_name}"), limit: "1 MiB".to_string() };
            return Err(problem.into());
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::from_toml_str(source_name, text),
            Err(error) => {
                let valid = error.valid_up_to();
                let readable = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
                let fault = Fault::syntax("not a text: the bytes from here on are not UTF-8", valid..valid);
                Err(fault.in_text(source_name, readable))
            }
        }
    }

    /// The canonical TOML form; it reads back to the same pattern.
    pub fn to_toml(&self) -> String {
        print::document(self)
    }
}
