//! What a command can fail with, its exit code and its text.

use std::error::Error;
use std::fmt::Write;
use std::io;

/// An outcome other than success.
#[derive(Debug)]
pub enum CliError {
    /// The command line does not parse; clap words and colours it.
    Clap(clap::Error),
    /// The command line or the pattern asks for something wrong.
    Usage(Box<dyn Error>),
    /// What was asked for could not be done.
    Failure(Box<dyn Error>),
    /// Standard output could not be written.
    Stdout(io::Error),
}

impl CliError {
    /// The command line or the pattern is wrong.
    pub fn usage(error: impl Into<Box<dyn Error>>) -> CliError {
        CliError::Usage(error.into())
    }

    /// The command line is right, and still it failed.
    pub fn failure(error: impl Into<Box<dyn Error>>) -> CliError {
        CliError::Failure(error.into())
    }

    /// 2 for usage, 1 for failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Clap(_) | CliError::Usage(_) => 2,
            CliError::Failure(_) | CliError::Stdout(_) => 1,
        }
    }

    /// The message alone.
    pub fn message(&self) -> String {
        match self {
            CliError::Clap(error) => error.to_string(),
            CliError::Usage(error) | CliError::Failure(error) => error.to_string(),
            CliError::Stdout(error) => error.to_string(),
        }
    }

    /// The message and its chain of causes, one line each.
    pub fn render(&self) -> String {
        match self {
            CliError::Clap(error) => error.to_string(),
            CliError::Usage(error) | CliError::Failure(error) => chain(error.as_ref()),
            CliError::Stdout(error) => {
                format!("error: standard output cannot be written\n  because: {error}\n")
            }
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> CliError {
        CliError::Stdout(error)
    }
}

fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut text = format!("error: {said}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        let because = error.to_string();
        // Some messages end with their cause; once is enough.
        if !said.ends_with(&because) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  because: {because}");
        }
        said = because;
        cause = error.source();
    }
    text
}
