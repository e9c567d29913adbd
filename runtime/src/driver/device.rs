//! A GPU and what it can do.

use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, sys};
use longgen_codegen::target::Target;

use super::{GpuError, OLDEST_DRIVER, Stream, failed};

/// An NVIDIA GPU, with the primary context of this process on it.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    name: String,
    compute_capability: (u32, u32),
    multiprocessors: u32,
}

/// The driver's version, as it counts: 1000 * major + 10 * minor.
///
/// # Errors
/// [`GpuError::NoDriver`] where there is none.
pub fn driver_version() -> Result<i32, GpuError> {
    // SAFETY: opens a library by name and closes it again; the driver's initialisers may run at any time.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the library is there, and this function is in every version of it; the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(failed("asking for the driver's version"))?;
    Ok(version)
}

impl Device {
    /// How many GPUs there are. No driver is an error, no GPU is 0.
    ///
    /// # Errors
    /// [`GpuError`] when the driver is missing, too old, or fails to start.
    pub fn count() -> Result<usize, GpuError> {
        let version = driver_version()?;
        if version < OLDEST_DRIVER {
            return Err(GpuError::OldDriver { found: version });
        }
        // Installed without a GPU, the driver says so when it starts, and "no device" is the plain answer to that.
        match CudaContext::device_count() {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
            Err(error) => Err(failed("counting GPUs")(error)),
        }
    }

    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// [`GpuError`] when the driver or the GPU is missing, or fails.
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(GpuError::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(failed("opening the GPU"))?;
        // SAFETY: tracking adds events that order one stream's work behind another's. Buffers here are bound to one
        // stream, which `Buffer` and `Stream` check, so there is nothing to order; and the events would break the
        // capture of graphs.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(failed("asking for the GPU's name"))?;
        let (major, minor) =
            context.compute_capability().map_err(failed("asking for the compute capability"))?;
        let multiprocessors = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(failed("counting multiprocessors"))?;
        Ok(Device {
            context,
            name,
            compute_capability: (major.unsigned_abs(), minor.unsigned_abs()),
            multiprocessors: multiprocessors.unsigned_abs(),
        })
    }

    /// The marketing name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// (major, minor).
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Targets whose kernels run here, best first.
    pub fn targets(&self) -> Vec<Target> {
        Target::for_device(self.compute_capability.0, self.compute_capability.1)
    }

    /// (free, total) device memory in bytes, once all work is done: what a stream was told to free is free then.
    ///
    /// # Errors
    /// [`GpuError::Call`], also for a fault of earlier work.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.context.synchronize().map_err(failed("waiting for the GPU"))?;
        self.context.mem_get_info().map_err(failed("asking for the GPU's memory"))
    }

    /// A new stream.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn stream(&self) -> Result<Stream, GpuError> {
        let stream = self.context.new_stream().map_err(failed("making a stream"))?;
        Ok(Stream::new(stream))
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
}
