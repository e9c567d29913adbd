//! Tensor maps, as this driver writes them into their 128 bytes: rank 3, 16-bit elements, rows swizzled over 128 bytes.

use bytemuck::{Pod, Zeroable};

use super::Fault;
use super::memory::Memory;

/// What the copy engine must know of a tensor. Extents and boxes count elements, from the innermost dimension out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct TensorMap {
    magic: u64,
    pub address: u64,
    pub extents: [u64; 3],
    /// Bytes from an index to the next in the outer two dimensions.
    pub strides: [u64; 2],
    pub box_extents: [u32; 3],
    unused: u32,
    padding: [u64; 7],
}

const MAGIC: u64 = 0x6d61_7020_6f66_2033;
/// Bytes of an element.
const ELEMENT: usize = 2;

impl TensorMap {
    /// Bytes of a map.
    pub const BYTES: usize = size_of::<TensorMap>();

    pub fn new(address: u64, extents: [u64; 3], strides: [u64; 2], box_extents: [u32; 3]) -> Self {
        TensorMap { magic: MAGIC, address, extents, strides, box_extents, unused: 0, padding: [0; 7] }
    }

    /// Reads a map back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let map: TensorMap = bytemuck::pod_read_unaligned(bytes);
        if map.magic == MAGIC { Ok(map) } else { Err(Fault::new("a copy whose tensor map is none")) }
    }

    /// Bytes of a row of a box, and rows.
    pub fn box_size(&self) -> (usize, usize) {
        let [columns, middle, outer] = self.box_extents.map(|extent| extent as usize);
        (columns * ELEMENT, middle * outer)
    }

    /// The box that begins at these coordinates, row by row: zeros where it leaves the tensor.
    pub fn read_box(&self, memory: &mut Memory, coordinates: [i32; 3]) -> Result<Vec<u8>, Fault> {
        let (row_bytes, rows) = self.box_size();
        let mut found = vec![0; row_bytes * rows];
        let at = |axis: usize, step: usize| i64::from(coordinates[axis]) + step as i64;
        let inside = |axis: usize, index: i64| index >= 0 && (index as u64) < self.extents[axis];
        for (row, bytes) in found.chunks_exact_mut(row_bytes).enumerate() {
            let middle = self.box_extents[1] as usize;
            let (y, z) = (at(1, row % middle), at(2, row / middle));
            if !(inside(1, y) && inside(2, z)) {
                continue;
            }
            let start = self.address + y as u64 * self.strides[0] + z as u64 * self.strides[1];
            for (column, element) in bytes.chunks_exact_mut(ELEMENT).enumerate() {
                let x = at(0, column);
                if inside(0, x) {
                    element.copy_from_slice(memory.slice(start + x as u64 * ELEMENT as u64, ELEMENT)?);
                }
            }
        }
        Ok(found)
    }
}

/// Where the 128-byte swizzle puts a byte of shared memory.
pub fn swizzle(address: u64) -> u64 {
    address ^ (address >> 7 & 7) << 4
}
