//! Products of a warpgroup, of which each warp computes its own 16 rows.

use super::Fault;
use super::matrices::{Halves, left_operand};
use super::memory::{GRANULE, SharedMemory};
use super::registers::{Registers, Words};
use super::tensor_map::swizzle;
use crate::ptx::{Operand, Type, WgmmaA};

/// A product that was issued. Where its operands are is read at the issue, what is in them when it is computed.
#[derive(Clone, Debug)]
pub struct Product {
    kind: Type,
    columns: usize,
    sums: Vec<Operand>,
    a: Left,
    b: Tile,
    adds: bool,
}

#[derive(Clone, Debug)]
enum Left {
    Registers([Operand; 4]),
    Shared(Tile),
}

/// An operand in shared memory. `k` counts summed elements, `x` rows of A or columns of B.
#[derive(Clone, Copy, Debug)]
struct Tile {
    start: u64,
    /// Bytes from a panel of 64 elements to the next, where x runs along the rows.
    panel: u64,
    /// Bytes from eight rows to the next eight.
    group: u64,
    /// x runs along the rows of 128 bytes; else k does.
    transposed: bool,
}

/// Summed elements of an instruction.
const DEPTH: usize = 16;

impl Product {
    /// What an instruction of a warp that is together stands for.
    pub fn issue(
        registers: &Registers,
        (kind, columns): (Type, u32),
        sums: &[Operand],
        a: &WgmmaA,
        (b, b_transposed): (Operand, bool),
        adds: Operand,
    ) -> Result<Self, Fault> {
        let tile =
            |descriptor: Operand, transposed: bool| Tile::new(registers.wides(descriptor)[0], transposed);
        let a = match a {
            WgmmaA::Registers(registers) => Left::Registers(*registers),
            WgmmaA::Shared { descriptor, transposed } => Left::Shared(tile(*descriptor, *transposed)?),
        };
        let adds = registers.predicate(adds) != 0;
        Ok(Product {
            kind,
            columns: columns as usize,
            sums: sums.to_vec(),
            a,
            b: tile(b, b_transposed)?,
            adds,
        })
    }

    /// Computes this warp's rows.
    pub fn compute(&self, registers: &mut Registers, smem: &mut SharedMemory) -> Result<(), Fault> {
        let halves = Halves::new(self.kind);
        let a = match &self.a {
            Left::Registers(fragments) => {
                left_operand(halves, fragments.map(|register| registers.words(register)))
            }
            Left::Shared(tile) => {
                let first = registers.identity.warp as usize % 4 * 16;
                let mut a = [[0.0; DEPTH]; 16];
                tile.read(smem, first, 16, |x, k, half| a[x][k] = halves.to_f32(half))?;
                a
            }
        };
        let mut b = vec![0.0; DEPTH * self.columns];
        let columns = self.columns;
        self.b.read(smem, 0, columns, |x, k, half| b[k * columns + x] = halves.to_f32(half))?;
        let mut result = vec![0.0f32; 16 * columns];
        for (sums, left) in result.chunks_exact_mut(columns).zip(&a) {
            for (x, row) in left.iter().zip(b.chunks_exact(columns)) {
                for (sum, y) in sums.iter_mut().zip(row) {
                    *sum += x * y;
                }
            }
        }
        for (n, &register) in self.sums.iter().enumerate() {
            let before: Words = if self.adds { registers.words(register) } else { [0; 32] };
            let after: Words = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4 + n % 4 / 2 * 8, n / 4 * 8 + lane % 4 * 2 + n % 2);
                (f32::from_bits(before[lane]) + result[row * columns + column]).to_bits()
            });
            registers.set_words(register, u32::MAX, &after);
        }
        Ok(())
    }
}

impl Tile {
    fn new(descriptor: u64, transposed: bool) -> Result<Self, Fault> {
        let field = |shift: u32| (descriptor >> shift & 0x3fff) << 4;
        // Bits 62 and 63: 1 is the swizzle over 128 bytes. Bits 49 to 51: where the pattern of the swizzle begins.
        if descriptor >> 62 != 1 || descriptor >> 49 & 7 != 0 {
            return Err(Fault::new(format!(
                "a matrix descriptor of a kind that is not known here: {descriptor:#x}"
            )));
        }
        Ok(Tile { start: field(0), panel: field(16), group: field(32), transposed })
    }

    /// Calls `put(x - first, k, half)` for `count` values of x from `first` on, and all k.
    fn read(
        &self,
        smem: &mut SharedMemory,
        first: usize,
        count: usize,
        mut put: impl FnMut(usize, usize, u16),
    ) -> Result<(), Fault> {
        let per_chunk = GRANULE / 2;
        let (outer, inner) = if self.transposed { (DEPTH, count) } else { (count, DEPTH) };
        for line in 0..outer {
            for chunk in 0..inner / per_chunk {
                let place = if self.transposed {
                    let x = first + chunk * per_chunk;
                    (x / 64) as u64 * self.panel + self.row(line) + (x % 64 * 2) as u64
                } else {
                    self.row(first + line) + (chunk * GRANULE) as u64
                };
                let bytes = smem.read_by_proxy(swizzle(self.start + place))?;
                for n in 0..per_chunk {
                    let half = u16::from_le_bytes([bytes[2 * n], bytes[2 * n + 1]]);
                    let along = chunk * per_chunk + n;
                    if self.transposed { put(along, line, half) } else { put(line, along, half) }
                }
            }
        }
        Ok(())
    }

    fn row(&self, row: usize) -> u64 {
        (row / 8) as u64 * self.group + (row % 8 * 128) as u64
    }
}
