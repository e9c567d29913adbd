//! The first choice of tiles: a pure function of pass, shape and target. Measures nothing.

use super::{Schedule, column_parts};
use crate::spec::{Pass, Shape};
use crate::target::{Family, Target};

/// The schedule to take.
pub fn choose(pass: Pass, family: Family, shape: &Shape, target: Target) -> Schedule {
    candidates(pass, family, shape, target)[0]
}

/// Schedules in the order to try them: an involved pattern may take registers that the first has not left, and ptxas tells.
/// Each is legal for the head dimensions that kernels take. Empty where none is.
pub fn candidates(pass: Pass, family: Family, shape: &Shape, target: Target) -> Vec<Schedule> {
    let d = shape.head_dim;
    // 163 KiB and more against 99 KiB.
    let roomy = target.smem_per_block_bytes() >= 160 * 1024;
    match (pass, family) {
        (Pass::Forward, Family::Sm90) => match d {
            ..=64 => vec![warpgroups(3, 192, 128, 4), warpgroups(2, 128, 128, 2)],
            _ => vec![warpgroups(2, 128, 128, 2)],
        },
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm90) => {
            vec![warpgroups(2, fused_tile_m(d), 128, 2)]
        }
        // Where it does not fit, the split one does its work.
        (Pass::BackwardFused | Pass::BackwardOrdered, Family::Sm80) => match roomy {
            true => vec![warps(fused_tile_m(d), 128, 2, 256)],
            false => Vec::new(),
        },
        (Pass::Forward, Family::Sm80) => match (d, roomy) {
            // Two blocks of 16 rows to a warp halve the traffic of keys in shared memory, as far as registers go.
            (..=64, _) => vec![warps(128, 64, 2, 128), warps(64, 64, 2, 128), warps(64, 32, 2, 128)],
            (..=128, _) => {
                // Wide tiles of keys read the queries less often, where two such blocks fit in a multiprocessor.
                let wide = (target.smem_per_block_bytes() >= 2 * 96 * 1024).then(|| warps(128, 64, 2, 128));
                let narrow = [warps(128, 32, 2, 128), warps(64, 64, 2, 128), warps(64, 32, 2, 128)];
                wide.into_iter().chain(narrow).collect()
            }
            (_, true) => vec![warps(128, 32, 2, 256), warps(64, 32, 2, 128)],
            (_, false) => vec![warps(64, 32, 2, 128), warps(64, 16, 2, 128)],
        },
        // A warp holds dK and dV of 16 keys: 2 D registers of a thread's 255, so the scores must be narrow.
        (Pass::BackwardDkv, _) => match (d, roomy) {
            (..=64, _) => vec![warps(64, 64, 2, 128), warps(32, 64, 2, 128)],
            (..=128, true) => vec![warps(32, 64, 2, 128), warps(16, 64, 2, 128)],
            // Two blocks of keys, each with a warp for each part of the columns.
            (192 | 256, _) => [32, 16].map(|tile_m| warps(tile_m, 32, 2, 64 * column_parts(d))).to_vec(),
            (_, true) => vec![warps(16, 32, 2, 64)],
            (_, false) => vec![warps(16, 16, 2, 32)],
        },
        (Pass::BackwardDq, _) => match (d, roomy) {
            (..=64, _) => vec![warps(128, 64, 2, 128), warps(64, 64, 2, 128), warps(64, 32, 2, 128)],
            (..=128, true) => vec![warps(64, 64, 2, 128), warps(64, 32, 2, 128)],
            (_, true) => vec![warps(64, 32, 2, 128), warps(32, 32, 2, 64), warps(32, 16, 2, 64)],
            (_, false) => vec![warps(32, 16, 2, 64), warps(16, 16, 2, 32)],
        },
        (Pass::Decode, _) => match (d, roomy) {
            (..=64, _) | (..=128, true) => vec![warps(16, 64, 3, 128)],
            (..=128, false) | (_, true) => vec![warps(16, 64, 2, 128)],
            (_, false) => vec![warps(16, 32, 2, 64)],
        },
        // The workspace is in tiles of the fused backward.
        (Pass::BackwardConvertDq, _) => vec![warps(fused_tile_m(d), 128, 1, 256)],
        (Pass::BackwardDelta, _) => vec![warps(64, 64, 1, 128)],
    }
}

/// Query rows of a tile of the fused backward: two pieces of dQ, 64 by 64 each.
fn fused_tile_m(head_dim: u32) -> u32 {
    if head_dim <= 64 { 128 } else { 64 }
}

fn warps(tile_m: u32, tile_n: u32, stages: u32, threads: u32) -> Schedule {
    Schedule { tile_m, tile_n, stages, threads, consumers: 0 }
}

/// One producer warpgroup besides the consumers.
fn warpgroups(consumers: u32, tile_m: u32, tile_n: u32, stages: u32) -> Schedule {
    Schedule { tile_m, tile_n, stages, threads: 128 * (consumers + 1), consumers }
}
