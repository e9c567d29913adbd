//! Allocations, copies and tensor maps.

use std::ffi::{c_uchar, c_void};

use cudarc::driver::sys::{
    CUdeviceptr, CUresult, CUstream, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill,
    CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle, cuuint32_t, cuuint64_t,
};

use super::state::{Command, on_device};
use super::streams::stream;
use crate::machine::TensorMap;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    if bytes == 0 {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the module's contract.
    unsafe { *address = on_device(|state| state.memory.allocate(bytes)) };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    let freed = on_device(|state| state.memory.free(address));
    if freed { CUresult::CUDA_SUCCESS } else { CUresult::CUDA_ERROR_INVALID_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    handle: CUstream,
) -> CUresult {
    // SAFETY: the module's contract.
    let values = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
    // SAFETY: likewise.
    let stream = unsafe { stream(handle) };
    on_device(|state| state.submit(stream, Command::Write { to, values }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { cuMemcpyHtoDAsync_v2(to, from, bytes, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    _stream: CUstream,
) -> CUresult {
    on_device(|state| {
        if state.fault.is_some() {
            return state.status();
        }
        match state.memory.slice(from, bytes) {
            // SAFETY: the module's contract: there is room for `bytes` bytes.
            Ok(values) => unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.cast(), bytes) },
            Err(fault) => state.fault = Some(fault),
        }
        state.status()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { cuMemcpyDtoHAsync_v2(to, from, bytes, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    handle: CUstream,
) -> CUresult {
    // SAFETY: the module's contract.
    let stream = unsafe { stream(handle) };
    on_device(|state| state.submit(stream, Command::Copy { to, from, bytes }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: c_uchar,
    bytes: usize,
    handle: CUstream,
) -> CUresult {
    // SAFETY: the module's contract.
    let stream = unsafe { stream(handle) };
    on_device(|state| state.submit(stream, Command::Fill { to, value, bytes }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8_v2(to: CUdeviceptr, value: c_uchar, bytes: usize) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { cuMemsetD8Async(to, value, bytes, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    kind: CUtensorMapDataType,
    rank: cuuint32_t,
    address: *mut c_void,
    extents: *const cuuint64_t,
    strides: *const cuuint64_t,
    box_extents: *const cuuint32_t,
    steps: *const cuuint32_t,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    _promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> CUresult {
    let known = matches!(
        kind,
        CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
            | CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
    ) && rank == 3
        && interleave == CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE
        && swizzle == CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
        && fill == CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    if !known {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the module's contract: arrays of rank, rank - 1, rank and rank numbers.
    let (extents, strides, box_extents, steps) = unsafe {
        (
            *extents.cast::<[u64; 3]>(),
            *strides.cast::<[u64; 2]>(),
            *box_extents.cast::<[u32; 3]>(),
            *steps.cast::<[u32; 3]>(),
        )
    };
    // What the driver demands.
    let aligned =
        (address as u64).is_multiple_of(16) && strides.iter().all(|stride| stride.is_multiple_of(16));
    let sized = box_extents.iter().all(|extent| (1..=256).contains(extent)) && box_extents[0] <= 64;
    if !(aligned && sized) || steps != [1; 3] || extents.contains(&0) {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    let encoded = TensorMap::new(address as u64, extents, strides, box_extents);
    // SAFETY: the module's contract; both are 128 bytes.
    unsafe { std::ptr::copy_nonoverlapping((&raw const encoded).cast::<u8>(), map.cast(), TensorMap::BYTES) };
    CUresult::CUDA_SUCCESS
}
