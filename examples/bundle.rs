//! Kernels from a bundle in Rust: no NVRTC, only NVIDIA's driver.
//!
//! ```text
//! lgc bundle mistral -o kernels.lgk
//! cargo run --example bundle -- kernels.lgk
//! ```
//!
//! Loads every pattern and shape of the file for this machine's GPU and checks forward, backward and decode against the
//! f64 oracle; without a GPU it checks the file and lists it.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use longgen::codegen::bundle::{Bundle, BundledPattern};
use longgen::codegen::ir::MaskIr;
use longgen::codegen::spec::{Pass, Shape};
use longgen::pattern::Pattern;
use longgen::runtime::driver::Device;
use longgen::runtime::gpu::{GpuAttention, GpuOptions, KernelCache};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: bundle kernels.lgk")?;
    let bundle = Arc::new(Bundle::from_bytes(&std::fs::read(path)?)?);
    let device = Device::open(0);
    for pattern in &bundle.info.patterns {
        for shape in shapes(&bundle, pattern) {
            println!("{} with {shape}", pattern.label);
            if let Ok(device) = &device {
                launch(device, &bundle, pattern, shape)?;
            }
        }
    }
    if let Err(error) = device {
        println!("nothing was launched: {error}");
    }
    Ok(())
}

/// The shapes that the bundle holds forward kernels of a pattern for.
fn shapes(bundle: &Bundle, pattern: &BundledPattern) -> Vec<Shape> {
    let manifests = bundle.kernels.iter().map(|kernel| &kernel.compiled.manifest);
    let own =
        manifests.filter(|manifest| manifest.pattern_hash == pattern.hash && manifest.pass == Pass::Forward);
    let mut shapes: Vec<Shape> = own.map(|manifest| manifest.shape).collect();
    shapes.sort();
    shapes.dedup();
    shapes
}

fn launch(
    device: &Device,
    bundle: &Arc<Bundle>,
    pattern: &BundledPattern,
    shape: Shape,
) -> Result<(), Box<dyn Error>> {
    let has = |pass| bundle.kernels.iter().any(|kernel| kernel.compiled.manifest.pass == pass);
    let (backward, decode) = (has(Pass::BackwardDelta), has(Pass::Decode));
    let mask = MaskIr::lower(&pattern.text.parse::<Pattern>()?, None)?;
    let cache = KernelCache::from_bundle(bundle.clone(), device.compute_capability());
    let start = Instant::now();
    let options = GpuOptions { backward, decode, ..GpuOptions::default() };
    let attention = GpuAttention::new(device, &cache, &pattern.text, &mask, shape, options)?;
    let loaded = start.elapsed();
    attention.self_check()?;
    let kernels: Vec<String> = attention
        .kernels()
        .map(|kernel| format!("{} for {}", kernel.manifest.pass, kernel.manifest.target))
        .collect();
    println!(
        "  loaded in {:.1} ms, agrees with the oracle: {}",
        loaded.as_secs_f64() * 1e3,
        kernels.join(", ")
    );
    Ok(())
}
