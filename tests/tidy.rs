//! The house rules that a reader relies on: which way the arrows point, where `unsafe` lives, how long files are.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file, its unit tests left out.
const LONGEST_FILE: usize = 450;

/// Crate, and the crates of ours it may name.
const CRATES: [(&str, &[&str]); 4] =
    [("templates", &[]), ("macros", &[]), ("codegen", &["templates"]), ("runtime", &["codegen"])];

/// Modules of codegen in the order of the data: each may use those before it. `cuda` and `cpu` do not meet.
const CODEGEN_ORDER: [&[&str]; 10] = [
    &["scalar"],
    &["pattern"],
    &["ir"],
    &["plan"],
    &["analysis"],
    &["target", "schedule", "spec"],
    &["cuda", "cpu"],
    &["artifact", "model"],
    &["build"],
    &["bundle"],
];

/// The only files that may contain `unsafe` code.
const UNSAFE: [&str; 11] = [
    "codegen/src/cuda/nvrtc.rs",
    "codegen/src/cpu/jit.rs",
    "runtime/src/driver/",
    "runtime/src/blas/api.rs",
    "runtime/src/blas/product.rs",
    "runtime/src/gpu_ops/mod.rs",
    "runtime/src/gpu/launch.rs",
    "runtime/src/cpu/",
    "runtime/src/ops/gemm.rs",
    "runtime/src/model/mapped.rs",
    "tests/emulator/src/driver/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with one of these extensions, as paths relative to the root.
fn files(folder: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                found.push((path.strip_prefix(root()).expect("below the root").to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust_sources() -> Vec<(PathBuf, String)> {
    ["src", "codegen/src", "runtime/src", "macros/src", "templates", "tests/emulator/src"]
        .iter()
        .flat_map(|folder| files(folder, &["rs"]))
        .collect()
}

#[test]
fn crates_point_one_way() {
    for (name, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for other in ["templates", "macros", "codegen", "runtime"] {
            let named = dependencies.contains(&format!("\nlonggen-{other}"));
            assert!(!named || allowed.contains(&other), "{name} may not depend on {other}");
        }
    }
}

#[test]
fn modules_of_the_compiler_point_one_way() {
    let rank = |module: &str| CODEGEN_ORDER.iter().position(|group| group.contains(&module));
    for (path, text) in files("codegen/src", &["rs"]) {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().replace(".rs", "")).collect();
        let module = parts[2].as_str();
        if module == "lib" {
            continue;
        }
        let here =
            rank(module).unwrap_or_else(|| panic!("codegen module `{module}` has no rank in this test"));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for used in code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed = rank(&used).is_none_or(|there| there < here || used == module);
            let siblings = ["target", "schedule", "spec"];
            let beside = siblings.contains(&module) && siblings.contains(&used.as_str());
            assert!(allowed || beside, "{}: `{module}` may not use `{used}`", path.display());
        }
    }
}

/// The store knows the compiler's nouns and nothing of devices, tensors or models.
#[test]
fn the_store_uses_nothing_else_of_the_runtime() {
    for (path, text) in files("runtime/src/store", &["rs"]) {
        assert!(!text.contains("crate::"), "{}", path.display());
    }
}

#[test]
fn unsafe_code_lives_in_few_places() {
    for (path, text) in rust_sources() {
        let has_unsafe = text.lines().any(|line| {
            let code = line.trim_start();
            !code.starts_with("//") && (code.contains("unsafe {") || code.contains("unsafe impl"))
        });
        let listed = UNSAFE.iter().any(|allowed| path.to_string_lossy().starts_with(allowed));
        assert!(!has_unsafe || listed, "{} holds unsafe code and is not on the list", path.display());
    }
}

#[test]
fn files_are_short() {
    let mut sources = rust_sources();
    sources.extend(files("templates/cuda", &["cu", "cuh"]));
    for (path, text) in sources {
        let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines; split it", path.display());
    }
}

#[test]
fn nothing_is_left_open() {
    let marks =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["todo", "!("].concat(), ["#[ign", "ore"].concat()];
    let mut sources = rust_sources();
    sources.extend(files("templates/cuda", &["cu", "cuh"]));
    sources.extend(files("tests", &["rs"]));
    for (path, text) in sources {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} holds `{mark}`", path.display());
        }
    }
}
