//! Dynamic shared memory of each kernel: the map at the head of its template, as arithmetic.

use super::Schedule;
use crate::spec::{Pass, Shape};
use crate::target::Family;

/// Bytes of dynamic shared memory that a kernel is launched with.
pub fn smem_bytes(pass: Pass, family: Family, shape: &Shape, schedule: &Schedule) -> u32 {
    let Schedule { tile_m, tile_n, stages, .. } = *schedule;
    let row = shape.head_dim * 2;
    let (queries, keys) = (tile_m * row, tile_n * row);
    match (pass, family) {
        // Q, then rings of K and V.
        (Pass::Forward, Family::Sm80) => queries + 2 * stages * keys,
        // Two stages of Q and the staging of O, rings of K and V, barriers of these and of the ring of steps, eight steps of
        // 44 bytes, four messages of 28, two ints per piece of a stage.
        (Pass::Forward, Family::Sm90) => {
            let barriers = ring_barriers(2) + 2 * ring_barriers(stages) + ring_barriers(8);
            ALIGNMENT
                + 3 * queries
                + 2 * stages * keys
                + barriers
                + 8 * 44
                + 4 * 28
                + 8 * stages * (tile_n / PIECE_KEYS)
        }
        // K and V, then rings of Q, dO, log-sum-exp and delta.
        (Pass::BackwardDkv, _) => 2 * keys + stages * (2 * queries + 2 * 4 * tile_m),
        // Q and dO, then rings of K and V.
        (Pass::BackwardDq, _) => 2 * queries + 2 * stages * keys,
        // K and V, two buffers of dS, rings of Q, dO, log-sum-exp and delta, the walk and its steps, two more than stages.
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm80) => {
            let scores = 2 * 2 * tile_m * tile_n;
            2 * keys + scores + stages * (2 * queries + 2 * 4 * tile_m) + 64 + 8 * (stages + 2)
        }
        // K and V, two stages of Q and dO, two buffers of dS, two areas of two pieces of dQ, two stages of log-sum-exp and delta,
        // barriers, four units, four messages, two flags, two words of the producer.
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm90) => {
            let scores = 2 * 2 * tile_m * tile_n;
            let statistics = 2 * 2 * 4 * tile_m;
            let dq = 2 * 2 * 4 * 64 * 64;
            let barriers = 2 * ring_barriers(2) + ring_barriers(1);
            let words = 4 * 64 + 4 * 16 + 16;
            2 * keys + 4 * queries + scores + dq + statistics + barriers + words
        }
        // Q, then rings of the warps' slices of K and V, reused to merge the warps.
        (Pass::Decode, _) => 16 * row + 2 * stages * keys,
        (Pass::BackwardDelta | Pass::BackwardConvertDq, _) => 0,
    }
}

/// Keys of a piece: Hopper's forward gathers each key tile from pieces with places of their own, so that the blocks of a
/// stride fill a tile. A listed pattern lists pieces for it.
pub const PIECE_KEYS: u32 = 64;

/// Queries of a part: the fused backward of Hopper cuts the walks of far pieces of keys into parts (`tile/sm90_key_unit.cuh`).
pub const PART_QUERIES: u32 = 8192;

/// What is lost when the start is moved to the alignment of a swizzled tile.
const ALIGNMENT: u32 = 1024;

/// A `full` and an `empty` barrier of 8 bytes for each stage.
fn ring_barriers(stages: u32) -> u32 {
    16 * stages
}
