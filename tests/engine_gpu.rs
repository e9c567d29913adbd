//! The engine on a GPU: every operation against its form on the CPU, and the whole model against the CPU's. Without NVRTC or, on
//! a GPU, cuBLASLt every test is reported as ignored, by name; without a GPU those that are short run on an emulated one.
//!
//! The binary needs a driver, NVRTC and cuBLASLt, nothing else: copied to such a machine it runs as it is.

mod cuda;
#[path = "engine_gpu/model.rs"]
mod model;
#[path = "engine_gpu/ops.rs"]
mod ops;

use libtest_mimic::{Arguments, Failed, Trial};
use longgen_runtime::blas::{Blas, BlasSearch};
use longgen_runtime::driver::{Device, Stream};
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::gpu_ops::Ops;

/// What every test needs.
pub struct Machine {
    /// The first GPU.
    pub device: Device,
    /// Kernels compiled so far.
    pub cache: KernelCache,
    /// Where cuBLASLt is.
    pub blas: BlasSearch,
    /// Done once the kernels of the model's tests are compiled.
    pub warm: std::sync::Once,
    /// Where its libraries are.
    pub gpu: cuda::Gpu,
}

/// The operations on a stream.
pub struct Engine {
    /// The stream.
    pub stream: Stream,
    /// Element-wise operations.
    pub ops: Ops,
    /// Products.
    pub blas: Blas,
}

impl Machine {
    fn find() -> Result<Machine, String> {
        let gpu = cuda::Gpu::find()?;
        let device = Device::open(0).map_err(|error| error.to_string())?;
        let blas = BlasSearch { option: None, variable: gpu.blas.clone(), tools: gpu.search.clone() };
        let found = blas.find().map_err(|error| error.to_string())?;
        eprintln!("on {} with {found:?}", device.name());
        let cache = KernelCache::in_memory(gpu.search.clone());
        let warm = std::sync::Once::new();
        Ok(Machine { device, cache, blas, warm, gpu })
    }

    /// Loads the operations.
    pub fn engine(&self) -> Result<Engine, Failed> {
        let stream = self.device.stream()?;
        let ops = Ops::new(&self.device, &self.cache, &stream)?;
        let blas = Blas::new(&self.blas, &stream)?;
        Ok(Engine { stream, ops, blas })
    }
}

/// A test on such a machine.
pub type Test = fn(&Machine) -> Result<(), Failed>;

fn main() {
    let mut arguments = Arguments::from_args();
    let found = Machine::find();
    if found.as_ref().is_ok_and(|machine| !machine.gpu.is_emulated()) {
        // One test at a time: each may take most of the device's memory.
        arguments.test_threads.get_or_insert(1);
    }
    if let Err(reason) = &found {
        eprintln!("ignored: {reason}");
    }
    let machine = found.ok().map(std::sync::Arc::new);
    let trial = |&(name, run): &(&'static str, Test)| {
        let machine = machine.clone();
        let too_long = |machine: &Machine| machine.gpu.is_emulated() && model::LONG_ONES.contains(&name);
        let ignored = machine.as_deref().is_none_or(too_long);
        let body = move || match machine.as_deref().ok_or("no GPU")? {
            machine if machine.gpu.keeps_trials_apart() => cuda::run_apart(name),
            machine => run(machine),
        };
        Trial::test(name, body).with_ignored_flag(ignored)
    };
    libtest_mimic::run(&arguments, ops::ALL.iter().chain(&model::ALL).map(trial).collect()).exit();
}
