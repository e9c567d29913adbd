//! Kernel bundles: the file, and the programs that read it.

mod format;
mod hosts;
mod launched;
mod made;

use longgen_codegen::artifact::{Argument, CompiledKernel, KernelEntry, Manifest, StructLayout};
use longgen_codegen::bundle::{Bundle, BundledChoice, BundledKernel, BundledPattern, ImageKind};
use longgen_codegen::cuda::abi::Params;
use longgen_codegen::cuda::kernels::{GridAxis, MapTensor};
use longgen_codegen::cuda::log::KernelResources;
use longgen_codegen::spec::{Dtype, Pass, Shape};

fn entry(name: &str, grid: [GridAxis; 3], arguments: Vec<Argument>) -> KernelEntry {
    KernelEntry {
        name: name.into(),
        needs_sink_logit: name.ends_with("d_sink"),
        starts_early: false,
        arguments,
        grid,
        grid_rule: ["x".into(), "y".into(), "z".into()],
        block: 384,
        dynamic_smem_bytes: 230_656,
        resources: KernelResources::default(),
    }
}

fn manifest(pass: Pass, target: &str, kernels: Vec<KernelEntry>) -> Manifest {
    Manifest {
        generator: "longgen 0.0.0".into(),
        pattern: "window=64".into(),
        pattern_hash: "1f".repeat(32),
        spec_hash: String::new(),
        source_hash: String::new(),
        pass,
        target: target.into(),
        shape: Shape::plain(128, Dtype::Bf16),
        schedule: "tile_m=128 tile_n=64 stages=2 threads=384 consumers=2".into(),
        tile_m: 128,
        tile_n: 64,
        listed: false,
        list_n: 64,
        nvrtc_version: "13.0".into(),
        options: Vec::new(),
        params: StructLayout { size: size_of::<Params>(), fields: Params::fields() },
        kernels,
    }
}

/// A forward and a backward of two entry points for Hopper, and a forward with PTX for sm_80. The images are no programs.
fn sample() -> Bundle {
    let map = |tensor| Argument::TensorMap { tensor, box_extent: [64, 1, 128] };
    let work = [GridAxis::QueryWork, GridAxis::One, GridAxis::One];
    let tiles = [GridAxis::QueryTiles, GridAxis::Heads, GridAxis::Batch];
    let hopper = vec![
        Argument::Params,
        map(MapTensor::Q),
        map(MapTensor::K),
        map(MapTensor::V),
        Argument::WorkCounter,
    ];
    let hopper = entry("attention_forward", work, hopper);
    let plain = entry("attention_forward", tiles, vec![Argument::Params]);
    let delta = entry("attention_backward_delta", tiles, vec![Argument::Params]);
    let d_sink = entry(
        "attention_backward_d_sink",
        [GridAxis::Heads, GridAxis::One, GridAxis::One],
        vec![Argument::Params],
    );
    let kernel = |kind, image: &[u8], manifest| {
        let compiled = CompiledKernel { image: image.to_vec(), manifest };
        BundledKernel { pattern: "window=64".into(), kind, compiled }
    };
    let mut bundle = Bundle::new();
    bundle.info.patterns.push(BundledPattern {
        label: "window=64".into(),
        text: "window=64".into(),
        hash: "1f".repeat(32),
    });
    bundle.info.tuned.push(BundledChoice {
        pattern: "window=64".into(),
        pass: "forward".into(),
        shape: Shape::plain(128, Dtype::Bf16),
        target: "sm_90a".into(),
        schedule: "tile_m=128 tile_n=64 stages=2 threads=384 consumers=2".into(),
        device: "NVIDIA H200".into(),
        tokens: 8192,
        seconds: 0.25,
    });
    bundle.kernels = vec![
        kernel(ImageKind::Cubin, b"cubin of Hopper", manifest(Pass::Forward, "sm_90a", vec![hopper])),
        kernel(ImageKind::Cubin, b"delta", manifest(Pass::BackwardDelta, "sm_90a", vec![delta, d_sink])),
        kernel(ImageKind::Cubin, b"cubin of Ampere", manifest(Pass::Forward, "sm_80", vec![plain.clone()])),
        kernel(ImageKind::Ptx, b"// PTX\0", manifest(Pass::Forward, "sm_80", vec![plain])),
    ];
    bundle
}

/// What the examples print of a bundle with `--check`.
fn listing(bundle: &Bundle) -> String {
    let mut lines = String::new();
    for BundledKernel { pattern, kind, compiled } in &bundle.kernels {
        let Manifest { pass, shape, target, kernels, .. } = &compiled.manifest;
        let ptx = if *kind == ImageKind::Ptx { " PTX" } else { "" };
        for KernelEntry { name, block, dynamic_smem_bytes, .. } in kernels {
            lines += &format!(
                "{pattern} | {pass} | D {} | {} | {target}{ptx} | {name} | {block} threads, {dynamic_smem_bytes} bytes of \
                 shared memory\n",
                shape.head_dim, shape.dtype
            );
        }
    }
    lines
}
