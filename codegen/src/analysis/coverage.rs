//! Which strided blocks the heads of a layer reach together.

use crate::ir::{MaskIr, Residue};

/// How many residues of a stride at least one KV head sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrideCoverage {
    /// The stride, in blocks.
    pub every: u64,
    /// Keys per block.
    pub block: u64,
    /// Residues that some head sees.
    pub reached: u64,
}

/// The union coverage of each stride of the mask over `kv_heads` heads. Anything below `every` leaves blocks that
/// no head of the layer can see past its window.
pub fn stride_coverage(ir: &MaskIr, kv_heads: u32) -> Vec<StrideCoverage> {
    let mut strides: Vec<(i64, i64)> = Vec::new();
    let mut reached: Vec<Vec<i64>> = Vec::new();
    for g in 0..kv_heads {
        let residues = ir.terms(g).iter().flat_map(|term| &term.residues).filter(|r| !r.negated);
        for residue in residues {
            let key = (residue.every, residue.block);
            let at = strides.iter().position(|k| *k == key).unwrap_or_else(|| {
                strides.push(key);
                reached.push(Vec::new());
                strides.len() - 1
            });
            let first = first_block(residue, g);
            if !reached[at].contains(&first) {
                reached[at].push(first);
            }
        }
    }
    strides
        .iter()
        .zip(&reached)
        .map(|(&(every, block), blocks)| StrideCoverage {
            every: every.unsigned_abs(),
            block: block.unsigned_abs(),
            reached: blocks.len() as u64,
        })
        .collect()
}

fn first_block(residue: &Residue, g: u32) -> i64 {
    (residue.every - residue.phase(g.into(), 0)) % residue.every
}
