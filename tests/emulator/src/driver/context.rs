//! The device and its one context.

use std::ffi::{c_char, c_int, c_uint};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUresult};

use super::state::{BLOCK_SMEM_BYTES, MULTIPROCESSORS, SMEM_BYTES, on_device, setting};

const NAME: &[u8] = b"LongGen emulator\0";
/// What the device says it has.
const MEMORY_BYTES: usize = 64 << 30;

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> CUresult {
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *version = 13_000 };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *count = 1 };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    if ordinal != 0 {
        return CUresult::CUDA_ERROR_INVALID_DEVICE;
    }
    // SAFETY: the module's contract.
    unsafe { *device = 0 };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: CUdevice) -> CUresult {
    let count = NAME.len().min(usize::try_from(length).unwrap_or(0));
    // SAFETY: the module's contract: there is room for `length` characters.
    unsafe { std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, count) };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: CUdevice) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *bytes = MEMORY_BYTES };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let used = on_device(|state| state.memory.used());
    // SAFETY: the module's contract.
    unsafe { (*free, *total) = (MEMORY_BYTES.saturating_sub(used), MEMORY_BYTES) };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: CUdevice_attribute,
    _device: CUdevice,
) -> CUresult {
    use CUdevice_attribute as Attribute;
    let capability = setting("LONGGEN_EMULATOR_CAPABILITY", "9.0".to_owned());
    let (major, minor) = capability.split_once('.').unwrap_or((&capability, "0"));
    let found = match attribute {
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => major.parse().unwrap_or(9),
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => minor.parse().unwrap_or(0),
        Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => MULTIPROCESSORS as c_int,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => BLOCK_SMEM_BYTES as c_int,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => SMEM_BYTES as c_int,
        Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE => 32,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK => 1024,
        _ => 0,
    };
    // SAFETY: the module's contract.
    unsafe { *value = found };
    CUresult::CUDA_SUCCESS
}

/// Every context is this one.
const CONTEXT: CUcontext = std::ptr::dangling_mut();

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, _device: CUdevice) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *context = CONTEXT };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: CUdevice) -> CUresult {
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(_context: CUcontext) -> CUresult {
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut CUcontext) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *context = CONTEXT };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CUresult {
    on_device(|state| state.status())
}
