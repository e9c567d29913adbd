//! The first choice of tiles: a pure function of pass, shape and target.

use super::Schedule;
use crate::spec::{Pass, Shape};
use crate::target::{Family, Target};

/// The schedule for a kernel, without measuring anything. Always legal for the head dimensions that kernels take.
pub fn choose(pass: Pass, family: Family, shape: &Shape, target: Target) -> Schedule {
    let narrow = shape.head_dim <= 64;
    let wide = shape.head_dim > 128;
    // 163 KiB and more against 99 KiB.
    let roomy = target.smem_per_block_bytes() >= 160 * 1024;
    match (pass, family) {
        (Pass::Forward, Family::Sm90) => warpgroups(2, 128, 128, 2),
        (Pass::BackwardFused, _) => warpgroups(2, if narrow { 128 } else { 64 }, 128, 2),
        (Pass::Forward, Family::Sm80) => match (wide, roomy) {
            (false, _) => warps(128, 64, 2, 256),
            (true, true) => warps(128, 32, 2, 256),
            (true, false) => warps(64, 32, 1, 128),
        },
        (Pass::BackwardDkv | Pass::BackwardDq, _) => match (wide, roomy) {
            (false, true) => warps(64, 64, 2, 128),
            (false, false) => warps(32, 32, 2, 64),
            (true, true) => warps(32, 32, 2, 64),
            (true, false) => warps(16, 16, 2, 32),
        },
        (Pass::Decode, _) => match (wide, roomy) {
            (false, _) => warps(16, 64, 2, 128),
            (true, true) => warps(16, 64, 2, 128),
            (true, false) => warps(16, 32, 2, 64),
        },
        (Pass::BackwardDelta | Pass::BackwardConvertDq | Pass::DecodeCombine, _) => warps(64, 64, 1, 128),
    }
}

fn warps(tile_m: u32, tile_n: u32, stages: u32, threads: u32) -> Schedule {
    Schedule { tile_m, tile_n, stages, threads, consumers: 0 }
}

/// One producer warpgroup besides the consumers.
fn warpgroups(consumers: u32, tile_m: u32, tile_n: u32, stages: u32) -> Schedule {
    Schedule { tile_m, tile_n, stages, threads: 128 * (consumers + 1), consumers }
}
