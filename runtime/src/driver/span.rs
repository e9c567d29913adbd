//! A typed run of elements in a buffer: what operations read and write.

use std::marker::PhantomData;

use super::{Buffer, GpuError, Stream};

/// `len` elements of type `T` in a buffer. Copies are cheap. Kernels read and write through it, in the order of the
/// buffer's stream; nothing on the host does.
pub struct Span<'a, T> {
    buffer: &'a Buffer,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for Span<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Span<'_, T> {}

impl<T> std::fmt::Debug for Span<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Span {} + {} of {}", self.start, self.len, std::any::type_name::<T>())
    }
}

impl Buffer {
    /// All of the buffer as elements of type `T`.
    pub fn span<T>(&self) -> Span<'_, T> {
        let len = self.bytes() / size_of::<T>().max(1);
        Span { buffer: self, start: 0, len, element: PhantomData }
    }
}

impl<'a, T> Span<'a, T> {
    /// Elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The buffer that it is part of.
    pub fn buffer(self) -> &'a Buffer {
        self.buffer
    }

    /// Where it starts in the buffer, in elements.
    pub fn start(self) -> usize {
        self.start
    }

    /// `len` elements from `start` on.
    ///
    /// # Errors
    /// [`GpuError::TooSmall`] when they reach past the end.
    pub fn part(self, start: usize, len: usize) -> Result<Self, GpuError> {
        let needed = start.saturating_add(len);
        if needed > self.len {
            let size = size_of::<T>();
            let (found, needed) = (self.len * size, needed.saturating_mul(size));
            return Err(GpuError::TooSmall { name: "span", found, needed });
        }
        Ok(Span { start: self.start + start, len, ..self })
    }

    /// The device address of the first element, once it is known that `needed` elements follow it and that the buffer is
    /// on `stream`. `name` is for the message.
    ///
    /// # Errors
    /// [`GpuError::TooSmall`], [`GpuError::WrongStream`].
    pub fn address(self, name: &'static str, needed: usize, stream: &Stream) -> Result<u64, GpuError> {
        let size = size_of::<T>();
        if needed > self.len {
            let (found, needed) = (self.len * size, needed.saturating_mul(size));
            return Err(GpuError::TooSmall { name, found, needed });
        }
        if !self.buffer.stream().is(stream) {
            return Err(GpuError::WrongStream { name });
        }
        Ok(self.buffer.address() + (self.start * size) as u64)
    }
}
