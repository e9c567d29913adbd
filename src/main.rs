//! `lgc`: reads the command line, runs one command, and turns its outcome into an exit code.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
