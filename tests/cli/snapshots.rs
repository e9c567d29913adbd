//! The text that people read, as it stood when someone last looked at it. `LGC_BLESS=1` writes it anew.

use std::path::PathBuf;

use super::succeeds;

fn holds(name: &str, arguments: &[&str]) {
    let printed = succeeds(arguments);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/expected").join(name);
    if std::env::var_os("LGC_BLESS").is_some() {
        return std::fs::write(&path, printed).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(printed == expected, "lgc {arguments:?} is not {name} any more; LGC_BLESS=1 accepts:\n{printed}");
}

#[test]
fn presets_reported() {
    for preset in longgen::pattern::PRESETS {
        holds(&format!("report-{preset}.txt"), &["report", preset, "--length", "128k"]);
    }
}

#[test]
fn presets_shown() {
    for preset in longgen::pattern::PRESETS {
        holds(&format!("show-{preset}.txt"), &["show", preset, "--length", "16k"]);
    }
}

#[test]
fn a_predicate_shown() {
    holds(
        "show-predicate.txt",
        &["show", "where(q - k < 200 || k % 300 < 20)", "--length", "2k", "--tile", "64"],
    );
}

#[test]
fn colours() {
    holds("show-colours.txt", &["show", "sink=64, window=512", "--length", "4k", "--color", "always"]);
}

#[test]
fn help() {
    holds("help.txt", &["--help"]);
    for command in [
        "report",
        "show",
        "compile",
        "emit",
        "run",
        "check",
        "doctor",
        "bundle",
        "cache",
        "tune",
        "explain",
        "fetch-nvrtc",
    ] {
        holds(&format!("help-{command}.txt"), &[command, "--help"]);
    }
}
