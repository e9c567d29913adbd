//! Registers and occupancy, predicted from what each template keeps in registers.

use super::machine::GpuMachine;
use crate::schedule::{Schedule, column_parts, smem_bytes};
use crate::spec::{Pass, Shape};
use crate::target::Family;

/// Registers that a thread can have.
pub const MOST_REGISTERS: u32 = 255;

/// From this many expected registers on ptxas spills.
pub const SPILLS_FROM: u32 = 265;

/// Registers a thread needs for a pattern of a few clauses, as ptxas counts them.
///
/// The fragments of `mma.sync` decide: a warp holds 16 rows by 8 columns of f32 in 4 registers of each thread. Base and factors
/// were fitted to what ptxas 13.0 reports; more than [`SPILLS_FROM`] does not fit, a little above [`MOST_REGISTERS`] does.
pub fn predicted_registers(pass: Pass, family: Family, shape: &Shape, schedule: &Schedule) -> u32 {
    let Schedule { tile_m, tile_n, threads, stages, .. } = *schedule;
    let (d, warps) = (shape.head_dim, threads / 32);
    let fragment = |rows: u32, columns: u32| rows * columns / 32;
    let softcap = if shape.softcap { 8.0 } else { 0.0 };
    let of = |(base, first): (f64, f64), kept: u32, (second, scores): (f64, u32)| {
        base + first * f64::from(kept) + second * f64::from(scores) + softcap
    };
    let needed = match (pass, family) {
        // What the block size leaves to a thread; warps trade registers later.
        (_, Family::Sm90) if pass.is_tiled() => f64::from(65_536 / threads / 8 * 8),
        // O and the scores of the warp's rows; of many scores some are weights already when the last are made.
        (Pass::Forward, Family::Sm80) => {
            let (rows, most) = (tile_m / warps, 32);
            let scores = fragment(rows, tile_n);
            of((38.0, 1.25), fragment(rows, d), (2.0, scores.min(most)))
                + 4.0 * f64::from(stages.saturating_sub(2))
                + 1.5 * f64::from(scores.saturating_sub(most))
        }
        // dK and dV of the warp's keys, and scores and dP of them.
        (Pass::BackwardDkv, _) => {
            let parts = column_parts(d);
            let keys = tile_n * parts / warps;
            of((62.0, 1.1), 2 * fragment(keys, d / parts), (1.2, 2 * fragment(keys, tile_m)))
        }
        // dQ of the warp's rows, and scores and dP of them.
        (Pass::BackwardDq, _) => {
            let rows = tile_m / warps;
            of((66.0, 1.15), fragment(rows, d), (1.07, 2 * fragment(rows, tile_n)))
        }
        // O of 16 heads, and the warp's keys.
        (Pass::Decode, _) => of((88.0, 0.8), fragment(16, d), (0.55, fragment(tile_n / warps, d))),
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm80) => f64::from(MOST_REGISTERS),
        _ => 40.0,
    };
    needed.round() as u32
}

/// Whether a consumer of a warp-specialised kernel has too few registers: it holds 64 rows of O and of the scores, and
/// three consumers have 160 registers a thread where two have 232.
pub fn starves_consumers(pass: Pass, family: Family, shape: &Shape, schedule: &Schedule) -> bool {
    let needed = shape.head_dim / 2 + 64 + 64;
    let given = if schedule.consumers > 2 { 160 } else { 232 };
    pass == Pass::Forward && family == Family::Sm90 && needed > given
}

/// How many blocks share a multiprocessor, and what keeps there from being more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks.
    pub blocks: u32,
    /// `shared memory`, `registers` or `threads`.
    pub limit: &'static str,
}

/// Blocks of a kernel on one multiprocessor; 0 when not even one fits.
pub fn occupancy(
    machine: &GpuMachine,
    (pass, family): (Pass, Family),
    shape: &Shape,
    schedule: &Schedule,
    registers: u32,
) -> Occupancy {
    /// What the system keeps of each block's shared memory.
    const RESERVED_BYTES: u32 = 1024;
    let smem = smem_bytes(pass, family, shape, schedule) + RESERVED_BYTES;
    let by_smem = machine.smem_bytes / smem;
    // Registers are handed out to warps, in units of 256.
    let of_warp = (registers.min(MOST_REGISTERS) * 32).next_multiple_of(256).max(256);
    let by_registers = machine.registers / (of_warp * (schedule.threads / 32).max(1));
    let by_threads = machine.threads / schedule.threads.max(1);
    let limits = [(by_smem, "shared memory"), (by_registers, "registers"), (by_threads, "threads")];
    let (blocks, limit) = limits.into_iter().min_by_key(|(blocks, _)| *blocks).unwrap_or((0, "threads"));
    Occupancy { blocks, limit }
}
