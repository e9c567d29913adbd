//! What executes a kernel: warps of lanes in blocks, in an order drawn at random.
//!
//! Everything that the hardware leaves open is drawn from a seed: which block and which warp goes on, for how long, and when
//! an asynchronous copy or product between its issue and the wait for it takes place. A kernel that forgets to wait, or lets
//! go of a buffer too early, gives wrong numbers for some seeds. Accesses out of bounds or not aligned, a warp that is not
//! together where it must be, a barrier that nobody completes, and shared memory that the copy engine reads without a fence are faults.

mod accesses;
mod asynchronous;
mod barriers;
mod block;
mod collective;
mod counts;
mod execute;
mod grid;
mod issue;
mod matrices;
mod memory;
mod random;
mod registers;
mod scalar;
mod tensor_map;
#[cfg(test)]
mod tests;
mod warp;
mod wgmma;

pub use grid::{Launch, run};
pub use memory::Memory;
pub use tensor_map::TensorMap;

/// Why a kernel was stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    message: String,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Fault { message: message.into() }
    }

    /// The same fault, and where it happened.
    fn at(self, place: impl std::fmt::Display) -> Self {
        Fault { message: format!("{}, {place}", self.message) }
    }
}
