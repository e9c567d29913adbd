//! The operations of the engine on device memory, named like those of [`crate::ops`], each with its launches in one file.
//!
//! Activations and weights are bf16, statistics and gradients of weights f32, sums f32 or wider. Every reduction has a fixed order.
//! Operations submit to one stream and return; faults surface when it is waited for. Widths are multiples of 8: kernels
//! read 16 bytes at a time.
#![allow(unsafe_code)]

mod adamw;
mod cache;
mod cross_entropy;
mod embedding;
mod matvec;
mod random;
mod rmsnorm;
mod rope;
mod swiglu;

pub use adamw::Moments;
pub(crate) use adamw::NORM_PARTS;
pub use cache::{CacheRows, OrderedRows};
pub use embedding::TokenRuns;
pub use matvec::MatvecOutput;
pub(crate) use rmsnorm::STRIPS;
pub use rope::{KeySlots, RopeTables};

use std::collections::HashMap;
use std::sync::Arc;

use longgen_codegen::artifact::BuildError;
use longgen_codegen::cuda::engine::{OPERATIONS, source};
use longgen_codegen::target::Target;
use rayon::prelude::*;

use crate::driver::{Argument, Device, Function, GpuError, Grid, Module, Stopwatch, Stream};
use crate::gpu::{GpuAttentionError, KernelCache};

/// Elements of a vector load.
pub const WIDTH_MULTIPLE: usize = 8;

/// Kernels of each source of [`OPERATIONS`].
const KERNELS: [(&str, &[&str]); 9] = [
    ("cache", &["cache_unpack", "cache_pack"]),
    ("cross_entropy", &["cross_entropy"]),
    ("embedding", &["embedding_forward", "embedding_backward"]),
    ("matvec", &["matvec"]),
    ("optimizer", &["adamw", "squared_norm", "round_weights", "widen_weights"]),
    ("random", &["fill_normal"]),
    ("rmsnorm", &["rmsnorm_forward", "rmsnorm_backward", "rmsnorm_weight_gradient", "add_strips"]),
    ("rope", &["rope_angles", "rope_forward", "rope_store", "rope_backward"]),
    ("swiglu", &["swiglu_forward", "swiglu_backward"]),
];

/// The loaded kernels of all operations.
#[derive(Debug)]
pub struct Ops {
    stream: Stream,
    functions: HashMap<&'static str, Function>,
    /// Whether the device starts kernels before the ones they wait for are done.
    overlaps: bool,
    products: Stopwatch,
}

impl Ops {
    /// Compiles (or finds in `cache`) and loads all operations.
    ///
    /// # Errors
    /// [`GpuAttentionError`] when the device is none that kernels exist for, or a kernel cannot be made.
    pub fn new(device: &Device, cache: &KernelCache, stream: &Stream) -> Result<Ops, GpuAttentionError> {
        let target = device.targets().first().copied().ok_or_else(|| GpuAttentionError::Device {
            name: device.name().to_owned(),
            found: device.compute_capability(),
            known: Target::names().join(", "),
        })?;
        debug_assert!(KERNELS.iter().map(|(operation, _)| *operation).eq(OPERATIONS));
        let build = |(operation, kernels): &(&str, &'static [&'static str])| {
            let source = source(operation)?;
            Ok((cache.cubin(&source, target)?, *kernels))
        };
        let built: Vec<(Arc<Vec<u8>>, &[&str])> =
            KERNELS.par_iter().map(build).collect::<Result<_, BuildError>>()?;
        let mut functions = HashMap::new();
        for (cubin, kernels) in built {
            let module = Module::load(device, &cubin)?;
            for &kernel in kernels {
                functions.insert(kernel, module.function(kernel, 0)?);
            }
        }
        let overlaps = device.compute_capability().0 >= 9;
        let products = Stopwatch::new(stream);
        Ok(Ops { stream: stream.clone(), functions, overlaps, products })
    }

    /// Times the products of decode steps while it is on.
    pub fn products(&self) -> &Stopwatch {
        &self.products
    }

    /// The stream that all work goes to.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Submits a kernel. The files of this module call it, and nothing else does: each takes every address from a span that
    /// was checked for its size, and passes what the kernel's signature asks for.
    fn launch(
        &self,
        kernel: &'static str,
        blocks: [usize; 3],
        threads: usize,
        arguments: &[Argument<'_>],
    ) -> Result<(), GpuError> {
        let (function, grid) = self.find(kernel, blocks, threads)?;
        // SAFETY: the arguments are those of the kernel, with checked addresses, as said above; buffers are freed in the
        // order of the stream, so not before the kernel is done.
        unsafe { function.launch(&self.stream, grid, arguments) }
    }

    /// The same for a kernel that waits for the one before it by itself (`wait_for_predecessor`), where the device knows that.
    fn launch_early(
        &self,
        kernel: &'static str,
        blocks: [usize; 3],
        threads: usize,
        arguments: &[Argument<'_>],
    ) -> Result<(), GpuError> {
        if !self.overlaps {
            return self.launch(kernel, blocks, threads, arguments);
        }
        let (function, grid) = self.find(kernel, blocks, threads)?;
        // SAFETY: as in `launch`; the kernels that are launched here read weights, which no kernel before them in a decode step
        // writes, and wait before everything else.
        unsafe { function.launch_early(&self.stream, grid, arguments) }
    }

    fn find(
        &self,
        kernel: &'static str,
        blocks: [usize; 3],
        threads: usize,
    ) -> Result<(&Function, Grid), GpuError> {
        let missing = || GpuError::Call { call: "finding a kernel", message: kernel.to_owned() };
        let function = self.functions.get(kernel).ok_or_else(missing)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok((function, Grid { blocks: blocks.map(count), threads: count(threads) }))
    }
}

/// A size as kernels take it. Sizes beyond are refused before anything is allocated (`MAX_SIZE` of the configuration, 2^30
/// tokens).
fn int(n: usize) -> Argument<'static> {
    Argument::Int(i32::try_from(n).unwrap_or(i32::MAX))
}

/// A 64-bit number.
fn long(n: usize) -> Argument<'static> {
    Argument::Address(n as u64)
}

/// Threads of a block that shares a row of `width` numbers, eight a thread.
fn row_threads(width: usize) -> usize {
    (width / WIDTH_MULTIPLE).next_multiple_of(32).clamp(32, 256)
}
