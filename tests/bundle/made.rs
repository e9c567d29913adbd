//! Bundles of real kernels: made by `lgc` and by a build script, read by every host, and taken by the runtime in place of
//! a compiler. Needs NVRTC and no GPU.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use longgen_codegen::bundle::{Bundle, C_HEADER};
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::source::{GENERATOR, tuning_generator};
use longgen_codegen::cuda::{engine, fetch};
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::PassGroup;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, PatternCode, Shape};
use longgen_codegen::target::Target;
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::store::{Provenance, Store, StoreLocation, TuneKey, TuneProblem, TunedChoice};
use longgen_runtime::tune::mask_hash;

use super::hosts::Host;
use super::listing;

#[path = "../cuda/mod.rs"]
pub mod cuda;

#[path = "../../examples/build_time/build.rs"]
#[allow(dead_code)] // Its main function is cargo's to call.
mod build_script;

#[path = "../../examples/build_time/src/kernels.rs"]
mod built_in;

fn has_nvrtc() -> bool {
    let found = cuda::nvrtc();
    if let Err(reason) = &found {
        eprintln!("skipped: {reason}");
    }
    found.is_ok()
}

pub fn lgc(cache: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lgc"));
    command.args(arguments).env("LONGGEN_CACHE", cache);
    // The cache of this test is another than the one that NVRTC may lie in.
    let fetched = cuda::search().cache.filter(|cache| fetch::is_fetched(cache));
    if let (None, Some(cache)) = (std::env::var_os("LONGGEN_NVRTC"), fetched) {
        command.env("LONGGEN_NVRTC", fetch::tree(&cache));
    }
    let output = command.output().expect("lgc starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn code(pattern: &Pattern) -> Arc<PatternCode> {
    let ir = MaskIr::lower(pattern, None).expect("few terms");
    Arc::new(PatternCode::new(pattern.to_string(), &ir))
}

#[test]
fn lgc_bundle() {
    if !has_nvrtc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cache, file, header) =
        (folder.path().join("cache"), folder.path().join("k.lgk"), folder.path().join("longgen.h"));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (file_text, header_text) = (path(&file), path(&header));
    let arguments =
        ["bundle", "sink=4, window=64", "mistral", "--head-dim", "64", "--pass", "forward,decode"];
    let arguments = [&arguments[..], &["-o", &file_text, "--header", &header_text, "--json"]].concat();
    let summary: serde_json::Value = serde_json::from_str(&lgc(&cache, &arguments)).expect("JSON");
    // Two passes of two patterns for two architectures, one of them with PTX too.
    assert_eq!(summary["kernels"].as_array().unwrap().len(), 2 * 2 * 3);
    assert_eq!(std::fs::read_to_string(&header).unwrap(), C_HEADER);
    let bytes = std::fs::read(&file).unwrap();
    let bundle = Bundle::from_bytes(&bytes).unwrap();
    assert_eq!(summary["bytes"], bytes.len());
    for host in Host::all(folder.path()) {
        assert_eq!(host.check(&file), Ok(listing(&bundle)));
    }
    lgc(&cache, &arguments);
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the same kernels, from the store, make the same file");
    assert!(Store::open(StoreLocation::in_folder(&cache)).kernels().len() >= 4);
    serves(Arc::new(bundle));
}

#[test]
fn tuned_schedules_go_in() {
    if !has_nvrtc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pattern: Pattern = "window=100".parse().unwrap();
    let shape = Shape::plain(64, Dtype::Bf16);
    let target: Target = "sm_90a".parse().unwrap();
    let candidates = KernelSpec::candidates(Pass::Decode, target, shape, &code(&pattern));
    let mut schedule = candidates[0].schedule;
    schedule.stages -= 1;
    let choice = |schedule: &str, seconds| {
        let provenance = Provenance {
            pattern: "window=100".into(),
            problem: String::new(),
            candidates_timed: 1,
            candidates: 1,
            finished: true,
        };
        TunedChoice { schedule: schedule.into(), seconds, spread: 0.0, provenance }
    };
    let problem = TuneProblem {
        pattern_hash: mask_hash(&MaskIr::lower(&pattern, None).unwrap()),
        pass: "decode".into(),
        head_dim: 64,
        dtype: "bf16".into(),
        target: "sm_90a".into(),
        device: "NVIDIA H200".into(),
        driver: "13000".into(),
        compiler: "nvrtc 13.0".into(),
        generator: tuning_generator().into(),
        ..TuneProblem::default()
    };
    let store = Store::open(StoreLocation::in_folder(folder.path()));
    let plan = format!("decode {} {schedule}", candidates[0].family);
    store.put_tuned(&TuneKey::new(problem.clone(), 65_536), &choice(&plan, 2.0));
    // For shorter lengths, for another dimension, and what does not parse.
    store.put_tuned(&TuneKey::new(problem.clone(), 4096), &choice("decode sm_80 tile_m=16", 1.0));
    let other = TuneProblem { head_dim: 128, ..problem.clone() };
    store.put_tuned(&TuneKey::new(other, 1 << 20), &choice(&plan, 3.0));
    // Measured of kernels that were others.
    let older = TuneProblem { generator: GENERATOR.into(), ..problem.clone() };
    store.put_tuned(&TuneKey::new(older, 1 << 20), &choice(&plan, 4.0));
    drop(store);
    let file = folder.path().join("k.lgk");
    let file = file.to_str().unwrap();
    let arguments = ["bundle", "window=100", "--head-dim", "64", "--pass", "decode", "-o", file, "--json"];
    let summary: serde_json::Value = serde_json::from_str(&lgc(folder.path(), &arguments)).unwrap();
    assert_eq!(summary["kernels"][0]["schedule"], schedule.to_string());
    assert_ne!(summary["kernels"][1]["schedule"], schedule.to_string(), "of sm_80, where nothing was tuned");
    let bundle = Bundle::from_bytes(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(bundle.info.tuned.len(), 1);
    assert_eq!((bundle.info.tuned[0].tokens, bundle.info.tuned[0].seconds), (65_536, 2.0));
}

/// The runtime takes its kernels from the bundle, by their pattern, and says what is missing.
fn serves(bundle: Arc<Bundle>) {
    let cache = KernelCache::from_bundle(bundle.clone(), (9, 0));
    let mistral = code(&Pattern::preset("mistral").unwrap());
    let text = code(&"sink=4, window=64".parse().unwrap());
    let shape = Shape::plain(64, Dtype::Bf16);
    let candidates = |pattern: &Arc<PatternCode>, pass, shape, target: &str| {
        KernelSpec::candidates(pass, target.parse::<Target>().unwrap(), shape, pattern)
    };
    for pattern in [&mistral, &text] {
        assert_eq!(bundle.target_for(&pattern.hash(), &shape, (9, 0)).map(|t| t.name()), Some("sm_90a"));
        // On Hopper the machine code of sm_80 does not run, and its PTX does.
        let elf: &[u8] = b"\x7fELF";
        for (pass, target, begin) in
            [(Pass::Forward, "sm_90a", elf), (Pass::Decode, "sm_90a", elf), (Pass::Forward, "sm_80", b"//")]
        {
            let found = cache.get_first(&candidates(pattern, pass, shape, target)).unwrap();
            assert_eq!((found.manifest.pass, found.manifest.target.as_str()), (pass, target));
            assert_eq!(found.manifest.pattern, pattern.canonical);
            assert!(found.image.trim_ascii_start().starts_with(begin));
        }
    }
    let lacking = [
        (Pass::BackwardDelta, shape, "sm_90a"),
        (Pass::Forward, Shape::plain(128, Dtype::Bf16), "sm_90a"),
        (Pass::Forward, Shape::plain(64, Dtype::Fp16), "sm_90a"),
        (Pass::Forward, shape, "sm_89"),
    ];
    for (pass, shape, target) in lacking {
        let error = cache.get_first(&candidates(&mistral, pass, shape, target)).unwrap_err().to_string();
        assert!(error.contains("the bundle holds no") && error.contains("`mistral`"), "{error}");
    }
}

#[test]
fn a_build_script_makes_a_bundle() {
    if !has_nvrtc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pattern = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/build_time/pattern.toml");
    build_script::compile(&pattern, &cuda::search(), &folder.path().join("kernels.lgk")).unwrap();
    let bytes = std::fs::read(folder.path().join("kernels.lgk")).unwrap();
    let cache = built_in::cache(&bytes, (9, 0)).unwrap();
    let bundle = cache.bundle().expect("its kernels come from one");
    assert_eq!(bundle.info.patterns.len(), 1);
    assert_eq!(bundle.info.tuned, []);
    assert!(bundle.kernels.len() > 8);
    assert!(built_in::cache(&bytes[..1000], (9, 0)).is_err());
}

/// Large heads have no decode: whoever wants their forward says so.
#[test]
fn a_bundle_tells_the_passes_that_it_would_lack() {
    if !has_nvrtc() {
        return;
    }
    let (nvrtc, window) = (cuda::nvrtc().unwrap(), code(&"window=100".parse().unwrap()));
    let (shape, target) = (Shape::plain(224, Dtype::Bf16), "sm_80".parse::<Target>().unwrap());
    let mut bundle = Bundle::new();
    bundle.add_pattern("window", &window);
    let passes = [PassGroup::Forward, PassGroup::Backward];
    let error = bundle.compile(&nvrtc, "window", &window, shape, target, &passes).unwrap_err().to_string();
    assert_eq!(error, "there is no backward for D 224, bf16 on sm_80");
    assert_eq!(bundle.kernels, []);
    bundle.compile(&nvrtc, "window", &window, shape, target, &passes[..1]).unwrap();
    assert_eq!(bundle.kernels.len(), 2, "machine code and PTX");
}

#[test]
fn a_cache_without_nvrtc_serves_kernels_of_any_version() {
    if !has_nvrtc() {
        return;
    }
    let store = Arc::new(Store::open(StoreLocation::Memory));
    let spec = |window: u32| {
        let pattern = code(&format!("window={window}").parse().unwrap());
        KernelSpec::new(Pass::BackwardDelta, "sm_80".parse().unwrap(), Shape::plain(64, Dtype::Bf16), pattern)
    };
    let with = KernelCache::new(cuda::search(), store.clone());
    let kernel = with.get(&spec(10)).unwrap();
    let operation = engine::source(engine::OPERATIONS[0]).unwrap();
    let sm_80: Target = "sm_80".parse().unwrap();
    let cubin = with.cubin(&operation, sm_80).unwrap();
    let missing = ToolSearch { option: Some("/nonexistent/nvrtc".into()), ..ToolSearch::default() };
    let without = KernelCache::new(missing, store);
    assert_eq!(without.get(&spec(10)).unwrap(), kernel);
    assert_eq!(without.cubin(&operation, sm_80).unwrap(), cubin);
    let error = without.get(&spec(11)).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/nvrtc"), "{error}");
}
