//! `lgc bundle` with a wrong command line, or without what it needs. `tests/bundle` has what it makes.

use super::{command, fails, names_in, path};

/// Two residues in one conjunction.
const LISTED: &str = "(stride=2) & (stride=3)";

#[test]
fn wrong_command_lines() {
    for (arguments, words) in [
        (&["bundle"][..], &["PATTERN"][..]),
        (&["bundle", "mistrl"], &["mistrl"]),
        (&["bundle", "mistral", "mistral"], &["`mistral`", "name them apart"]),
        (&["bundle", "mistral", "--arch", "sm_70"], &["sm_70", "sm_90a"]),
        (&["bundle", "mistral", "--arch", ""], &["unknown architecture"]),
        (&["bundle", "mistral", "--head-dim", "100"], &["100", "multiple of 32"]),
        (&["bundle", "mistral", "--dtype", "bf16,f32"], &["f32", "bf16, fp16"]),
        (&["bundle", LISTED], &["no closed form", "C and Python", "lgc report", "examples/build_time"]),
        (&["bundle", "mistral", "--pass", "sideways"], &["sideways", "decode"]),
    ] {
        fails(arguments, 2, words);
    }
}

#[test]
fn without_nvrtc_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("kernels.lgk");
    let arguments = ["bundle", "mistral", "-o", path(&output), "--nvrtc", "/nonexistent"];
    let ran = command(&arguments).env("LONGGEN_CACHE", folder.path().join("cache")).output().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{errors}");
    assert!(errors.contains("/nonexistent"), "{errors}");
    assert!(!names_in(folder.path()).contains(&"kernels.lgk".to_string()));
}
