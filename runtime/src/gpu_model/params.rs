//! Parameters in device memory: one buffer with the table of the model. Weights are bf16; masters, moments and gradients f32.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use crate::driver::{Buffer, GpuError, Span, Stream};
use crate::model::{ParamEntry, ParamTable};

/// A number for every element of every tensor of a model, on the device.
#[derive(Debug)]
pub struct DeviceParams<T> {
    table: Arc<ParamTable>,
    buffer: Buffer,
    element: PhantomData<T>,
}

/// The tensors of one layer. Products that share their input are one: Q, K and V lie side by side in the table, and so do
/// gate and up.
#[derive(Debug)]
pub struct DeviceLayer<'a, T> {
    /// (C)
    pub input_norm: Span<'a, T>,
    /// ((H + 2 G) * D, C)
    pub qkv: Span<'a, T>,
    /// (C, H * D)
    pub o: Span<'a, T>,
    /// (C)
    pub post_norm: Span<'a, T>,
    /// (2 F, C)
    pub gate_up: Span<'a, T>,
    /// (C, F)
    pub down: Span<'a, T>,
}

impl<T: Pod> DeviceParams<T> {
    /// Zeros.
    ///
    /// # Errors
    /// [`GpuError::Call`] when memory runs out.
    pub fn zeros(stream: &Stream, table: Arc<ParamTable>) -> Result<DeviceParams<T>, GpuError> {
        let buffer = Buffer::zeros(stream, table.len() * size_of::<T>())?;
        Ok(DeviceParams { table, buffer, element: PhantomData })
    }

    /// The table.
    pub fn table(&self) -> &Arc<ParamTable> {
        &self.table
    }

    /// Everything.
    pub fn all(&self) -> Span<'_, T> {
        self.buffer.span()
    }

    /// Sets every element to 0.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn clear(&mut self) -> Result<(), GpuError> {
        self.buffer.fill(0)
    }

    /// Writes elements from element `start` on.
    ///
    /// # Errors
    /// [`GpuError::TooSmall`], [`GpuError::Call`].
    pub fn write(&mut self, start: usize, values: &[T]) -> Result<(), GpuError> {
        self.buffer.write_at(start * size_of::<T>(), values)
    }

    /// All elements, on the host.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn to_vec(&self) -> Result<Vec<T>, GpuError> {
        self.buffer.to_vec()
    }

    /// One tensor.
    ///
    /// # Errors
    /// Those of an entry of another table.
    pub fn entry(&self, entry: &ParamEntry) -> Result<Span<'_, T>, GpuError> {
        self.range(entry, entry)
    }

    /// The embedding table, (V, C).
    ///
    /// # Errors
    /// None in practice: the table is the buffer's own.
    pub fn embedding(&self) -> Result<Span<'_, T>, GpuError> {
        self.entry(&self.table.entries()[0])
    }

    /// The final norm, (C).
    ///
    /// # Errors
    /// As [`DeviceParams::embedding`].
    pub fn norm(&self) -> Result<Span<'_, T>, GpuError> {
        let at = self.table.norm();
        self.all().part(at.start, at.len())
    }

    /// The output head, (V, C): the embedding table itself where they are tied.
    ///
    /// # Errors
    /// As [`DeviceParams::embedding`].
    pub fn head(&self) -> Result<Span<'_, T>, GpuError> {
        let at = self.table.head();
        self.all().part(at.start, at.len())
    }

    /// The tensors of a layer.
    ///
    /// # Errors
    /// As [`DeviceParams::embedding`].
    pub fn layer(&self, layer: usize) -> Result<DeviceLayer<'_, T>, GpuError> {
        // input_norm, q, k, v, o, post_norm, gate, up, down.
        let entries = self.table.layer(layer);
        Ok(DeviceLayer {
            input_norm: self.entry(&entries[0])?,
            qkv: self.range(&entries[1], &entries[3])?,
            o: self.entry(&entries[4])?,
            post_norm: self.entry(&entries[5])?,
            gate_up: self.range(&entries[6], &entries[7])?,
            down: self.entry(&entries[8])?,
        })
    }

    /// From the start of one tensor to the end of another.
    fn range(&self, first: &ParamEntry, last: &ParamEntry) -> Result<Span<'_, T>, GpuError> {
        let start = first.range().start;
        self.all().part(start, last.range().end - start)
    }
}
