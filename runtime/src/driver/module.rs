//! Loaded images and the launch of their kernels.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUfunction_attribute_enum as Attribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig,
};
use cudarc::driver::{CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use longgen_codegen::cuda::abi::Params;

use super::{Device, GpuError, Stream, TensorMap, failed};

/// A cubin, or what the driver made of PTX, on a device.
#[derive(Clone, Debug)]
pub struct Module(Arc<CudaModule>);

/// A kernel of a module, ready to launch.
#[derive(Clone, Debug)]
pub struct Function {
    inner: CudaFunction,
    dynamic_smem_bytes: u32,
}

/// Blocks of a grid, threads of a block (along x).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of each block.
    pub threads: u32,
}

/// One kernel argument, by value.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    /// The parameter struct.
    Params(&'a Params),
    /// A tensor map.
    Map(&'a TensorMap),
    /// A device address, 0 for null, or any other number of 64 bits.
    Address(u64),
    /// An `int`.
    Int(i32),
    /// A `float`.
    Float(f32),
}

impl Module {
    /// Loads a cubin, or PTX text that ends in a NUL byte.
    ///
    /// # Errors
    /// [`GpuError::Call`] when it is not for this device, or neither of the two.
    pub fn load(device: &Device, image: &[u8]) -> Result<Self, GpuError> {
        let image = Ptx::from_binary(image.to_vec());
        Ok(Module(device.context().load_module(image).map_err(failed("loading a kernel"))?))
    }

    /// The kernel `name`, allowed `dynamic_smem_bytes` of dynamic shared memory.
    ///
    /// # Errors
    /// [`GpuError::Call`] when there is no such kernel or not as much shared memory.
    pub fn function(&self, name: &str, dynamic_smem_bytes: u32) -> Result<Function, GpuError> {
        if name.contains('\0') {
            return Err(GpuError::Call {
                call: "finding a kernel",
                message: "a name with a NUL byte".to_owned(),
            });
        }
        let inner = self.0.load_function(name).map_err(failed("finding a kernel"))?;
        let limit = i32::try_from(dynamic_smem_bytes).unwrap_or(i32::MAX);
        inner
            .set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit)
            .map_err(failed("raising a kernel's shared memory"))?;
        Ok(Function { inner, dynamic_smem_bytes })
    }
}

impl Function {
    /// Blocks that one multiprocessor holds at a time.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn blocks_per_multiprocessor(&self, threads: u32) -> Result<u32, GpuError> {
        let smem = self.dynamic_smem_bytes as usize;
        self.inner
            .occupancy_max_active_blocks_per_multiprocessor(threads, smem, None)
            .map_err(failed("asking for occupancy"))
    }

    /// Submits the kernel. An empty grid is no work and no error.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, in order, and every device address in them must cover what the kernel
    /// reads and writes through it until the stream has passed this launch.
    ///
    /// # Errors
    /// [`GpuError::Call`] when the driver refuses the launch. Faults of the kernel itself surface at the next wait.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.submit(stream, grid, arguments, false) }
    }

    /// The same, but the kernel may start while the one before it in the stream still runs, as soon as all blocks of that one
    /// have allowed it or are done (programmatic dependent launch, compute capability 9.0).
    ///
    /// # Safety
    /// As [`Function::launch`]; and the kernel waits for the one before it (`griddepcontrol.wait`) before it touches anything
    /// that the earlier work of the stream writes, and before it writes anything that it reads.
    ///
    /// # Errors
    /// As [`Function::launch`].
    pub unsafe fn launch_early(
        &self,
        stream: &Stream,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.submit(stream, grid, arguments, true) }
    }

    /// # Safety
    /// As [`Function::launch`], and as [`Function::launch_early`] with `early`.
    unsafe fn submit(
        &self,
        stream: &Stream,
        grid: Grid,
        arguments: &[Argument<'_>],
        early: bool,
    ) -> Result<(), GpuError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let stream = stream.inner();
        stream.context().bind_to_thread().map_err(failed("binding the GPU's context"))?;
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Params(params) => std::ptr::from_ref::<Params>(params).cast_mut().cast(),
                Argument::Map(map) => std::ptr::from_ref::<TensorMap>(map).cast_mut().cast(),
                Argument::Address(address) => std::ptr::from_ref::<u64>(address).cast_mut().cast(),
                Argument::Int(int) => std::ptr::from_ref::<i32>(int).cast_mut().cast(),
                Argument::Float(float) => std::ptr::from_ref::<f32>(float).cast_mut().cast(),
            })
            .collect();
        let [x, y, z] = grid.blocks;
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.dynamic_smem_bytes,
            hStream: stream.cu_stream(),
            attrs: &mut attribute,
            numAttrs: u32::from(early),
        };
        // SAFETY: configuration and pointers are to live values that the driver reads and copies during the call; that they
        // are the kernel's arguments is the caller's promise.
        let status = unsafe {
            sys::cuLaunchKernelEx(
                &config,
                self.inner.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        status.result().map_err(failed("launching a kernel"))
    }
}
