//! Device memory: bytes on one stream.

use bytemuck::Pod;
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, result};

use super::{GpuError, Stream, failed};

/// Device memory, allocated, used and freed in the order of one stream.
#[derive(Debug)]
pub struct Buffer {
    slice: CudaSlice<u8>,
    stream: Stream,
    bytes: usize,
}

impl Buffer {
    /// `bytes` bytes, not initialised. Never null, even for 0 bytes.
    fn new(stream: &Stream, bytes: usize) -> Result<Self, GpuError> {
        // The driver refuses allocations of nothing.
        let allocated = bytes.max(16);
        // SAFETY: every constructor below writes the whole buffer before anything can read it.
        let slice = unsafe { stream.inner().alloc::<u8>(allocated) };
        let slice = slice.map_err(failed("allocating device memory"))?;
        Ok(Buffer { slice, stream: stream.clone(), bytes })
    }

    /// `bytes` bytes of `value`.
    ///
    /// # Errors
    /// [`GpuError::Call`], when memory runs out for one.
    pub fn filled(stream: &Stream, bytes: usize, value: u8) -> Result<Self, GpuError> {
        let mut buffer = Self::new(stream, bytes)?;
        buffer.fill(value)?;
        Ok(buffer)
    }

    /// `bytes` zero bytes.
    ///
    /// # Errors
    /// As [`Buffer::filled`].
    pub fn zeros(stream: &Stream, bytes: usize) -> Result<Self, GpuError> {
        Self::filled(stream, bytes, 0)
    }

    /// A copy of `values`. Returns when `values` may change again.
    ///
    /// # Errors
    /// As [`Buffer::filled`].
    pub fn from_slice<T: Pod>(stream: &Stream, values: &[T]) -> Result<Self, GpuError> {
        let mut buffer = Self::filled(stream, std::mem::size_of_val(values), 0)?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Replaces the first `values.len()` elements, after all earlier work of the stream. Returns when `values` may change
    /// again.
    ///
    /// # Errors
    /// [`GpuError::TooSmall`] when they do not fit, or [`GpuError::Call`].
    pub fn write<T: Pod>(&mut self, values: &[T]) -> Result<(), GpuError> {
        self.write_at(0, values)
    }

    /// The same from byte `start` on.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn write_at<T: Pod>(&mut self, start: usize, values: &[T]) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let needed = start.saturating_add(bytes.len());
        if needed > self.bytes {
            return Err(GpuError::TooSmall { name: "buffer", found: self.bytes, needed });
        }
        if !bytes.is_empty() {
            let mut view = self.slice.slice_mut(start..needed);
            self.stream.inner().memcpy_htod(bytes, &mut view).map_err(failed("copying to the GPU"))?;
            self.stream.synchronize()?;
        }
        Ok(())
    }

    /// The contents, once all earlier work of the stream is done.
    ///
    /// # Errors
    /// [`GpuError::Call`], also for a fault of earlier work; [`GpuError::TooSmall`] when the size is no whole number
    /// of `T`.
    pub fn to_vec<T: Pod>(&self) -> Result<Vec<T>, GpuError> {
        let size = std::mem::size_of::<T>().max(1);
        if !self.bytes.is_multiple_of(size) {
            let needed = self.bytes.next_multiple_of(size);
            return Err(GpuError::TooSmall { name: "buffer", found: self.bytes, needed });
        }
        self.read_at(0, self.bytes / size)
    }

    /// `count` elements from byte `start` on, once all earlier work of the stream is done.
    ///
    /// # Errors
    /// [`GpuError::Call`], also for a fault of earlier work; [`GpuError::TooSmall`] when there are not as many.
    pub fn read_at<T: Pod>(&self, start: usize, count: usize) -> Result<Vec<T>, GpuError> {
        let end = count.saturating_mul(std::mem::size_of::<T>()).saturating_add(start);
        if end > self.bytes {
            return Err(GpuError::TooSmall { name: "buffer", found: self.bytes, needed: end });
        }
        let mut values = vec![T::zeroed(); count];
        if count > 0 {
            let view = self.slice.slice(start..end);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
            self.stream.inner().memcpy_dtoh(&view, bytes).map_err(failed("copying from the GPU"))?;
        }
        self.stream.synchronize()?;
        Ok(values)
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn fill(&mut self, value: u8) -> Result<(), GpuError> {
        let stream = self.stream.inner().clone();
        stream.context().bind_to_thread().map_err(failed("binding the GPU's context"))?;
        let bytes = self.slice.len();
        let (pointer, _order) = self.slice.device_ptr_mut(&stream);
        // SAFETY: the range is exactly this allocation, on its own stream.
        let status = unsafe { result::memset_d8_async(pointer, value, bytes, stream.cu_stream()) };
        status.map_err(failed("filling device memory"))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Device address, never null.
    pub fn address(&self) -> u64 {
        self.slice.device_ptr(self.stream.inner()).0
    }
}
