//! SwiGLU over fused gate and up rows: see [`crate::ops::swiglu`] for the formulas.

use half::bf16;

use super::{Ops, int};
use crate::driver::{Argument, GpuError, Span};

const THREADS: usize = 128;

fn blocks(rows: usize, hidden: usize) -> [usize; 3] {
    [rows, (hidden / 8).div_ceil(THREADS), 1]
}

impl Ops {
    /// y (T, F) from gate and up side by side, (T, 2 F).
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn swiglu_forward(
        &self,
        rows: usize,
        hidden: usize,
        gate_up: Span<'_, bf16>,
        y: Span<'_, bf16>,
    ) -> Result<(), GpuError> {
        let gate_up = gate_up.address("gate_up", 2 * rows * hidden, &self.stream)?;
        let y = y.address("y", rows * hidden, &self.stream)?;
        let arguments = [Argument::Address(gate_up), Argument::Address(y), int(hidden)];
        self.launch("swiglu_forward", blocks(rows, hidden), THREADS, &arguments)
    }

    /// Turns gate and up (T, 2 F) into their gradients, in place, given d_y (T, F).
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn swiglu_backward(
        &self,
        rows: usize,
        hidden: usize,
        gate_up: Span<'_, bf16>,
        d_y: Span<'_, bf16>,
    ) -> Result<(), GpuError> {
        let gate_up = gate_up.address("gate_up", 2 * rows * hidden, &self.stream)?;
        let d_y = d_y.address("d_y", rows * hidden, &self.stream)?;
        let arguments = [Argument::Address(gate_up), Argument::Address(d_y), int(hidden)];
        self.launch("swiglu_backward", blocks(rows, hidden), THREADS, &arguments)
    }
}
