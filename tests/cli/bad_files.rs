//! Files that cannot be read or written: nothing half-written stays behind.

use std::io::Read;
use std::process::Stdio;

use super::{command, fails, lgc, names_in, path};

#[test]
fn output_into_a_folder_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("no/such/mask.png");
    fails(&["show", "duo", "--length", "512", "-o", path(&output)], 1, &["mask.png", "nothing was left"]);
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn output_that_is_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("mask.svg");
    std::fs::create_dir(&output).unwrap();
    fails(&["show", "duo", "--length", "512", "-o", path(&output)], 1, &["is a directory"]);
    assert_eq!(names_in(folder.path()), ["mask.svg"]);
}

#[test]
fn compile_into_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("taken");
    std::fs::write(&output, "mine").unwrap();
    fails(&["compile", "duo", "--emit", "cu", "-o", path(&output)], 1, &["taken", "cannot be written"]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    assert_eq!(names_in(folder.path()), ["taken"]);
}

#[cfg(target_os = "linux")]
#[test]
fn disk_full() {
    fails(&["show", "duo", "--length", "512", "-o", "/dev/full"], 2, &[".png"]);
    fails(&["emit", "duo", "--stage", "ir", "-o", "/dev/full"], 1, &["/dev/full", "No space left"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(&["report", "duo", "--length", "512"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

/// A file system of 64 KiB, where one can be mounted.
#[cfg(target_os = "linux")]
#[test]
fn disk_full_half_way() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none {0} && {1} compile duo --emit cu -o {0}/out; echo code $?; ls -A {0}",
        path(folder.path()),
        env!("CARGO_BIN_EXE_lgc")
    );
    let run = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .output();
    let Ok(run) = run else { return eprintln!("skipped: no unshare on this machine") };
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    if !errors.contains("lgc") && !errors.contains("error:") {
        return eprintln!("skipped: this machine lets nobody mount: {errors}");
    }
    assert!(errors.contains("No space left"), "{text}{errors}");
    assert_eq!(text.trim(), "code 1", "something stayed behind");
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.svg"), folder.path().join("link.svg"));
    std::fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    super::succeeds(&["show", "duo", "--length", "512", "-o", path(&link)]);
    assert!(link.is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().starts_with("<svg"));
    assert_eq!(names_in(folder.path()), ["link.svg", "real.svg"]);
}

#[test]
fn a_reader_that_goes_away() {
    let mut child = command(&["emit", "longgen-sink", "--stage", "cuda"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn models_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let config = |text: &str| {
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        path
    };
    let refused = |model: &str, words: &[&str]| {
        fails(&["report", "mistral", "--length", "4096", "--model", model], 2, words);
    };
    refused("llama-9", &["llama-9", "llama-3-8b"]);
    refused(path(&config("")), &["no JSON"]);
    refused(path(&config(&"[".repeat(100_000))), &["no JSON"]);
    refused(path(&config("{}")), &["num_attention_heads", "missing"]);
    refused(path(&config("[1, 2]")), &["num_attention_heads", "missing"]);
    let heads = r#"{"num_attention_heads": 32, "hidden_size": 4096, "num_key_value_heads": 5}"#;
    refused(path(&config(heads)), &["num_key_value_heads", "does not divide"]);
    refused(path(&config(r#"{"num_attention_heads": -1}"#)), &["num_attention_heads", "whole number"]);
    refused(path(&config(r#"{"num_attention_heads": 1e300}"#)), &["num_attention_heads"]);
    // The engine reads as long ones.
    refused(path(&config(&format!("{{}}{}", " ".repeat(2 << 20)))), &["num_attention_heads", "missing"]);
    refused("/dev/zero", &["16777216 bytes"]);
    refused("docs", &["`docs` is no model directory"]);
}

/// That it cannot be read is not the command line's fault.
#[cfg(unix)]
#[test]
fn a_model_directory_that_cannot_be_read() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    open(folder.path(), 0o755);
    open(&locked, 0);
    let mut report = command(&["report", "mistral", "--length", "4096", "--model", path(&locked)]);
    if std::fs::read_dir(&locked).is_ok() {
        // Root may read everything; nobody may not.
        report.uid(65_534).gid(65_534);
    }
    let Ok(ran) = report.output() else {
        return eprintln!("skipped: lgc cannot be run as another user here");
    };
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{errors}");
    assert!(errors.contains("locked") && errors.to_lowercase().contains("permission denied"), "{errors}");
}

#[test]
fn cuda_sources_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernel.cu");
    let load = |stage| ["emit", "mistral", "--stage", stage, "--load-cuda", path(&file)];
    fails(&load("cuda"), 1, &["kernel.cu"]);
    std::fs::write(&file, "int main() {}").unwrap();
    fails(&load("cuda"), 1, &["spec"]);
    fails(&load("ir"), 2, &["--load-cuda"]);
    let emitted = super::succeeds(&["emit", "mistral", "--stage", "cuda", "--head-dim", "64"]);
    std::fs::write(&file, &emitted).unwrap();
    fails(&load("cuda"), 2, &["another kernel"]);
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    fails(&load("cuda"), 1, &["UTF-8"]);
}

#[test]
fn no_arguments_print_help() {
    let ran = lgc(&[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("Usage: lgc"));
}
