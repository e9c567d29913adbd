//! Modules of PTX, and the launch of their kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUlaunchConfig, CUmodule, CUresult, CUstream};

use super::state::{BLOCK_SMEM_BYTES, Command, Function, blocks_per_multiprocessor, on_device};
use super::streams::stream;
use crate::ptx::{Module, parse};

/// PTX text only: a cubin is for a real GPU.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(handle: *mut CUmodule, image: *const c_void) -> CUresult {
    // SAFETY: the module's contract: an image of PTX ends in NUL; that of a cubin has one early on.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    let Ok(text) = text.to_str() else { return CUresult::CUDA_ERROR_INVALID_IMAGE };
    if text.starts_with("\u{7f}ELF") {
        return CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    match parse(text) {
        // SAFETY: the module's contract.
        Ok(module) => unsafe { *handle = Box::into_raw(Box::new(Arc::new(module))).cast() },
        Err(error) => {
            eprintln!("emulator: {error}");
            return CUresult::CUDA_ERROR_INVALID_PTX;
        }
    }
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(handle: CUmodule) -> CUresult {
    // SAFETY: the handle came from `cuModuleLoadData`.
    drop(unsafe { Box::from_raw(handle.cast::<Arc<Module>>()) });
    CUresult::CUDA_SUCCESS
}

/// Functions are never freed, as the driver has no call for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    handle: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    // SAFETY: the handle came from `cuModuleLoadData`; the name ends in NUL.
    let (module, name) = unsafe { ((*module.cast::<Arc<Module>>()).clone(), CStr::from_ptr(name)) };
    let found = module.entries.iter().position(|entry| entry.name.as_bytes() == name.to_bytes());
    let Some(entry) = found else { return CUresult::CUDA_ERROR_NOT_FOUND };
    // SAFETY: the module's contract.
    unsafe { *handle = Box::into_raw(Box::new(Function { module, entry })).cast() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(
    _function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> CUresult {
    let smem = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    if attribute == smem && value > BLOCK_SMEM_BYTES as c_int {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    _function: CUfunction,
    threads: c_int,
    smem_bytes: usize,
) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *blocks = blocks_per_multiprocessor(threads as u32, smem_bytes as u32) as c_int };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: CUfunction,
    threads: c_int,
    smem_bytes: usize,
    _flags: c_uint,
) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, smem_bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    function: CUfunction,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> CUresult {
    // SAFETY: the module's contract.
    let config = unsafe { &*config };
    let grid = [config.gridDimX, config.gridDimY, config.gridDimZ];
    let block = [config.blockDimX, config.blockDimY, config.blockDimZ];
    // SAFETY: likewise.
    unsafe { launch(function, grid, block, config.sharedMemBytes, config.hStream, arguments) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    smem_bytes: c_uint,
    handle: CUstream,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> CUresult {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    // SAFETY: the module's contract.
    unsafe { launch(function, grid, block, smem_bytes, handle, arguments) }
}

/// # Safety
/// That of the driver's call.
unsafe fn launch(
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    smem_bytes: u32,
    handle: CUstream,
    arguments: *mut *mut c_void,
) -> CUresult {
    // SAFETY: the handle came from `cuModuleGetFunction`.
    let Function { module, entry } = unsafe { &*function.cast::<Function>() };
    let kernel = &module.entries[*entry];
    let [threads, 1, 1] = block else { return CUresult::CUDA_ERROR_INVALID_VALUE };
    let too_many = threads == 0 || threads > kernel.max_threads.unwrap_or(1024);
    if too_many || grid.contains(&0) || smem_bytes > BLOCK_SMEM_BYTES {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    let mut parameters = vec![0u8; kernel.parameter_bytes];
    for (index, &(offset, bytes)) in kernel.parameters.iter().enumerate() {
        // SAFETY: a pointer for each parameter, each to a value of its size.
        unsafe {
            let value = *arguments.add(index);
            std::ptr::copy_nonoverlapping(value.cast::<u8>(), parameters[offset..].as_mut_ptr(), bytes);
        }
    }
    let (module, entry) = (module.clone(), *entry);
    let command = Command::Launch { module, entry, parameters, grid, threads, smem_bytes };
    // SAFETY: the handle is the caller's stream.
    let stream = unsafe { stream(handle) };
    on_device(|state| state.submit(stream, command))
}
