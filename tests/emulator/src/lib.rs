//! A CUDA driver without a GPU, for tests: kernels are PTX, and interpreted.
//!
//! The library has the C interface of the driver, as much of it as this project uses. [`stand_in`] loads it into the process;
//! from then on whoever opens `libcuda.so.1` gets it, and finds one GPU. A kernel runs as the language says, and where the
//! language leaves something open, as a seed says: see `machine`. `LONGGEN_EMULATOR_SEED` is that seed, and
//! `LONGGEN_EMULATOR_CAPABILITY` the compute capability, `9.0` if not given.
//!
//! What it does not know: speed, cubins, memory ordering weaker than one order of all accesses, clusters, textures, streams that
//! overlap. It knows the instructions that this project's kernels are made of, and refuses others by name.

mod driver;
mod machine;
mod ptx;

pub use driver::{library, stand_in};
