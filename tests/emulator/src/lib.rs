//! A CUDA driver without a GPU, for tests: kernels are PTX, and interpreted.
//!
//! The library has the C interfaces of the driver, of NVRTC and of cuBLASLt, as much of them as this project uses. [`Emulated`] is a folder
//! in which a process finds it under their names, and then one GPU. NVRTC is the real one, except that PTX stands in for machine
//! code. A kernel runs as the language says, and where the language leaves something open, as a seed says: see `machine`.
//! `LONGGEN_EMULATOR_SEED` is that seed, and `LONGGEN_EMULATOR_CAPABILITY` the compute capability, `9.0` if not given.
//!
//! What it does not know: speed, cubins, memory ordering weaker than one order of all accesses, clusters, textures, streams that
//! overlap. It knows the instructions that this project's kernels are made of, and refuses others by name.

mod driver;
mod machine;
mod ptx;
mod setup;

pub use setup::Emulated;
