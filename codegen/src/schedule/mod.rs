//! How a kernel is cut into tiles: chosen from the shapes alone, never from a pattern or a length.
//! Owns the shared memory formulas; a source asserts them against the kernel's own layout when it is compiled.

mod heuristic;
mod smem;
mod text;

pub use heuristic::{candidates, choose};
pub use smem::{PART_QUERIES, PIECE_KEYS, smem_bytes};
pub use text::ParseScheduleError;

use crate::spec::{Pass, Shape};
use crate::target::{Family, Target};

/// Tile shape and block shape of one kernel. Prints and parses as `tile_m=128 tile_n=64 stages=2 threads=128 consumers=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Schedule {
    /// Query rows of a tile.
    pub tile_m: u32,
    /// Keys of a tile.
    pub tile_n: u32,
    /// Tiles in flight between global and shared memory.
    pub stages: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Consumer warpgroups of a warp-specialised kernel; 0 for the others.
    pub consumers: u32,
}

/// Why a schedule cannot be compiled or launched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllegalSchedule {
    /// No template computes this.
    #[error("there is no {pass} kernel of the {family} family for {target} and head dimension {head_dim}")]
    NoKernel {
        /// Which kernel.
        pass: Pass,
        /// Which family.
        family: Family,
        /// The architecture.
        target: Target,
        /// D.
        head_dim: u32,
    },
    /// A size is not what the tensor core instruction needs.
    #[error("{what} = {value} must be a positive multiple of {multiple}")]
    Multiple {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u32,
        /// What it must be a multiple of.
        multiple: u32,
    },
    /// A number is outside what kernels take.
    #[error("{what} = {value} is outside {low}..={high}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u32,
        /// Smallest legal value.
        low: u32,
        /// Largest legal value.
        high: u32,
    },
    /// The warps cannot be laid over the tile.
    #[error("{pass} on {family}: {reason}")]
    Warps {
        /// Which kernel.
        pass: Pass,
        /// Which family.
        family: Family,
        /// What does not fit.
        reason: String,
    },
    /// Too much shared memory.
    #[error("{needed} bytes of shared memory are needed, a block on {target} has {available}")]
    SharedMemory {
        /// What the tiles take.
        needed: u32,
        /// What there is.
        available: u32,
        /// The architecture.
        target: Target,
    },
}

impl Schedule {
    /// Whether a kernel of this shape can be compiled and launched on `target`.
    ///
    /// # Errors
    /// [`IllegalSchedule`], the first rule broken.
    pub fn check(
        &self,
        pass: Pass,
        family: Family,
        shape: &Shape,
        target: Target,
    ) -> Result<(), IllegalSchedule> {
        multiple("head_dim", shape.head_dim, 32)?;
        range("head_dim", shape.head_dim, 32, 256)?;
        let runs = family == Family::Sm80 || target.family() == family;
        if !runs || !pass.exists(family, shape) {
            return Err(IllegalSchedule::NoKernel { pass, family, target, head_dim: shape.head_dim });
        }
        multiple("tile_m", self.tile_m, 16)?;
        multiple("tile_n", self.tile_n, 16)?;
        range("tile_m", self.tile_m, 16, 256)?;
        range("tile_n", self.tile_n, 16, 256)?;
        range("stages", self.stages, 1, 8)?;
        multiple("threads", self.threads, 32)?;
        range("threads", self.threads, 32, target.max_threads_per_block())?;
        self.check_warps(pass, family, shape)?;
        let needed = smem_bytes(pass, family, shape, self);
        let available = target.smem_per_block_bytes();
        if needed > available {
            return Err(IllegalSchedule::SharedMemory { needed, available, target });
        }
        Ok(())
    }

    /// Whether the warps can be laid over the tile.
    fn check_warps(&self, pass: Pass, family: Family, shape: &Shape) -> Result<(), IllegalSchedule> {
        let refuse = |reason: String| Err(IllegalSchedule::Warps { pass, family, reason });
        if pass.is_tiled() && family == Family::Sm90 {
            let expected = (self.consumers + 1) * 128;
            if self.threads != expected {
                return refuse(format!("threads = {}, but the warpgroups take {expected}", self.threads));
            }
            let rows = if pass == Pass::Forward { self.tile_m } else { self.tile_n };
            if rows != 64 * self.consumers {
                return refuse(format!("{} consumers do not cover {rows} rows of 64 each", self.consumers));
            }
            if self.tile_n != 128 {
                return refuse(format!("tile_n = {} is no key tile of this kernel", self.tile_n));
            }
            if pass == Pass::Forward && !self.stages.is_power_of_two() {
                return refuse(format!("stages = {} is not a power of two", self.stages));
            }
            return range("consumers", self.consumers, 1, 3);
        }
        if self.consumers != 0 {
            return refuse(format!("consumers = {}, but the kernel is not warp-specialised", self.consumers));
        }
        let mut warps = self.threads / 32;
        // Each warp owns blocks of 16 rows: of queries, or of keys where a block holds a tile of keys.
        let rows = match pass {
            Pass::Forward | Pass::BackwardDq => self.tile_m,
            Pass::Decode => self.tile_n,
            Pass::BackwardDkv => {
                let parts = column_parts(shape.head_dim);
                if !warps.is_multiple_of(parts) {
                    return refuse(format!(
                        "{warps} warps are no multiple of the {parts} that share their keys"
                    ));
                }
                warps /= parts;
                self.tile_n
            }
            // A pair of warps owns 32 keys, and nothing can be chosen.
            Pass::BackwardFused if (self.tile_m, self.tile_n, warps) == (64, 128, 8) => {
                return range("stages", self.stages, 2, 8);
            }
            Pass::BackwardFused => {
                let reason = "its tiles are bound to the layout of dQ's sums: 64 queries, 128 keys, 8 warps";
                return refuse(reason.to_owned());
            }
            _ => return Ok(()),
        };
        if !rows.is_multiple_of(16 * warps) {
            return refuse(format!("{warps} warps of 16 rows do not divide {rows} rows"));
        }
        range("stages", self.stages, 2, 8)
    }
}

/// Warps that own the same keys in the split backward, each with its part of the columns of dK and dV: as many as leave a warp
/// registers for it, and columns that are a power of two.
pub const fn column_parts(head_dim: u32) -> u32 {
    match head_dim {
        192 => 3,
        256 => 2,
        _ => 1,
    }
}

fn multiple(what: &'static str, value: u32, multiple: u32) -> Result<(), IllegalSchedule> {
    if value == 0 || !value.is_multiple_of(multiple) {
        return Err(IllegalSchedule::Multiple { what, value, multiple });
    }
    Ok(())
}

fn range(what: &'static str, value: u32, low: u32, high: u32) -> Result<(), IllegalSchedule> {
    if !(low..=high).contains(&value) {
        return Err(IllegalSchedule::Range { what, value, low, high });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
