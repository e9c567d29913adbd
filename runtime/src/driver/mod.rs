//! The CUDA driver, safely: devices, streams, buffers, modules, events, graphs and tensor maps, each freed when dropped.
//!
//! Rests on `cudarc`, which opens the driver at run time and panics where it is missing; [`Device`] asks first, and
//! nothing else in here can be reached without one. Every failure is a [`GpuError`]. This module and
//! `gpu::launch`, which fills the parameters of a launch, hold all `unsafe` of the GPU side.
#![allow(unsafe_code)]

mod buffer;
mod device;
mod module;
mod span;
mod stopwatch;
mod stream;
mod tensor_map;

pub use buffer::Buffer;
pub use device::{Device, driver_version};
pub use module::{Argument, Function, Grid, Module};
pub use span::Span;
pub use stopwatch::Stopwatch;
pub use stream::{Event, Graph, Stream};
pub use tensor_map::{TensorMap, TensorMapShape};

use cudarc::driver::DriverError;

/// The oldest driver interface that knows tensor maps, times 1000 as the driver counts.
const OLDEST_DRIVER: i32 = 12_000;

/// Why the GPU did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no CUDA driver.
    #[error(
        "no CUDA driver was found (libcuda.so.1): this machine has no NVIDIA GPU, or its driver is not installed"
    )]
    NoDriver,
    /// The driver is older than the kernels need.
    #[error("the CUDA driver is version {}.{}; 12.0 is the oldest that serves", found / 1000, found % 1000 / 10)]
    OldDriver {
        /// As the driver counts: 1000 * major + 10 * minor.
        found: i32,
    },
    /// The driver is there, a device is not.
    #[error("there is no GPU {ordinal}: the driver lists {count}")]
    NoDevice {
        /// The device asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A call of the driver failed.
    #[error("{call}: {message}")]
    Call {
        /// What was being done.
        call: &'static str,
        /// The driver's name and description of the error.
        message: String,
    },
    /// A buffer is used on another stream than its own, where nothing orders the two.
    #[error("`{name}` belongs to another stream")]
    WrongStream {
        /// Which buffer.
        name: &'static str,
    },
    /// A buffer is too small.
    #[error("`{name}` holds {found} bytes, {needed} are needed")]
    TooSmall {
        /// Which buffer.
        name: &'static str,
        /// Its size.
        found: usize,
        /// What is needed.
        needed: usize,
    },
}

/// Names the call that failed; the driver itself does not.
fn failed(call: &'static str) -> impl Fn(DriverError) -> GpuError {
    move |error| {
        let text = |found: Result<&std::ffi::CStr, DriverError>| {
            found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let (name, description) = (text(error.error_name()), text(error.error_string()));
        GpuError::Call { call, message: format!("{name} ({description})") }
    }
}
