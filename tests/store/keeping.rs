//! What goes in comes out, also for another process and after another start.

use std::time::Duration;

use longgen_codegen::cuda::locate::ToolSearch;
use longgen_runtime::store::{
    KernelAbout, Operation, Prune, Store, StoreLocation, TrialOutcome, length_bucket,
};

use super::{ALL, choice, fill, found, kernel, key, open_quietly, place, trial, tune_key};

#[test]
fn entries_outlive_the_store() {
    let (_folder, file) = place();
    fill(&file);
    let store = open_quietly(&file);
    assert_eq!(found(&store), ALL);
    assert_eq!(store.kernel(&key(99)), None);
    assert_eq!(store.tuned(&tune_key(99, 8192)), None);
    let rows = store.kernels();
    assert_eq!((rows.len(), rows[0].image_bytes), (20, 20_000));
    assert_eq!(store.tuned_rows().len(), 5);
    assert_eq!(store.take_notices(), []);
}

#[test]
fn two_stores_of_one_file_see_each_other() {
    let (_folder, file) = place();
    let (one, other) = (open_quietly(&file), open_quietly(&file));
    one.put_kernel(&key(1), &kernel(1, 10));
    assert_eq!(other.kernel(&key(1)), Some(kernel(1, 10)));
    other.put_kernel(&key(1), &kernel(2, 10));
    assert_eq!(one.kernel(&key(1)), Some(kernel(2, 10)), "a later kernel takes the place of an earlier one");
}

#[test]
fn compilers_are_kept_apart() {
    let store = Store::open(StoreLocation::Memory);
    let newer = super::KernelKey { nvrtc: "13.1".into(), ..key(1) };
    store.put_kernel(&key(1), &kernel(1, 10));
    assert_eq!(store.kernel(&newer), None);
    assert_eq!(store.kernel_of_any_compiler(&newer.source), Some(kernel(1, 10)));
    store.put_kernel(&newer, &kernel(2, 10));
    assert_eq!(store.kernel(&key(1)), Some(kernel(1, 10)));
}

/// What a generator of this name did not make.
fn others(generator: &str) -> Prune {
    Prune::OtherGenerators { kernels: generator.into(), tuned: generator.into() }
}

#[test]
fn operations_are_kept_beside_attention() {
    let (folder, file) = place();
    let about =
        Operation { name: "rmsnorm.cu".into(), target: "sm_90".into(), generator: "longgen 0.0.0".into() };
    open_quietly(&file).put_operation(&key(1), &about, b"an image");
    let store = open_quietly(&file);
    assert_eq!(store.operation(&key(1)).as_deref(), Some(&b"an image"[..]));
    assert_eq!(store.operation_of_any_compiler(&key(1).source).as_deref(), Some(&b"an image"[..]));
    assert_eq!(store.kernel(&key(1)), None, "it is no attention");
    assert_eq!(store.kernels()[0].about, KernelAbout::Operation(about));
    let exported = folder.path().join("export.db");
    assert_eq!(store.export(&exported).unwrap().kernels, 1);
    assert_eq!(store.prune(&others("longgen 0.0.1")).kernels, 1);
    store.import(&exported).unwrap();
    assert!(store.operation(&key(1)).is_some());
    assert_eq!(store.take_notices(), []);
}

#[test]
fn lengths_fall_into_buckets() {
    let buckets: Vec<u64> = [0, 1, 2, 3, 4096, 4097, 8192, u64::MAX].map(length_bucket).to_vec();
    assert_eq!(buckets, [1, 1, 2, 4, 4096, 8192, 8192, 1 << 62]);
    let store = Store::open(StoreLocation::Memory);
    for tokens in [131_072, 8192, 16_384] {
        store.put_tuned(&tune_key(1, tokens), &choice(tokens as f64));
    }
    assert_eq!(store.tuned(&tune_key(1, 5000)), Some(choice(8192.0)), "any length of a bucket");
    let buckets = store.tuned_buckets(&tune_key(1, 1).problem);
    let lengths: Vec<u64> = buckets.iter().map(|(bucket, _)| *bucket).collect();
    assert_eq!(lengths, [8192, 16_384, 131_072]);
}

#[test]
fn every_part_of_a_key_tells_problems_apart() {
    let store = Store::open(StoreLocation::Memory);
    let key = tune_key(1, 8192);
    store.put_tuned(&key, &choice(1.0));
    let text = |change: fn(&mut super::TuneProblem)| {
        let mut other = key.clone();
        change(&mut other.problem);
        other
    };
    for other in [
        text(|p| p.pattern_hash = "x".into()),
        text(|p| p.pass = "decode".into()),
        text(|p| p.head_dim = 64),
        text(|p| p.group = 8),
        text(|p| p.dtype = "fp16".into()),
        text(|p| p.softcap = true),
        text(|p| p.sink_logit = true),
        text(|p| p.target = "sm_80".into()),
        text(|p| p.device = "NVIDIA H100".into()),
        text(|p| p.driver = "13.1".into()),
        text(|p| p.compiler = "nvrtc 13.1".into()),
        text(|p| p.generator = "longgen 0.0.1".into()),
    ] {
        assert_eq!(store.tuned(&other), None, "{other:?}");
        assert_ne!(other.id(), key.id());
    }
}

#[test]
fn measurements_keep_their_order() {
    let (_folder, file) = place();
    let key = tune_key(1, 8192);
    let refused = super::Trial { outcome: TrialOutcome::Refused("spills".into()), ..trial(0.0) };
    // The same time twice is two measurements.
    let steps = [trial(2.0), refused, trial(1.0), trial(1.0)];
    for step in &steps {
        open_quietly(&file).put_trial(&key, step);
    }
    let store = open_quietly(&file);
    assert_eq!(store.trials(&key), steps);
    // Of another problem of this key.
    let other = super::Trial { problem: "1 head".into(), ..trial(3.0) };
    store.put_trial(&key, &other);
    store.forget_trials(&key, &trial(0.0).problem);
    assert_eq!(store.trials(&key), [other]);
}

#[test]
fn pruning() {
    let (_folder, file) = place();
    fill(&file);
    let store = open_quietly(&file);
    let full = std::fs::metadata(&file).unwrap().len();
    assert_eq!(store.prune(&others("longgen 0.0.0")).kernels, 0);
    assert_eq!(store.prune(&Prune::OlderThan(Duration::from_secs(3600))).kernels, 0);
    assert_eq!(found(&store), ALL);
    let pruned = store.prune(&others("longgen 0.0.1"));
    assert_eq!((pruned.kernels, pruned.tuned, pruned.trials), ALL);
    assert_eq!(found(&store), (0, 0, 0));
    assert!(std::fs::metadata(&file).unwrap().len() < full / 4, "the room is given back");
    fill(&file);
    assert_eq!(store.prune(&Prune::All).kernels, 20);
    assert_eq!(store.take_notices(), []);
}

#[test]
fn export_and_import() {
    let (folder, file) = place();
    fill(&file);
    let exported = folder.path().join("export.db");
    let sum = open_quietly(&file).export(&exported).unwrap();
    assert_eq!((sum.kernels, sum.tuned, sum.trials, sum.damaged), (20, 5, 5, 0));
    let other = open_quietly(&folder.path().join("other.db"));
    assert_eq!(other.import(&exported).unwrap().total(), 30);
    assert_eq!(found(&other), ALL);
    assert_eq!(other.import(&exported).unwrap().total(), 0, "nothing comes twice");
    assert_eq!(found(&other), ALL);
    // In memory too.
    let memory = Store::open(StoreLocation::Memory);
    memory.import(&exported).unwrap();
    assert_eq!(found(&memory), ALL);
    assert_eq!(memory.export(&exported).unwrap().total(), 30);
}

#[test]
fn what_is_no_export_is_refused() {
    let (folder, file) = place();
    let store = open_quietly(&file);
    let path = |name: &str| folder.path().join(name);
    assert!(store.import(&path("missing")).unwrap_err().to_string().contains("missing"));
    assert!(!path("missing").exists(), "asking must not make it");
    std::fs::write(path("text"), "no database, however long this text may be: it has no header at all")
        .unwrap();
    std::fs::write(path("empty"), "").unwrap();
    for name in ["text", "empty"] {
        let error = store.import(&path(name)).unwrap_err().to_string();
        assert!(error.contains("no export"), "{error}");
    }
    assert!(store.export(&path("no/such/folder")).is_err());
    assert!(store.export(folder.path()).is_err());
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3, "a failed export leaves nothing");
}

#[test]
fn the_compiler_is_known_while_its_file_is_the_same() {
    let (folder, file) = place();
    let library = folder.path().join("libnvrtc.so.13");
    std::fs::write(&library, "one").unwrap();
    let search = ToolSearch { option: Some(library.clone()), ..ToolSearch::default() };
    let store = open_quietly(&file);
    assert_eq!(store.compiler(&search), None);
    store.put_compiler(&search, &library, "13.0");
    assert_eq!(open_quietly(&file).compiler(&search).as_deref(), Some("13.0"));
    assert_eq!(store.compiler(&ToolSearch::default()), None, "another search may find another library");
    std::fs::write(&library, "another").unwrap();
    assert_eq!(store.compiler(&search), None);
}
