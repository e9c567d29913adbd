//! The store of kernels and tuning results: what it keeps, and what it does when its file does not keep.

mod faults;
mod keeping;
mod processes;

use std::path::{Path, PathBuf};

use longgen_codegen::artifact::{CompiledKernel, Manifest, StructLayout};
use longgen_codegen::spec::{Dtype, Pass, Shape};
use longgen_runtime::store::{
    KernelKey, Provenance, Store, StoreLocation, StoreNotice, Trial, TrialOutcome, TuneKey, TuneProblem,
    TunedChoice,
};

/// A store in a file, and what it had to say when it was opened.
fn open(path: &Path) -> (Store, Vec<StoreNotice>) {
    let store = Store::open(StoreLocation::File(path.to_owned()));
    let notices = store.take_notices();
    (store, notices)
}

/// A store that opens without a word.
fn open_quietly(path: &Path) -> Store {
    let (store, notices) = open(path);
    assert_eq!(notices, []);
    store
}

/// A folder that goes away, and a file in it that is not there yet.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cache/longgen.db");
    (folder, file)
}

fn key(number: usize) -> KernelKey {
    KernelKey { source: format!("{number:064x}"), nvrtc: "13.0".into() }
}

/// A kernel of `bytes` bytes that differ with `number`.
fn kernel(number: usize, bytes: usize) -> CompiledKernel {
    let manifest = Manifest {
        generator: "longgen 0.0.0".into(),
        pattern: format!("window={number}"),
        pattern_hash: format!("{number:064x}"),
        spec_hash: String::new(),
        source_hash: String::new(),
        pass: Pass::Forward,
        target: "sm_80".into(),
        shape: Shape::plain(64, Dtype::Bf16),
        schedule: String::new(),
        tile_m: 64,
        tile_n: 64,
        listed: false,
        list_n: 64,
        nvrtc_version: "13.0".into(),
        options: Vec::new(),
        params: StructLayout { size: 0, fields: Vec::new() },
        kernels: Vec::new(),
    };
    let image = (0..bytes).map(|index| (index * 31 + number * 7) as u8).collect();
    CompiledKernel { image, manifest }
}

fn tune_key(window: usize, tokens: u64) -> TuneKey {
    let problem = TuneProblem {
        pattern_hash: format!("{window:064x}"),
        pass: "forward".into(),
        head_dim: 128,
        dtype: "bf16".into(),
        target: "sm_90a".into(),
        device: "NVIDIA H200".into(),
        driver: "13.0".into(),
        compiler: "nvrtc 13.0".into(),
        generator: "longgen 0.0.0".into(),
        ..TuneProblem::default()
    };
    TuneKey::new(problem, tokens)
}

fn choice(seconds: f64) -> TunedChoice {
    let provenance = Provenance {
        pattern: "window=1".into(),
        problem: "32 heads, 8 KV heads, 8192 tokens".into(),
        candidates_timed: 5,
        candidates: 9,
        finished: true,
    };
    TunedChoice { schedule: "tile_m=128 tile_n=64".into(), seconds, spread: 0.25, provenance }
}

fn trial(seconds: f64) -> Trial {
    let (schedule, problem) = ("tile_m=128 tile_n=64".into(), choice(seconds).provenance.problem);
    Trial { schedule, problem, outcome: TrialOutcome::Measured(seconds) }
}

/// A file with 20 kernels of 20 kB, 5 choices and 5 measurements.
fn fill(path: &Path) {
    let store = open_quietly(path);
    for number in 0..20 {
        store.put_kernel(&key(number), &kernel(number, 20_000));
    }
    for window in 0..5 {
        store.put_tuned(&tune_key(window, 8192), &choice(window as f64));
        store.put_trial(&tune_key(window, 8192), &trial(1.5));
    }
    assert_eq!(store.take_notices(), []);
}

/// How many of the entries of [`fill`] are there: each is right or absent.
fn found(store: &Store) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for number in 0..20 {
        if let Some(kept) = store.kernel(&key(number)) {
            assert_eq!(kept, kernel(number, 20_000));
            counts.0 += 1;
        }
    }
    for window in 0..5 {
        if let Some(kept) = store.tuned(&tune_key(window, 8192)) {
            assert_eq!(kept, choice(window as f64));
            counts.1 += 1;
        }
        let trials = store.trials(&tune_key(window, 8192));
        assert!(trials.iter().all(|kept| *kept == trial(1.5)));
        counts.2 += trials.len();
    }
    counts
}

/// All of [`fill`].
const ALL: (usize, usize, usize) = (20, 5, 5);
