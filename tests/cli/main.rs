//! `lgc` as its user meets it: bad input line by line, exit codes, JSON, files left behind, and the text of its output.

mod bad_files;
mod bad_patterns;
mod bad_tensors;
mod bundle;
mod cache;
mod on_gpu;
mod outputs;
mod reports;
mod snapshots;
mod tensors;
mod tuning;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run printed and how it ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// `lgc` with these arguments, away from the caches and tools of this machine.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lgc"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("LONGGEN_NVRTC").env("NO_COLOR", "1");
    command
}

fn lgc(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = command(arguments).output().expect("lgc starts");
    let text = |bytes| String::from_utf8(bytes).expect("lgc prints UTF-8");
    let code = status.code().expect("lgc ends by itself");
    let ran = Ran { code, out: text(stdout), err: text(stderr) };
    assert!(!ran.err.contains("panicked"), "{arguments:?} panicked:\n{}", ran.err);
    ran
}

/// Exit code 0.
fn succeeds(arguments: &[&str]) -> String {
    let ran = lgc(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}:\n{}{}", ran.out, ran.err);
    ran.out
}

/// This exit code, a message that holds all of `words`, and nothing on standard output.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let ran = lgc(arguments);
    assert_eq!(ran.code, code, "{arguments:?}:\n{}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("error: "), "{arguments:?}: {}", ran.err);
    assert_eq!(ran.out, "", "{arguments:?} printed before it failed");
    for word in words {
        assert!(ran.err.contains(word), "{arguments:?} does not say {word:?}:\n{}", ran.err);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The names in a folder, hidden ones too.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
