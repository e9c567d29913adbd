//! The layout of the KV cache: which slot holds key `j` of KV head `g`, sized by what the analysis proves.
//!
//! Three regions, in this order: the first keys (sinks), the strided blocks, and a ring of recent keys. A key lies in
//! the first region that takes it. Masks with any other structure keep every key, slot `j` for key `j`.

use super::Liveness;
use crate::ir::{Bound, MaskIr, Residue, Term};

/// The blocks of one residue class, kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrideRegion {
    /// The class.
    pub residue: Residue,
}

/// Where the keys of one KV head live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvLayout {
    /// Slot `j` for key `j`: nothing can be freed.
    Dense,
    /// Sinks, strided blocks, ring.
    Compact {
        /// The first keys, kept for ever.
        sink: u64,
        /// Strided blocks, kept for ever.
        stride: Option<StrideRegion>,
        /// Slots for the most recent keys.
        ring: u64,
    },
}

impl KvLayout {
    /// The layout of KV head `g`. Dense unless the mask is monotone and made of sinks, windows and one stride.
    pub fn new(ir: &MaskIr, g: u32) -> KvLayout {
        let live = Liveness::new(ir, g);
        if !live.monotone() {
            return KvLayout::Dense;
        }
        let (mut sink, mut stride, mut windowed) = (0u64, None, false);
        for term in ir.terms(g) {
            match region(term) {
                Some(Region::Sink(tokens)) => sink = sink.max(tokens),
                Some(Region::Stride(residue))
                    if stride.is_none_or(|r: StrideRegion| r.residue == residue) =>
                {
                    stride = Some(StrideRegion { residue });
                }
                Some(Region::Window) => windowed = true,
                _ => return KvLayout::Dense,
            }
        }
        KvLayout::Compact { sink, stride, ring: if windowed { live.longest_life() } else { 0 } }
    }

    /// Whether heads of this layout may keep different keys: those of a stride may.
    pub fn depends_on_head(&self) -> bool {
        matches!(self, KvLayout::Compact { stride: Some(_), .. })
    }

    /// Slots needed to hold `max_tokens` tokens. `chunk` is the most queries that are processed at once: a ring
    /// must still hold the window of the first while the last is written (1 for token-by-token decoding).
    pub fn slots(&self, g: u32, max_tokens: u64, chunk: u64) -> u64 {
        match *self {
            KvLayout::Dense => max_tokens,
            KvLayout::Compact { sink, stride, .. } => {
                let sink = sink.min(max_tokens);
                let strided = stride.map_or(0, |s| s.rank(g, max_tokens) - s.rank(g, sink));
                (sink + strided + self.ring(max_tokens, chunk)).min(max_tokens)
            }
        }
    }

    /// The slot of key `j` in a cache for `max_tokens` tokens, or `None` for a key no query sees again.
    ///
    /// A ring slot is reused: key `j` owns it until key `j + ring` is written.
    pub fn slot(&self, g: u32, j: u64, max_tokens: u64, chunk: u64) -> Option<u64> {
        let KvLayout::Compact { sink, stride, .. } = *self else { return Some(j) };
        if self.slots(g, max_tokens, chunk) == max_tokens {
            // Compact regions would not be smaller than the sequence: keep every key.
            return Some(j);
        }
        let sink = sink.min(max_tokens);
        if j < sink {
            return Some(j);
        }
        let strided = stride.map_or(0, |s| s.rank(g, max_tokens) - s.rank(g, sink));
        if let Some(s) = stride
            && s.residue.holds(g.into(), j as i64)
        {
            return Some(sink + s.rank(g, j) - s.rank(g, sink));
        }
        let ring = self.ring(max_tokens, chunk);
        if ring == 0 { None } else { Some(sink + strided + j % ring) }
    }

    fn ring(&self, max_tokens: u64, chunk: u64) -> u64 {
        match *self {
            KvLayout::Compact { ring, .. } if ring > 0 => (ring + chunk.max(1) - 1).min(max_tokens),
            _ => 0,
        }
    }
}

impl StrideRegion {
    /// Number of keys of the class below `j`.
    fn rank(&self, g: u32, j: u64) -> u64 {
        let r = &self.residue;
        let (block, every) = (r.block.unsigned_abs(), r.every.unsigned_abs());
        let first = (every - r.phase(g.into(), 0).unsigned_abs()) % every;
        let whole = j / block;
        let blocks = if whole > first { (whole - first).div_ceil(every) } else { 0 };
        let partial = if r.phase(g.into(), whole as i64) == 0 { j % block } else { 0 };
        blocks * block + partial
    }
}

enum Region {
    Sink(u64),
    Stride(Residue),
    Window,
}

/// The region that holds the keys of a term, if it is one of the three shapes.
fn region(term: &Term) -> Option<Region> {
    let causal = |b: &Bound| *b == Bound::CAUSAL;
    match (term.lower.as_slice(), term.residues.as_slice()) {
        ([], []) => match term.upper.iter().find(|b| !causal(b)) {
            Some(Bound::Const(tokens)) if term.upper.len() == 2 => Some(Region::Sink(tokens.unsigned_abs())),
            _ => None,
        },
        ([], [residue]) if !residue.negated && term.upper.iter().all(causal) => {
            Some(Region::Stride(*residue))
        }
        ([Bound::Step { .. }, ..], _) => {
            let sliding = term.lower.iter().all(|b| matches!(b, Bound::Step { .. }));
            sliding.then_some(Region::Window)
        }
        _ => None,
    }
}
