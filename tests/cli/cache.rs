//! `lgc cache`, and what any command says of a cache that does not serve.

use std::path::Path;

use longgen_codegen::artifact::{CompiledKernel, Manifest};
use longgen_codegen::cuda::source::{GENERATOR, tuning_generator};
use longgen_runtime::store::{
    FILE_NAME, KernelKey, Provenance, Store, StoreLocation, Trial, TrialOutcome, TuneKey, TuneProblem,
    TunedChoice,
};
use serde_json::{Value, json};

use super::{Ran, command, names_in, path};

/// `lgc` with this cache folder.
fn lgc(cache: &Path, arguments: &[&str]) -> Ran {
    let output = command(arguments).env("LONGGEN_CACHE", cache).output().expect("lgc starts");
    let text = |bytes| String::from_utf8(bytes).expect("lgc prints UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("panicked"), "{arguments:?} panicked:\n{err}");
    Ran { code: output.status.code().expect("lgc ends by itself"), out, err }
}

fn json_of(cache: &Path, arguments: &[&str]) -> Value {
    let ran = lgc(cache, &[arguments, &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    serde_json::from_str(&ran.out).expect("JSON")
}

fn manifest(generator: &str) -> Manifest {
    let text = json!({
        "generator": generator, "pattern": "window=4096", "pattern_hash": "", "spec_hash": "", "source_hash": "",
        "pass": "forward", "target": "sm_90a", "schedule": "tile_m=128", "tile_m": 128, "tile_n": 64,
        "shape": { "head_dim": 128, "dtype": "bf16", "softcap": false, "sink_logit": false },
        "listed": false, "list_n": 64, "nvrtc_version": "13.0", "options": [],
        "params": { "size": 0, "fields": [] }, "kernels": []
    });
    serde_json::from_value(text).expect("a manifest")
}

/// Two kernels, one of an older version, and a tuning result with its measurements.
fn filled(cache: &Path) {
    let store = Store::open(StoreLocation::in_folder(cache));
    for (source, generator) in [("a", "longgen 0.0.0"), ("b", concat!("longgen ", env!("CARGO_PKG_VERSION")))]
    {
        let key = KernelKey { source: source.into(), nvrtc: "13.0".into() };
        store.put_kernel(&key, &CompiledKernel { image: vec![7; 1500], manifest: manifest(generator) });
    }
    let problem = TuneProblem {
        pattern_hash: "c".into(),
        pass: "forward".into(),
        head_dim: 128,
        dtype: "bf16".into(),
        target: "sm_90a".into(),
        device: "NVIDIA H200".into(),
        driver: "13.0".into(),
        compiler: "nvrtc 13.0".into(),
        generator: tuning_generator().into(),
        ..TuneProblem::default()
    };
    let key = TuneKey::new(problem, 8000);
    let provenance = Provenance {
        pattern: "window=4096".into(),
        problem: "32 heads".into(),
        candidates_timed: 2,
        candidates: 3,
        finished: true,
    };
    let choice = TunedChoice { schedule: "tile_m=128".into(), seconds: 2.5e-5, spread: 0.01, provenance };
    store.put_tuned(&key, &choice);
    let refused = TrialOutcome::Refused("spills".into());
    for (schedule, outcome) in [("tile_m=128", TrialOutcome::Measured(2.5e-5)), ("tile_m=256", refused)] {
        let problem = choice.provenance.problem.clone();
        store.put_trial(&key, &Trial { schedule: schedule.into(), problem, outcome });
    }
    assert_eq!(store.take_notices(), []);
}

#[test]
fn list_and_show() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let listing = json_of(folder.path(), &["cache", "list"]);
    assert_eq!(listing["kernels"].as_array().unwrap().len(), 2);
    assert_eq!(listing["tuned"][0]["tokens"], 8192);
    let text = lgc(folder.path(), &["cache", "list"]).out;
    for word in ["2 kernels", "1 tuning results", "window=4096", "25.00 us", "1,500", "sm_90a"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let id = listing["tuned"][0]["id"].as_str().unwrap();
    let shown = json_of(folder.path(), &["cache", "show", &id[..6]]);
    assert_eq!(shown["problem"]["device"], "NVIDIA H200");
    assert_eq!(shown["trials"][1]["outcome"]["refused"], "spills");
    let text = lgc(folder.path(), &["cache", "show", id]).out;
    for word in ["4,097 to 8,192", "25.00 us, spread 1.0 %", "2 of 3 candidates", "refused", "spills"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let id = listing["kernels"][0]["id"].as_str().unwrap();
    assert_eq!(json_of(folder.path(), &["cache", "show", id])["manifest"]["nvrtc_version"], "13.0");
    assert!(lgc(folder.path(), &["cache", "show", id]).out.contains("1,500 bytes"));
    for (id, word) in [("zz", "lgc cache list"), ("", "3 entries")] {
        let ran = lgc(folder.path(), &["cache", "show", id]);
        assert!(ran.code == 1 && ran.out.is_empty() && ran.err.contains(word), "{}", ran.err);
    }
}

#[test]
fn an_empty_cache() {
    let folder = tempfile::tempdir().unwrap();
    assert!(lgc(folder.path(), &["cache", "list"]).out.contains("0 kernels"));
    assert_eq!(json_of(folder.path(), &["cache", "prune", "--all"])["kernels"], 0);
}

#[test]
fn prune() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    // Measured before a template changed.
    let store = Store::open(StoreLocation::in_folder(folder.path()));
    let mut stale = store.tuned_rows().remove(0);
    stale.key.problem.generator = GENERATOR.into();
    store.put_tuned(&stale.key, &stale.choice);
    drop(store);
    let old = json_of(folder.path(), &["cache", "prune", "--older-than", "1"]);
    assert_eq!(old, json!({ "kernels": 0, "tuned": 0, "trials": 0 }));
    let old = json_of(folder.path(), &["cache", "prune"]);
    assert_eq!(
        old,
        json!({ "kernels": 1, "tuned": 1, "trials": 0 }),
        "of an older version, of older templates"
    );
    let text = lgc(folder.path(), &["cache", "prune", "--all"]).out;
    assert_eq!(text, "removed 1 kernels, 1 tuning results, 2 measurements\n");
    for wrong in [&["--older-than", "-1"][..], &["--older-than", "1", "--all"], &["--older-than", "soon"]] {
        assert_eq!(lgc(folder.path(), &[&["cache", "prune"], wrong].concat()).code, 2, "{wrong:?}");
    }
}

#[test]
fn export_and_import() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(from.path());
    let file = from.path().join("export.db");
    let ran = lgc(from.path(), &["cache", "export", path(&file)]);
    assert_eq!(ran.out, "exported 2 kernels, 1 tuning results, 2 measurements\n");
    assert_eq!(json_of(to.path(), &["cache", "import", path(&file)])["kernels"], 2);
    let listed = |cache: &Path| json_of(cache, &["cache", "list"])["tuned"].clone();
    assert_eq!(listed(from.path()), listed(to.path()));
    for (arguments, word) in [
        (["import", "/no/such/file"], "/no/such/file"),
        (["import", "Cargo.toml"], "no export"),
        (["export", "/no/such/folder/file"], "/no/such/folder/file"),
        (["export", "/proc/file"], "/proc/file"),
    ] {
        let ran = lgc(to.path(), &[&["cache"], &arguments[..]].concat());
        assert!(ran.code == 1 && ran.out.is_empty() && ran.err.contains(word), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn a_broken_file_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE_NAME), "garbage ".repeat(1000)).unwrap();
    // Several processes meet it at once.
    let started: Vec<_> = (0..5)
        .map(|_| {
            let mut command = command(&["cache", "list"]);
            command.env("LONGGEN_CACHE", folder.path());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("lgc starts")
        })
        .collect();
    let outputs = started.into_iter().map(|child| child.wait_with_output().expect("lgc ends"));
    let told = outputs.filter(|output| {
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.is_empty() || text.starts_with("note: ") && text.contains("set aside"), "{text}");
        !text.is_empty()
    });
    assert_eq!(told.count(), 1);
    assert_eq!(names_in(folder.path()), ["longgen.db", "longgen.db.set-aside"]);
}

#[test]
fn a_home_that_cannot_hold_a_cache() {
    let ran = lgc(Path::new("/proc/longgen"), &["cache", "list"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("note: ") && ran.err.contains("in memory only"), "{}", ran.err);
}
