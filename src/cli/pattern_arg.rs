//! The PATTERN argument: a preset's name, a TOML file, or the pattern text.

use std::path::{Path, PathBuf};

use longgen_codegen::pattern::{PRESETS, Pattern, PatternError};
use longgen_runtime::read::{ReadError, read_limited};
use thiserror::Error;

use super::CliError;

/// More bytes than any pattern needs.
const FILE_LIMIT: u64 = 1 << 20;

/// What was understood, for messages.
#[derive(Debug, Error)]
enum ResolveError {
    /// Not a preset, not a file, not a text.
    #[error(
        "`{argument}` is no pattern: there is no preset of this name, no such file, and it does not read as a pattern \
         text like 'sink=4, window=4096, stride=8'"
    )]
    Nothing {
        argument: String,
        /// Why the word is no preset, which suggests the closest one.
        source: PatternError,
    },
    /// A file that was meant and is not there.
    #[error("there is no pattern file `{}`", .path.display())]
    NoFile { path: PathBuf },
}

/// The pattern an argument means. A preset's name comes first (write `./name` for a file called like one), then what
/// looks like a path or is one, then the text form.
///
/// # Errors
/// [`CliError::Usage`] for what is no pattern, [`CliError::Failure`] for a file that cannot be read.
pub fn resolve(argument: &str) -> Result<Pattern, CliError> {
    let argument = argument.trim();
    if PRESETS.contains(&argument) {
        return Pattern::preset(argument).map_err(CliError::usage);
    }
    let path = Path::new(argument);
    // Pattern texts hold `=`, spaces or parentheses as soon as they are more than one word.
    let is_path_like =
        argument.ends_with(".toml") || argument.contains('/') && !argument.contains(['=', '(']);
    if is_path_like || path.is_file() {
        return from_file(path);
    }
    argument.parse().or_else(|error: PatternError| {
        if path.is_dir() {
            return from_file(path);
        }
        let is_word = argument.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        match Pattern::preset(argument) {
            Err(source) if is_word && !argument.is_empty() => Err(CliError::usage(ResolveError::Nothing {
                argument: argument.chars().take(60).collect(),
                source,
            })),
            _ => Err(CliError::usage(error)),
        }
    })
}

fn from_file(path: &Path) -> Result<Pattern, CliError> {
    if !path.exists() {
        return Err(CliError::usage(ResolveError::NoFile { path: path.into() }));
    }
    let bytes = read_limited(path, "pattern", FILE_LIMIT).map_err(|error| match error {
        ReadError::System { .. } => CliError::failure(error),
        _ => CliError::usage(error),
    })?;
    Pattern::from_toml_bytes(&path.display().to_string(), &bytes).map_err(CliError::usage)
}
