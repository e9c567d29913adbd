//! The registers of a warp: of each, a value for every lane.

use crate::ptx::{Operand, Special};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// A value of 32 bits for each lane.
pub type Words = [u32; LANES];
/// A value of 64 bits for each lane.
pub type Wides = [u64; LANES];

/// What the hardware knows of a warp's lanes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Number of the warp in its block.
    pub warp: u32,
    pub block_threads: u32,
    pub block: [u32; 3],
    pub grid: [u32; 3],
}

/// All registers of a warp.
#[derive(Debug)]
pub struct Registers {
    pub identity: Identity,
    words: Vec<Words>,
    /// A bit for each lane.
    predicates: Vec<u32>,
}

impl Registers {
    /// Registers that hold what no program wrote.
    pub fn new(identity: Identity, words: u32, predicates: u32) -> Self {
        let words = vec![[0xdead_beef; LANES]; words as usize];
        Registers { identity, words, predicates: vec![0; predicates as usize] }
    }

    /// Values of up to 32 bits.
    pub fn words(&self, operand: Operand) -> Words {
        match operand {
            Operand::Word(index) | Operand::Wide(index) => self.words[index as usize],
            Operand::Constant(value) => [value as u32; LANES],
            Operand::Predicate(index) => {
                std::array::from_fn(|lane| self.predicates[index as usize] >> lane & 1)
            }
            Operand::Special(special) => self.special(special),
            Operand::Nowhere => [0; LANES],
        }
    }

    /// Values of 64 bits; shorter registers are filled with zeros.
    pub fn wides(&self, operand: Operand) -> Wides {
        match operand {
            Operand::Wide(index) => {
                let (low, high) = (&self.words[index as usize], &self.words[index as usize + 1]);
                std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32)
            }
            Operand::Constant(value) => [value; LANES],
            _ => self.words(operand).map(u64::from),
        }
    }

    /// The lanes for which a predicate holds.
    pub fn predicate(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Predicate(index) => self.predicates[index as usize],
            Operand::Constant(0) => 0,
            _ => u32::MAX,
        }
    }

    /// Writes the lanes of `mask`.
    pub fn set_words(&mut self, operand: Operand, mask: u32, values: &Words) {
        let Operand::Word(index) = operand else { return };
        let register = &mut self.words[index as usize];
        if mask == u32::MAX {
            *register = *values;
        } else {
            for lane in lanes(mask) {
                register[lane] = values[lane];
            }
        }
    }

    /// Writes the lanes of `mask`.
    pub fn set_wides(&mut self, operand: Operand, mask: u32, values: &Wides) {
        let Operand::Wide(index) = operand else { return };
        for lane in lanes(mask) {
            self.words[index as usize][lane] = values[lane] as u32;
            self.words[index as usize + 1][lane] = (values[lane] >> 32) as u32;
        }
    }

    /// Writes one lane of a register of either size.
    pub fn set_lane(&mut self, operand: Operand, lane: usize, value: u64) {
        match operand {
            Operand::Word(index) => self.words[index as usize][lane] = value as u32,
            Operand::Wide(index) => {
                self.words[index as usize][lane] = value as u32;
                self.words[index as usize + 1][lane] = (value >> 32) as u32;
            }
            _ => {}
        }
    }

    /// Writes the lanes of `mask` from the bits of `values`.
    pub fn set_predicate(&mut self, operand: Operand, mask: u32, values: u32) {
        if let Operand::Predicate(index) = operand {
            let register = &mut self.predicates[index as usize];
            *register = *register & !mask | values & mask;
        }
    }

    fn special(&self, special: Special) -> Words {
        let Identity { warp, block_threads, block, grid } = self.identity;
        match special {
            Special::ThreadX => std::array::from_fn(|lane| warp * LANES as u32 + lane as u32),
            Special::Lane => std::array::from_fn(|lane| lane as u32),
            Special::Warp => [warp; LANES],
            Special::BlockThreads => [block_threads; LANES],
            Special::Block(axis) => [block[axis]; LANES],
            Special::Grid(axis) => [grid[axis]; LANES],
            Special::Zero | Special::Clock => [0; LANES],
            Special::One => [1; LANES],
        }
    }
}

/// The lanes of a mask, ascending.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}
