//! Streams, which do their work when it is submitted; captures of it; events.

use std::ffi::{c_uint, c_ulonglong};
use std::time::Instant;

use cudarc::driver::sys::{
    CUevent, CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
};

use super::state::{Command, Stream, on_device};

/// The stream of a handle; the default stream has none.
///
/// # Safety
/// The handle is of this library, and is not destroyed.
pub unsafe fn stream<'a>(handle: CUstream) -> Option<&'a mut Stream> {
    // SAFETY: the caller's promise. Callers order the calls on one stream.
    unsafe { handle.cast::<Stream>().as_mut() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(handle: *mut CUstream, _flags: c_uint) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *handle = Box::into_raw(Box::<Stream>::default()).cast() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(handle: CUstream) -> CUresult {
    // SAFETY: the handle came from `cuStreamCreate`.
    drop(unsafe { Box::from_raw(handle.cast::<Stream>()) });
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(_stream: CUstream) -> CUresult {
    on_device(|state| state.status())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(_stream: CUstream, _event: CUevent, _flags: c_uint) -> CUresult {
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(handle: CUstream, _mode: CUstreamCaptureMode) -> CUresult {
    // SAFETY: the module's contract.
    match unsafe { stream(handle) } {
        Some(stream) => {
            stream.captured = Some(Vec::new());
            CUresult::CUDA_SUCCESS
        }
        None => CUresult::CUDA_ERROR_INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(handle: CUstream, graph: *mut CUgraph) -> CUresult {
    // SAFETY: the module's contract.
    let captured = unsafe { stream(handle) }.and_then(|stream| stream.captured.take());
    let Some(commands) = captured else { return CUresult::CUDA_ERROR_INVALID_VALUE };
    // SAFETY: likewise.
    unsafe { *graph = Box::into_raw(Box::new(commands)).cast() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(handle: CUstream, status: *mut CUstreamCaptureStatus) -> CUresult {
    // SAFETY: the module's contract.
    let captures = unsafe { stream(handle) }.is_some_and(|stream| stream.captured.is_some());
    let found = match captures {
        true => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE,
        false => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE,
    };
    // SAFETY: likewise.
    unsafe { *status = found };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    _flags: c_ulonglong,
) -> CUresult {
    // SAFETY: the handle came from `cuStreamEndCapture`, the pointer is the caller's.
    unsafe {
        let commands = (*graph.cast::<Vec<Command>>()).clone();
        *executable = Box::into_raw(Box::new(commands)).cast();
    }
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, _stream: CUstream) -> CUresult {
    // SAFETY: the handle came from `cuGraphInstantiateWithFlags`.
    let commands = unsafe { &*executable.cast::<Vec<Command>>() };
    on_device(|state| {
        for command in commands {
            state.perform(command);
        }
        state.status()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    // SAFETY: the handle came from `cuStreamEndCapture`.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Command>>()) });
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    // SAFETY: the handle came from `cuGraphInstantiateWithFlags`.
    drop(unsafe { Box::from_raw(executable.cast::<Vec<Command>>()) });
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut CUevent, _flags: c_uint) -> CUresult {
    // SAFETY: the module's contract.
    unsafe { *event = Box::into_raw(Box::new(Instant::now())).cast() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    // SAFETY: the handle came from `cuEventCreate`.
    drop(unsafe { Box::from_raw(event.cast::<Instant>()) });
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: CUevent, _stream: CUstream) -> CUresult {
    // SAFETY: the handle came from `cuEventCreate`.
    unsafe { *event.cast::<Instant>() = Instant::now() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(_event: CUevent) -> CUresult {
    on_device(|state| state.status())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, start: CUevent, end: CUevent) -> CUresult {
    // SAFETY: the handles came from `cuEventCreate`, the pointer is the caller's.
    unsafe {
        let (start, end) = (*start.cast::<Instant>(), *end.cast::<Instant>());
        *ms = end.duration_since(start).as_secs_f32() * 1e3;
    }
    CUresult::CUDA_SUCCESS
}
