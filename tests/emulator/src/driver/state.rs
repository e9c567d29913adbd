//! What the driver remembers: one device, one lock.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;

use super::blas::Product;
use crate::machine::{Fault, Launch, Memory, run};
use crate::ptx::Module;

/// Multiprocessors of the device. Few, so that a small problem has more work than they take at a time.
pub const MULTIPROCESSORS: u32 = 3;
/// Shared memory of a multiprocessor, and what a block takes of it besides its own.
pub const SMEM_BYTES: u32 = 233_472;
pub const RESERVED_SMEM_BYTES: u32 = 1024;
/// Most shared memory of a block.
pub const BLOCK_SMEM_BYTES: u32 = SMEM_BYTES - RESERVED_SMEM_BYTES;
const MULTIPROCESSOR_THREADS: u32 = 2048;

/// A kernel: a module and the number of an entry point. Its address is the handle.
#[derive(Debug)]
pub struct Function {
    pub module: Arc<Module>,
    pub entry: usize,
}

/// Work of a stream.
#[derive(Clone, Debug)]
pub enum Command {
    Launch {
        module: Arc<Module>,
        entry: usize,
        parameters: Vec<u8>,
        grid: [u32; 3],
        threads: u32,
        smem_bytes: u32,
    },
    Fill {
        to: u64,
        value: u8,
        bytes: usize,
    },
    Write {
        to: u64,
        values: Vec<u8>,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Multiply(Product),
}

/// A stream: what was recorded since a capture began, if one has.
#[derive(Debug, Default)]
pub struct Stream {
    pub captured: Option<Vec<Command>>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct State {
    pub memory: Memory,
    /// A fault that nobody was told of yet. A GPU would have to be set up anew after it; this one goes on.
    pub fault: Option<Fault>,
    launches: u64,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Calls `with` on the device.
pub fn on_device<T>(with: impl FnOnce(&mut State) -> T) -> T {
    let mut state: MutexGuard<'_, Option<State>> = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    with(state.get_or_insert_default())
}

/// What a user set, or `default`.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Blocks that a multiprocessor holds at a time.
pub fn blocks_per_multiprocessor(threads: u32, smem_bytes: u32) -> u32 {
    let by_smem = SMEM_BYTES / (smem_bytes + RESERVED_SMEM_BYTES);
    by_smem.min(MULTIPROCESSOR_THREADS / threads.max(1)).min(2)
}

impl State {
    /// Whether a fault has happened.
    pub fn status(&self) -> CUresult {
        if self.fault.is_some() { CUresult::CUDA_ERROR_LAUNCH_FAILED } else { CUresult::CUDA_SUCCESS }
    }

    /// Does the work, or keeps it where a capture is going on.
    pub fn submit(&mut self, stream: Option<&mut Stream>, command: Command) -> CUresult {
        if let Some(captured) = stream.and_then(|stream| stream.captured.as_mut()) {
            captured.push(command);
            return CUresult::CUDA_SUCCESS;
        }
        self.perform(&command)
    }

    /// Does the work.
    pub fn perform(&mut self, command: &Command) -> CUresult {
        if self.fault.is_none()
            && let Err(fault) = self.try_perform(command)
        {
            self.fault = Some(fault);
        }
        self.status()
    }

    fn try_perform(&mut self, command: &Command) -> Result<(), Fault> {
        match command {
            Command::Fill { to, value, bytes } => self.memory.slice(*to, *bytes)?.fill(*value),
            Command::Write { to, values } => self.memory.slice(*to, values.len())?.copy_from_slice(values),
            Command::Copy { to, from, bytes } => {
                let values = self.memory.slice(*from, *bytes)?.to_vec();
                self.memory.slice(*to, *bytes)?.copy_from_slice(&values);
            }
            Command::Multiply(product) => product.perform(&mut self.memory)?,
            Command::Launch { module, entry, parameters, grid, threads, smem_bytes } => {
                self.launches += 1;
                let seed = setting("LONGGEN_EMULATOR_SEED", 1u64)
                    .wrapping_mul(0x1000_0001)
                    .wrapping_add(self.launches);
                let report = std::env::var_os("LONGGEN_EMULATOR_COUNTS");
                let launch = Launch {
                    entry: &module.entries[*entry],
                    globals: &module.globals,
                    parameters: parameters.clone(),
                    grid: *grid,
                    threads: *threads,
                    dynamic_smem_bytes: *smem_bytes,
                    resident: (MULTIPROCESSORS * blocks_per_multiprocessor(*threads, *smem_bytes)) as usize,
                    seed,
                    counts: report.is_some(),
                };
                let counts = run(&mut self.memory, &launch)?;
                if let (Some(file), Some(counts)) = (report, counts) {
                    append(&file, &counts.table(launch.entry).to_string());
                }
            }
        }
        Ok(())
    }
}

/// Adds a launch's counts to a user's file.
fn append(file: &OsStr, text: &str) {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "{text}")) {
        eprintln!("emulator: {}: {error}", file.display());
    }
}
