//! PTX text to functions of decoded instructions.

mod arguments;
mod decode;
mod decode_async;
mod instruction;
mod names;
mod parse;
mod text;

pub use instruction::{
    Address, Alu, Atomic, BulkCopy, Comparison, Float, Guard, Instruction, MatrixMove, Op, Operand, Place,
    Rounding, Shuffle, Space, Special, Type, Vote, WgmmaA,
};
pub use parse::{GLOBALS_BASE, STATIC_SMEM_BASE, parse};

/// Where generic addresses of shared, local and parameter memory begin. Allocations lie below.
pub const SHARED_WINDOW: u64 = 0x7100_0000_0000_0000;
/// Likewise.
pub const LOCAL_WINDOW: u64 = 0x7200_0000_0000_0000;
/// Likewise.
pub const PARAMETER_WINDOW: u64 = 0x7300_0000_0000_0000;
/// The part of an address that says where in its window it is.
pub const WINDOW_MASK: u64 = 0x00ff_ffff_ffff_ffff;

/// A module: its entry points and the variables they share.
#[derive(Debug, Default)]
pub struct Module {
    /// Entry points.
    pub entries: Vec<Entry>,
    /// Initial contents of the variables in global and constant memory, one after the other.
    pub globals: Vec<u8>,
}

/// A kernel.
#[derive(Debug, Default)]
pub struct Entry {
    /// As the driver asks for it.
    pub name: String,
    /// Offset and size of each parameter, in bytes.
    pub parameters: Vec<(usize, usize)>,
    /// Size of all parameters.
    pub parameter_bytes: usize,
    /// Statically allocated shared memory.
    pub static_smem_bytes: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// Words of 32 bits that the registers of a thread take, predicates aside.
    pub words: u32,
    /// Predicate registers.
    pub predicates: u32,
    /// Most threads of a block.
    pub max_threads: Option<u32>,
    /// What is executed.
    pub code: Vec<Instruction>,
    /// Names of source files by their number.
    pub files: Vec<(u32, String)>,
}

/// Why a text is no PTX that is known here.
#[derive(Debug, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct PtxError {
    /// From 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}
