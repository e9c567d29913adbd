//! Random numbers made on the device.

use half::bf16;

use super::{Ops, long};
use crate::driver::{Argument, GpuError, Span};

impl Ops {
    /// Normal numbers around `mean`: a function of `seed` and place.
    ///
    /// # Errors
    /// A span of another stream.
    pub fn fill_normal(
        &self,
        x: Span<'_, bf16>,
        seed: u64,
        mean: f32,
        deviation: f32,
    ) -> Result<(), GpuError> {
        let n = x.len();
        let arguments = [
            Argument::Address(x.address("x", n, &self.stream)?),
            long(n),
            Argument::Address(seed),
            Argument::Float(mean),
            Argument::Float(deviation),
        ];
        self.launch("fill_normal", [n.div_ceil(256), 1, 1], 256, &arguments)
    }
}
