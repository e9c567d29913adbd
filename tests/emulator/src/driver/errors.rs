//! Errors in words.

use std::ffi::{CStr, CString, c_char};

use cudarc::driver::sys::CUresult;

use super::state::on_device;

fn name(error: CUresult) -> &'static CStr {
    match error {
        CUresult::CUDA_SUCCESS => c"CUDA_SUCCESS",
        CUresult::CUDA_ERROR_INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        CUresult::CUDA_ERROR_INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        CUresult::CUDA_ERROR_INVALID_IMAGE => c"CUDA_ERROR_INVALID_IMAGE",
        CUresult::CUDA_ERROR_INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU (the emulator takes PTX)",
        CUresult::CUDA_ERROR_NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        CUresult::CUDA_ERROR_LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        _ => c"CUDA_ERROR_UNKNOWN",
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *text = name(error).as_ptr() };
    CUresult::CUDA_SUCCESS
}

/// After a fault: where it happened, once.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    let fault = on_device(|state| match error {
        CUresult::CUDA_ERROR_LAUNCH_FAILED => state.fault.take(),
        _ => None,
    });
    let words = match fault {
        Some(fault) => CString::new(fault.to_string()).unwrap_or_default(),
        None => name(error).to_owned(),
    };
    // SAFETY: the module's contract. The text is never freed: a caller may keep it.
    unsafe { *text = words.into_raw() };
    CUresult::CUDA_SUCCESS
}
