//! Lists the kernels that this program was built with, and checks them on the GPU, if there is one, against the oracle.

mod kernels;

use std::error::Error;

use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, Shape};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::{GpuAttention, GpuOptions};

const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.lgk"));
const PATTERN: &str = include_str!("../pattern.toml");

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::open(0);
    let capability = device.as_ref().map_or((9, 0), Device::compute_capability);
    let cache = kernels::cache(KERNELS, capability)?;
    for kernel in cache.bundle().into_iter().flat_map(|bundle| &bundle.kernels) {
        let manifest = &kernel.compiled.manifest;
        println!("{} {} {}", kernel.pattern, manifest.pass, manifest.target);
    }
    let device = match device {
        Ok(device) => device,
        Err(error) => {
            println!("nothing was launched: {error}");
            return Ok(());
        }
    };
    let pattern = Pattern::from_toml_str("pattern.toml", PATTERN)?;
    let ir = MaskIr::lower(&pattern, None)?;
    let (text, shape) = (pattern.to_string(), Shape::plain(128, Dtype::Bf16));
    let attention = GpuAttention::new(&device, &cache, &text, &ir, shape, GpuOptions::default())?;
    attention.self_check()?;
    println!("forward, backward and decode agree with the oracle on {}", device.name());
    Ok(())
}
