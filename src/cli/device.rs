//! The `--device` argument.

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceArg {
    /// All cores of this machine
    Cpu,
    /// The first GPU
    Cuda,
}
