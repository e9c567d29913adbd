//! Streams, events on them, and graphs captured from them.

use std::sync::Arc;

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};

use super::{GpuError, failed};

/// An order of work on a device. Work of one stream runs in order; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stream {
    inner: Arc<CudaStream>,
}

impl Stream {
    pub(super) fn new(inner: Arc<CudaStream>) -> Self {
        Stream { inner }
    }

    pub(super) fn inner(&self) -> &Arc<CudaStream> {
        &self.inner
    }

    /// Whether both are the same stream.
    pub fn is(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The driver's handle, with its context made current on this thread, for a library that is called with it.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub(crate) fn handle(&self) -> Result<*mut std::ffi::c_void, GpuError> {
        self.inner.context().bind_to_thread().map_err(failed("binding the GPU's context"))?;
        Ok(self.inner.cu_stream().cast())
    }

    /// Waits for everything submitted. Faults of kernels surface here.
    ///
    /// # Errors
    /// [`GpuError::Call`] with the fault of any earlier work.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.inner.synchronize().map_err(failed("waiting for the GPU"))
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn record(&self) -> Result<Event, GpuError> {
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        Ok(Event(self.inner.record_event(flags).map_err(failed("recording an event"))?))
    }

    /// Runs `submit` with the stream recording instead of executing, and makes a graph of what it submitted.
    ///
    /// # Errors
    /// The error of `submit`, or [`GpuError::Call`]; the stream executes again in either case.
    pub fn capture<E: From<GpuError>>(&self, submit: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.inner.begin_capture(mode).map_err(failed("starting a capture"))?;
        let submitted = submit();
        let graph = self.inner.end_capture(CUgraphInstantiate_flags(0));
        submitted?;
        let missing =
            || GpuError::Call { call: "ending a capture", message: "nothing was captured".to_owned() };
        let graph = graph.map_err(failed("ending a capture"))?.ok_or_else(missing)?;
        Ok(Graph(graph))
    }
}

/// A point in a stream, with its time.
#[derive(Debug)]
pub struct Event(CudaEvent);

impl Event {
    /// Milliseconds from this event to `later`; waits for both.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn elapsed_ms(&self, later: &Event) -> Result<f32, GpuError> {
        self.0.elapsed_ms(&later.0).map_err(failed("reading a timer"))
    }
}

/// Work captured from a stream, to be submitted again at the cost of one launch. It holds device addresses: the
/// buffers it was captured with must be kept, and are what it reads and writes.
pub struct Graph(CudaGraph);

impl Graph {
    /// Submits the work to the stream it was captured from.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn launch(&self) -> Result<(), GpuError> {
        self.0.launch().map_err(failed("launching a graph"))
    }
}
