//! Residue classes of key blocks: the strided part of a mask.

/// `(floor(j / block) + step * g + offset) mod every == 0`, or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Residue {
    /// Keys per block.
    pub block: i64,
    /// One block in this many.
    pub every: i64,
    /// How far the class moves from one KV head to the next, in blocks.
    pub step: i64,
    /// Shift of the class, in blocks.
    pub offset: i64,
    /// Whether the blocks of the class are hidden and the others seen.
    pub negated: bool,
}

impl Residue {
    /// How far block `k` lies behind the last block of the class: 0 for a block of the class, else `1..every`.
    pub fn phase(&self, g: i64, k: i64) -> i64 {
        (k + self.step * g + self.offset).rem_euclid(self.every)
    }

    /// Whether key `j` satisfies the constraint under KV head `g`.
    pub fn holds(&self, g: i64, j: i64) -> bool {
        (self.phase(g, j.div_euclid(self.block)) == 0) != self.negated
    }

    /// The number of keys after which the class repeats.
    pub fn period(&self) -> i64 {
        self.block * self.every
    }

    /// The same class with the opposite verdict.
    pub fn negate(self) -> Residue {
        Residue { negated: !self.negated, ..self }
    }
}
