//! Small matrices of halves that a warp holds in its registers, and their product.

use std::sync::OnceLock;

use half::f16;

use super::Fault;
use super::memory::SharedMemory;
use super::registers::{LANES, Registers, Words};
use crate::ptx::{MatrixMove, Operand, Type};

/// Halves of one type as floats.
#[derive(Clone, Copy, Debug)]
pub struct Halves(Type);

impl Halves {
    pub fn new(kind: Type) -> Self {
        Halves(kind)
    }

    pub fn to_f32(self, bits: u16) -> f32 {
        if self.0 == Type::Bf16 {
            return f32::from_bits(u32::from(bits) << 16);
        }
        static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
        let table = TABLE.get_or_init(|| (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect());
        table[usize::from(bits)]
    }

    /// Both halves of a word, the lower one first.
    pub fn pair(self, word: u32) -> [f32; 2] {
        [self.to_f32(word as u16), self.to_f32((word >> 16) as u16)]
    }
}

/// `ldmatrix` and `stmatrix`: lane `8 n + r` gives the address of row r of matrix n; lane l holds of each matrix the elements
/// (l / 4, 2 (l % 4)) and the next, or those of its transpose.
pub fn move_matrices(
    smem: &mut SharedMemory,
    registers: &mut Registers,
    direction: MatrixMove,
    fragments: &[Operand],
    addresses: &[u64; LANES],
) -> Result<(), Fault> {
    let warp = registers.identity.warp;
    for (n, &fragment) in fragments.iter().enumerate() {
        let rows = &addresses[8 * n..8 * n + 8];
        let mut matrix = [[0u16; 8]; 8];
        match direction {
            MatrixMove::Load { transposed } => {
                for (row, &address) in matrix.iter_mut().zip(rows) {
                    let bytes = smem.access(address, 16)?;
                    *row = std::array::from_fn(|c| u16::from_le_bytes([bytes[2 * c], bytes[2 * c + 1]]));
                }
                let at = |row: usize, column: usize| {
                    if transposed { matrix[column][row] } else { matrix[row][column] }
                };
                let words: Words = std::array::from_fn(|lane| {
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    u32::from(at(row, column)) | u32::from(at(row, column + 1)) << 16
                });
                registers.set_words(fragment, u32::MAX, &words);
            }
            MatrixMove::Store { transposed } => {
                for (lane, word) in registers.words(fragment).into_iter().enumerate() {
                    for (step, half) in [word as u16, (word >> 16) as u16].into_iter().enumerate() {
                        let (row, column) = (lane / 4, lane % 4 * 2 + step);
                        let (row, column) = if transposed { (column, row) } else { (row, column) };
                        matrix[row][column] = half;
                    }
                }
                for (row, &address) in matrix.iter().zip(rows) {
                    let bytes: [u8; 16] = std::array::from_fn(|n| row[n / 2].to_le_bytes()[n % 2]);
                    smem.store(address, &bytes, warp)?;
                }
            }
        }
    }
    Ok(())
}

/// The left operand of a product of 16 rows and 16 summed columns, from four registers.
pub fn left_operand(halves: Halves, fragments: [Words; 4]) -> [[f32; 16]; 16] {
    let mut a = [[0.0; 16]; 16];
    for (n, words) in fragments.iter().enumerate() {
        for (lane, &word) in words.iter().enumerate() {
            let (row, column) = (lane / 4 + n % 2 * 8, lane % 4 * 2 + n / 2 * 8);
            [a[row][column], a[row][column + 1]] = halves.pair(word);
        }
    }
    a
}

/// `mma.m16n8k16`: D = A B + C.
pub fn multiply(
    registers: &mut Registers,
    kind: Type,
    to: [Operand; 4],
    a: [Operand; 4],
    b: [Operand; 2],
    c: [Operand; 4],
) {
    let halves = Halves::new(kind);
    let a = left_operand(halves, a.map(|register| registers.words(register)));
    let mut right = [[0.0f32; 8]; 16];
    for (n, register) in b.into_iter().enumerate() {
        for (lane, word) in registers.words(register).into_iter().enumerate() {
            let (row, column) = (lane % 4 * 2 + n * 8, lane / 4);
            [right[row][column], right[row + 1][column]] = halves.pair(word);
        }
    }
    let mut sums = [[0.0f32; 8]; 16];
    for (sums, left) in sums.iter_mut().zip(&a) {
        for (x, row) in left.iter().zip(&right) {
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum += x * y;
            }
        }
    }
    for (n, (to, c)) in to.into_iter().zip(c).enumerate() {
        let mut words = registers.words(c);
        for (lane, word) in words.iter_mut().enumerate() {
            let sum = sums[lane / 4 + n / 2 * 8][lane % 4 * 2 + n % 2];
            *word = (f32::from_bits(*word) + sum).to_bits();
        }
        registers.set_words(to, u32::MAX, &words);
    }
}
