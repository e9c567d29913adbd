//! Published figures of the architectures.

use crate::target::{Family, Target};

/// A GPU, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuMachine {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Clock under load.
    pub hertz: f64,
    /// 16-bit FLOPs of a multiprocessor in a clock by `mma.sync` with f32 sums.
    pub mma_flops: f64,
    /// The same by `wgmma`; 0 where there is none.
    pub wgmma_flops: f64,
    /// Exponentials of a multiprocessor in a clock.
    pub exponentials: f64,
    /// Bytes that shared memory delivers in a clock.
    pub smem_bytes_per_clock: f64,
    /// Bytes of shared memory of a multiprocessor.
    pub smem_bytes: u32,
    /// Registers of a multiprocessor.
    pub registers: u32,
    /// Threads of a multiprocessor.
    pub threads: u32,
    /// Bytes a second from device memory.
    pub memory_bytes_per_second: f64,
}

impl GpuMachine {
    /// The usual device of an architecture: A100, RTX 3090, RTX 4090, H200, B200, RTX 5090.
    pub fn of(target: Target) -> GpuMachine {
        let (multiprocessors, gigahertz, mma, smem_kib, threads, terabytes) =
            match target.compute_capability() {
                (8, 0) => (108, 1.41, 2048.0, 164, 2048, 2.0),
                (8, 6) => (82, 1.7, 512.0, 100, 1536, 0.94),
                (8, 7) => (16, 1.3, 1024.0, 164, 1536, 0.2),
                (8, _) => (128, 2.5, 512.0, 100, 1536, 1.0),
                (9, _) => (132, 1.75, 2600.0, 228, 2048, 4.3),
                (10, _) => (148, 1.85, 2048.0, 228, 2048, 7.5),
                _ => (170, 2.4, 512.0, 100, 1536, 1.8),
            };
        GpuMachine {
            multiprocessors,
            hertz: gigahertz * 1e9,
            mma_flops: mma,
            wgmma_flops: if target.family() == Family::Sm90 { 4096.0 } else { 0.0 },
            exponentials: 16.0,
            smem_bytes_per_clock: 128.0,
            smem_bytes: smem_kib * 1024,
            registers: 65_536,
            threads,
            memory_bytes_per_second: terabytes * 1e12,
        }
    }
}
