//! What remembering costs a start: opening the store, fetching a kernel, and all kernels of a pattern from a warm cache.
//!
//! `cargo bench --bench store` makes a store of 500 kernels in a temporary folder and prints medians of new openings. With
//! NVRTC it compiles the kernels of one pattern into it, and then finds them again as a new process would; with a GPU it loads
//! them too.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use longgen_codegen::artifact::{CompiledKernel, Manifest};
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, KernelSpec, Pass, PatternCode, Shape};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::{GpuAttention, GpuOptions, KernelCache};
use longgen_runtime::store::{KernelKey, Store, StoreLocation};

const OTHERS: usize = 500;
const IMAGE_BYTES: usize = 150_000;
const REPETITIONS: usize = 21;
const PATTERN: &str = "phi3-small";

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    fill(folder.path());
    let key = |number: usize| KernelKey { source: format!("{number:064x}"), nvrtc: "13.0".into() };
    report("open the store", || drop(open(folder.path())));
    report("open, fetch a kernel of 150 kB", || {
        assert!(open(folder.path()).kernel(&key(321)).is_some());
    });
    let store = open(folder.path());
    let mut number = 0;
    report("fetch a kernel of 150 kB", || {
        number += 17;
        assert!(store.kernel(&key(number % OTHERS)).is_some());
    });
    drop(store);
    let search = search();
    let empty = cache(&search, folder.path());
    if let Err(error) = empty.nvrtc_version() {
        return println!("nothing was compiled: {error}");
    }
    let mut all = 0.0;
    kernels(&empty, |pass, taken| {
        println!("{:44}{taken:>10.2} ms", format!("compile {pass}"));
        all += taken;
    });
    println!("{:44}{all:>10.2} ms", "compile the kernels of a pattern");
    report("find them again, as a new process", || kernels(&cache(&search, folder.path()), |_, _| ()));
    let Ok(device) = Device::open(0) else { return println!("nothing was loaded: no GPU") };
    let pattern = Pattern::preset(PATTERN).expect("a preset");
    let ir = MaskIr::lower(&pattern, None).expect("few terms");
    let (text, shape) = (pattern.to_string(), Shape::plain(128, Dtype::Bf16));
    let options = GpuOptions { backward: false, decode: false, ..GpuOptions::default() };
    let load = |options| {
        let cache = cache(&search, folder.path());
        GpuAttention::new(&device, &cache, &text, &ir, shape, options).expect("they load");
    };
    report("find and load one kernel on the GPU", || load(options));
    report("find and load all on the GPU", || load(GpuOptions::default()));
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Prints median and slowest.
fn report(name: &str, mut work: impl FnMut()) {
    let mut times: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            work();
            milliseconds(start)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:44}{:>10.2} ms, slowest {:.2}", times[REPETITIONS / 2], times[REPETITIONS - 1]);
}

fn open(folder: &Path) -> Arc<Store> {
    Arc::new(Store::open(StoreLocation::in_folder(folder)))
}

fn cache(search: &ToolSearch, folder: &Path) -> KernelCache {
    KernelCache::new(search.clone(), open(folder))
}

/// Where `lgc` looks.
fn search() -> ToolSearch {
    let path = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let home = path("HOME").map(|home| home.join(".cache/longgen"));
    ToolSearch {
        variable: path("LONGGEN_NVRTC"),
        cuda_home: path("CUDA_HOME"),
        cache: path("LONGGEN_CACHE").or(home),
        ..ToolSearch::default()
    }
}

/// Every pass of the pattern for Hopper; `each` hears what it took, in milliseconds.
fn kernels(cache: &KernelCache, mut each: impl FnMut(Pass, f64)) {
    let pattern = Pattern::preset(PATTERN).expect("a preset");
    let ir = MaskIr::lower(&pattern, None).expect("few terms");
    let code = Arc::new(PatternCode::new(pattern.to_string(), &ir));
    let target = "sm_90a".parse().expect("a target");
    for pass in Pass::ALL {
        let specs = KernelSpec::candidates(pass, target, Shape::plain(128, Dtype::Bf16), &code);
        let start = Instant::now();
        cache.get_first(&specs).expect("it compiles");
        each(pass, milliseconds(start));
    }
}

/// Kernels of other patterns, so that the store is one in long use.
fn fill(folder: &Path) {
    let manifest = serde_json::json!({
        "generator": "longgen", "pattern": "", "pattern_hash": "", "spec_hash": "", "source_hash": "", "pass": "forward",
        "target": "sm_80", "shape": { "head_dim": 64, "dtype": "bf16", "softcap": false, "sink_logit": false },
        "schedule": "", "tile_m": 64, "tile_n": 64, "listed": false, "list_n": 64, "nvrtc_version": "13.0",
        "options": [], "params": { "size": 0, "fields": [] }, "kernels": []
    });
    let manifest: Manifest = serde_json::from_value(manifest).expect("a manifest");
    let store = open(folder);
    for number in 0..OTHERS {
        let image = (0..IMAGE_BYTES).map(|byte| (byte * 31 + number) as u8).collect();
        let key = KernelKey { source: format!("{number:064x}"), nvrtc: "13.0".into() };
        store.put_kernel(&key, &CompiledKernel { image, manifest: manifest.clone() });
    }
}
