//! The model of the CPU kernels: what their tiles walk under a pattern, and what a core takes for it.
//!
//! Products are counted in clocks from the register blocks that the micro-kernels are made of: a block of `R` rows by `N`
//! vectors needs `R N` multiply-adds, `R + N` loads and at least the latency of one multiply-add for each step of depth. What
//! surrounds them (softmax, masks, transposes, calls) has a cost per element, fitted once on a Sapphire Rapids core.

mod space;
mod walk;

pub use space::{candidates, first_choice};

use super::workload::{PassGroup, Workload, samples};
use crate::cpu::Blocking;
use crate::cpu::abi::STRIP;
use walk::{Side, Walked};

/// A machine, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuMachine {
    /// Worker threads.
    pub threads: u32,
    /// The vectors of the micro-kernels.
    pub vectors: Vectors,
    /// Clock rate.
    pub hertz: f64,
}

/// Vector registers and the register blocks that suit them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// 16 lanes: one block over all strips of a tile.
    Wide,
    /// 8 lanes: a block for each strip of 16.
    Middle,
    /// 4 lanes: a block for each half of a strip, or for a strip.
    Narrow,
}

/// The expected time and where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuEstimate {
    /// Expected time.
    pub seconds: f64,
    /// Its floor: the multiply-adds of visible pairs at the peak rate of all threads.
    pub floor_seconds: f64,
    /// Tiles of lanes.
    pub tiles: f64,
    /// Score tiles: steps of the walks.
    pub steps: f64,
    /// Pairs computed.
    pub pairs: f64,
    /// Pairs in tiles that need a mask.
    pub masked_pairs: f64,
}

/// Clocks for what is not a product.
struct Costs {
    /// Online softmax, per 16 scores.
    softmax: f64,
    /// Scores to gradients, per 16 pairs.
    gradient: f64,
    /// Mask, per 16 pairs.
    mask: f64,
    /// Accumulator to registers and back, per 16 elements of a step.
    update: f64,
    /// Transposes of a tile's own rows, per element.
    transpose: f64,
    /// Row into a buffer, per 16 elements.
    gather: f64,
    /// Bookkeeping of a run and of a step.
    step: f64,
    run: f64,
}

const COSTS: Costs = Costs {
    softmax: 16.0,
    gradient: 18.0,
    mask: 30.0,
    update: 2.0,
    transpose: 2.0,
    gather: 3.0,
    step: 120.0,
    run: 40.0,
};
/// Rows that lie far apart cost their products this much more than rows that follow each other.
const SCATTERED: f64 = 1.25;
/// Distance between rows from which on that shows: they no longer share pages.
const FAR_BYTES: u32 = 8 << 10;
/// Measured time of the products over the clocks counted, by strips of lanes: narrow blocks load more for each multiply-add.
const BY_STRIPS: [f64; 4] = [1.7, 1.24, 1.05, 1.0];
/// The same for the backward, whose products share more of what they load.
const BY_STRIPS_BACKWARD: [f64; 4] = [1.5, 1.1, 1.02, 1.0];
/// Score tiles beyond this share the first-level cache with too much else.
const SCORES_BYTES: f64 = 16384.0;
/// What the products lose for each further such tile.
const CROWDED: f64 = 0.06;

impl CpuMachine {
    /// Multiply-adds of f32 in a clock of one thread.
    fn multiply_adds_per_clock(&self) -> f64 {
        match self.vectors {
            Vectors::Wide => 32.0,
            Vectors::Middle => 16.0,
            Vectors::Narrow => 8.0,
        }
    }

    /// Clocks of a product of `rows` rows and `depth` steps over `strips` strips of 16 lanes.
    fn product(&self, rows: f64, depth: f64, strips: u32, side: Side) -> f64 {
        let (block, vectors, passes) = match (self.vectors, strips) {
            (Vectors::Wide, 4) => (6, 4, 1.0),
            (Vectors::Wide, 3) => (8, 3, 1.0),
            (Vectors::Wide, strips) => (12, strips, 1.0),
            (Vectors::Middle, strips) => (6, 2, f64::from(strips)),
            (Vectors::Narrow, strips) => (4, 2, 2.0 * f64::from(strips)),
        };
        let clocks = |rows: u32| {
            let (rows, vectors) = (f64::from(rows), f64::from(vectors));
            (rows * vectors / 2.0).max((rows + vectors) / 2.0).max(4.0)
        };
        let whole = rows as u32;
        let (fours, twos) = (whole % block / 4, whole % block % 4 / 2);
        let a_step = f64::from(whole / block) * clocks(block)
            + f64::from(fours) * clocks(4)
            + f64::from(twos) * clocks(2)
            + f64::from(whole % 2) * clocks(1);
        let by_strips = if side == Side::Forward { BY_STRIPS } else { BY_STRIPS_BACKWARD };
        depth * a_step * passes * by_strips[strips.clamp(1, 4) as usize - 1]
    }

    /// Clocks of what one tile of lanes walks.
    fn walk_clocks(&self, work: &Work, walked: &Walked) -> f64 {
        let d = f64::from(work.head_dim);
        let strips = work.blocking.lanes.div_ceil(STRIP as u32);
        let lanes = f64::from(strips) * STRIP as f64;
        let mut clocks = walked.runs as f64 * COSTS.run;
        for step in &walked.steps {
            let (rows, times) = (f64::from(step.rows), step.times);
            let by_rows = self.product(rows, d, strips, work.side);
            let by_columns = self.product(d, rows, strips, work.side);
            let update = d * lanes / 16.0 * COSTS.update;
            let scores = rows * lanes / 16.0;
            let one = match work.side {
                Side::Forward => by_rows + by_columns + update + scores * COSTS.softmax,
                Side::DQuery => 2.0 * by_rows + by_columns + update + scores * COSTS.gradient,
                Side::DKeyValue => 2.0 * (by_rows + by_columns + update) + scores * COSTS.gradient,
            };
            let masked = if step.masked { scores * COSTS.mask } else { 0.0 };
            let gathers = if work.widened { step.rows } else { step.gathered };
            let gathered = f64::from(gathers) * d * 2.0 / 16.0 * COSTS.gather;
            let scattered = if work.scattered && step.gathered == 0 { SCATTERED } else { 1.0 };
            let crowded = 1.0 + CROWDED * (rows * lanes * 4.0 / SCORES_BYTES - 1.0).max(0.0);
            clocks += times * (one * scattered * crowded + masked + gathered + COSTS.step);
        }
        let own = match work.side {
            Side::Forward => 2.0,
            Side::DQuery | Side::DKeyValue => 4.0,
        };
        clocks + own * d * lanes * COSTS.transpose
    }

    /// What a pass takes with a blocking.
    pub fn estimate(&self, workload: &Workload<'_>, blocking: Blocking) -> CpuEstimate {
        let sides: &[Side] = match workload.pass {
            PassGroup::Forward | PassGroup::Decode => &[Side::Forward],
            PassGroup::Backward => &[Side::DQuery, Side::DKeyValue],
        };
        let mut estimate = CpuEstimate::default();
        let mut clocks = 0.0;
        for &side in sides {
            clocks += self.side_clocks(workload, blocking, side, &mut estimate);
        }
        let d = f64::from(workload.head_dim);
        estimate.seconds = clocks / self.hertz / f64::from(self.threads);
        let products = if workload.pass == PassGroup::Backward { 5.0 } else { 2.0 };
        let peak = self.multiply_adds_per_clock() * self.hertz * f64::from(self.threads);
        estimate.floor_seconds = estimate.floor_seconds * products * d / peak;
        estimate
    }

    /// Adds up one kernel; `floor_seconds` collects visible pairs until the end.
    fn side_clocks(
        &self,
        workload: &Workload<'_>,
        blocking: Blocking,
        side: Side,
        estimate: &mut CpuEstimate,
    ) -> f64 {
        /// Tiles looked at, of each head.
        const SAMPLES: u32 = 12;
        let batch = f64::from(workload.batch);
        let shape = walk::shape(workload, blocking, side);
        let mut clocks = 0.0;
        for (g, heads) in workload.sampled_heads() {
            let (tiles, each) = samples(shape.tiles, SAMPLES);
            let mut copies = false;
            let times = heads * each * batch * f64::from(shape.tiles_per_group);
            for tile in tiles {
                let walked = walk::walk(workload, blocking, side, g, tile);
                let uses = walked.rows() * f64::from(shape.tiles) / f64::from(workload.keys.max(1));
                let copied = !is_compact(workload) && uses >= f64::from(blocking.copy_uses);
                // 16-bit rows that are not copied are widened each time they are read.
                let widened = workload.element_bytes < 4 && !copied;
                let row_bytes = workload.kv_heads * workload.head_dim * workload.element_bytes;
                let scattered = row_bytes >= FAR_BYTES && !copied;
                copies |= copied;
                let work = Work { head_dim: workload.head_dim, blocking, side, scattered, widened };
                clocks += times * self.walk_clocks(&work, &walked);
                let lanes = f64::from(shape.lanes);
                estimate.tiles += times;
                estimate.steps += times * walked.steps.iter().map(|step| step.times).sum::<f64>();
                estimate.pairs += times * lanes * walked.rows();
                estimate.masked_pairs += times * lanes * walked.masked_rows();
                if side != Side::DKeyValue {
                    estimate.floor_seconds += times * walked.visible_pairs * f64::from(shape.heads);
                }
            }
            if copies {
                let elements = f64::from(workload.keys) * f64::from(workload.head_dim) * 2.0;
                clocks += heads * batch * elements / 16.0 * COSTS.gather * 2.0;
            }
        }
        clocks
    }
}

/// What one tile of lanes is computed with.
struct Work {
    head_dim: u32,
    blocking: Blocking,
    side: Side,
    scattered: bool,
    widened: bool,
}

/// Whether the rows of a head follow each other in f32 already.
fn is_compact(workload: &Workload<'_>) -> bool {
    workload.kv_heads <= 1 && workload.element_bytes == 4
}
