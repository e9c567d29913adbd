//! The C and the Python example read what is written here, and refuse what is damaged. Neither needs a GPU for that.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use longgen_codegen::bundle::{Bundle, C_HEADER};

use super::{listing, sample};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// A program that lists a bundle with `--check`.
pub enum Host {
    C(PathBuf),
    Python,
}

impl Host {
    /// Those that this machine has: the C example compiled into `folder`, and the Python one.
    pub fn all(folder: &Path) -> Vec<Host> {
        let mut hosts = Vec::new();
        match compile(folder, "cc", &["-std=c11", "-Wpedantic"], &example("bundle_c/main.c")) {
            Some(program) => hosts.push(Host::C(program)),
            None => eprintln!("skipped: no C compiler on this machine"),
        }
        match Command::new("python3").arg("--version").output() {
            Ok(_) => hosts.push(Host::Python),
            Err(error) => eprintln!("skipped: no Python on this machine: {error}"),
        }
        hosts
    }

    /// The listing, or the error.
    pub fn check(&self, bundle: &Path) -> Result<String, String> {
        let mut command = match self {
            Host::C(program) => Command::new(program),
            Host::Python => {
                let mut command = Command::new("python3");
                command.arg(example("bundle_python/attention.py")).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
        };
        let Output { status, stdout, stderr } =
            command.arg(bundle).arg("--check").output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(status.code().is_some(), "it was killed: {}", text(&stderr));
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }
}

/// Compiles a program with the bundle's header, without a warning; `None` where there is no such compiler.
fn compile(folder: &Path, compiler: &str, flags: &[&str], source: &Path) -> Option<PathBuf> {
    std::fs::write(folder.join("longgen.h"), C_HEADER).expect("a header");
    let program = folder.join(format!("attention-{compiler}"));
    let mut command = Command::new(compiler);
    command.args(["-O1", "-Wall", "-Wextra", "-Werror"]).args(flags).arg("-I").arg(folder);
    let output = command.arg(source).args(["-ldl", "-lm", "-o"]).arg(&program).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

#[test]
fn every_host_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernels.lgk");
    std::fs::write(&file, sample().to_bytes().unwrap()).unwrap();
    for host in Host::all(folder.path()) {
        assert_eq!(host.check(&file), Ok(listing(&sample())));
    }
}

#[test]
fn every_host_refuses_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let whole = sample().to_bytes().unwrap();
    let hosts = Host::all(folder.path());
    let refused = |bytes: &[u8], what: &str| {
        let file = folder.path().join("damaged.lgk");
        std::fs::write(&file, bytes).unwrap();
        assert!(Bundle::from_bytes(bytes).is_err(), "{what}");
        for host in &hosts {
            let error = host.check(&file).expect_err(what);
            assert!(error.starts_with("error: ") && error.contains("damaged.lgk"), "{what}: {error}");
            assert!(!error.contains("Traceback"), "{what}: {error}");
        }
    };
    for length in [0, 5, 8, 87, 88, 100, 700, whole.len() - 1] {
        refused(&whole[..length], &format!("cut to {length} bytes"));
    }
    refused(&[&whole[..], b"more"].concat(), "added to");
    for position in [0, 8, 12, 20, 30, 74, 78, 86, 89, 88 + 208, 88 + 380, 88 + 424 * 5 + 8, whole.len() - 1]
    {
        let mut bytes = whole.clone();
        bytes[position] ^= 4;
        refused(&bytes, &format!("byte {position} changed"));
    }
    for host in &hosts {
        assert!(host.check(&folder.path().join("missing.lgk")).is_err());
    }
}

#[test]
fn the_header_is_cpp_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.cpp");
    std::fs::write(&source, "#include \"longgen.h\"\nint main() { return lgk_check(\"\", 0) == nullptr; }\n")
        .unwrap();
    if compile(folder.path(), "c++", &["-std=c++11", "-Wno-unused-function"], &source).is_none() {
        eprintln!("skipped: no C++ compiler on this machine");
    }
}
