//! Memory of the device: allocations that know their ends, and the shared memory of a block.

use super::Fault;
use crate::ptx::STATIC_SMEM_BASE;

/// What memory holds that nobody has written: a NaN in every type of floats.
pub const POISON: u8 = 0xff;

/// One allocation.
#[derive(Debug)]
struct Area {
    start: u64,
    bytes: Vec<u8>,
}

/// Allocations by address. An access must lie in one of them, and be aligned to its size.
#[derive(Debug, Default)]
pub struct Memory {
    areas: Vec<Area>,
    /// The area of the last access: the next is likely there, too.
    last: usize,
    next: u64,
}

impl Memory {
    /// Space between allocations, so that no access past the end of one lands in the next.
    const GAP: u64 = 1 << 20;

    /// A new allocation; its address, which no allocation had before.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        let start = self.next + Memory::GAP;
        self.next = (start + bytes as u64).next_multiple_of(Memory::GAP);
        self.put(start, vec![POISON; bytes]);
        start
    }

    /// Memory with contents, at an address of the caller's, past all others.
    pub fn put(&mut self, start: u64, bytes: Vec<u8>) {
        let place = self.areas.partition_point(|area| area.start < start);
        self.areas.insert(place, Area { start, bytes });
    }

    /// Frees an allocation. False if there is none at the address.
    pub fn free(&mut self, start: u64) -> bool {
        let found = self.areas.binary_search_by_key(&start, |area| area.start);
        self.last = 0;
        found.map(|index| self.areas.remove(index)).is_ok()
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> usize {
        self.areas.iter().map(|area| area.bytes.len()).sum()
    }

    /// `bytes` bytes from `address` on.
    ///
    /// # Errors
    /// [`Fault`] when they are not inside an allocation.
    pub fn slice(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], Fault> {
        let inside = |area: &Area| address >= area.start && address - area.start <= area.bytes.len() as u64;
        if !self.areas.get(self.last).is_some_and(inside) {
            let next = self.areas.partition_point(|area| area.start <= address);
            self.last = next.saturating_sub(1);
        }
        let near = |area: &Area| {
            address >= area.start && address - area.start < area.bytes.len() as u64 + Memory::GAP
        };
        let Some(area) = self.areas.get_mut(self.last).filter(|area| near(area)) else {
            return Err(Fault::new(format!("{bytes} bytes at {address:#x}, where nothing is allocated")));
        };
        let (offset, size) = ((address - area.start) as usize, area.bytes.len());
        area.bytes.get_mut(offset..offset + bytes).ok_or_else(|| {
            Fault::new(format!(
                "{bytes} bytes at {address:#x}, byte {offset} of an allocation of {size} bytes"
            ))
        })
    }

    /// The same for an access by a kernel, whose address must be a multiple of its size.
    pub fn access(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], Fault> {
        aligned(address, bytes)?;
        self.slice(address, bytes)
    }
}

/// Shared memory of a block: the dynamic part from 0, the static one from [`STATIC_SMEM_BASE`] on.
#[derive(Debug)]
pub struct SharedMemory {
    dynamic: Vec<u8>,
    fixed: Vec<u8>,
    /// For each 16 bytes of dynamic memory: the warps (a bit each) that stored what is there and of which none has passed
    /// `fence.proxy.async` since. The copy engine and the tensor cores may not see it yet.
    unfenced: Vec<u32>,
}

impl SharedMemory {
    /// Shared memory of these sizes in bytes.
    pub fn new(dynamic: u32, fixed: u32) -> Self {
        SharedMemory {
            dynamic: vec![POISON; dynamic as usize],
            fixed: vec![POISON; fixed as usize],
            unfenced: vec![0; dynamic as usize / GRANULE + 1],
        }
    }

    /// Bytes for a plain access, whose address must be a multiple of its size.
    pub fn access(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], Fault> {
        aligned(address, bytes)?;
        self.slice(address, bytes)
    }

    /// A plain store by a warp. A store of what is there already changes nothing that the asynchronous proxy could miss; if that
    /// is not fenced yet, a fence of either warp will do.
    pub fn store(&mut self, address: u64, values: &[u8], warp: u32) -> Result<(), Fault> {
        let target = self.access(address, values.len())?;
        let changes = target != values;
        target.copy_from_slice(values);
        if let Some(mark) = self.unfenced.get_mut(address as usize / GRANULE)
            && (changes || *mark != 0)
        {
            *mark = if changes { 0 } else { *mark } | 1 << warp;
        }
        Ok(())
    }

    /// Bytes anywhere.
    pub fn slice(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], Fault> {
        let (part, offset, name) = match address.checked_sub(u64::from(STATIC_SMEM_BASE)) {
            Some(offset) => (&mut self.fixed, offset as usize, "static"),
            None => (&mut self.dynamic, address as usize, "dynamic"),
        };
        let size = part.len();
        part.get_mut(offset..offset + bytes).ok_or_else(|| {
            Fault::new(format!("{bytes} bytes at {offset} of {size} bytes of {name} shared memory"))
        })
    }

    /// 16 bytes that the copy engine or the tensor cores read.
    pub fn read_by_proxy(&mut self, address: u64) -> Result<[u8; GRANULE], Fault> {
        if let Some(&mark) = self.unfenced.get(address as usize / GRANULE)
            && mark != 0
        {
            let warp = mark.trailing_zeros();
            return Err(Fault::new(format!(
                "shared memory at {address} is read by the asynchronous proxy, but warp {warp} wrote it and then did not pass \
                 fence.proxy.async"
            )));
        }
        let found = self.slice(address, GRANULE)?;
        Ok(std::array::from_fn(|n| found[n]))
    }

    /// `bytes` bytes, a multiple of 16, that the copy engine writes.
    pub fn write_by_proxy(&mut self, address: u64, values: &[u8]) -> Result<(), Fault> {
        self.slice(address, values.len())?.copy_from_slice(values);
        let first = address as usize / GRANULE;
        let last = first + values.len().div_ceil(GRANULE);
        if let Some(marks) = self.unfenced.get_mut(first..last) {
            marks.fill(0);
        }
        Ok(())
    }

    /// The plain stores of this warp are before what the copy engine and the tensor cores do from now on.
    pub fn fence(&mut self, warp: u32) {
        for mark in self.unfenced.iter_mut().filter(|mark| **mark >> warp & 1 == 1) {
            *mark = 0;
        }
    }
}

/// Bytes that the marks of unfenced stores tell apart.
pub const GRANULE: usize = 16;

fn aligned(address: u64, bytes: usize) -> Result<(), Fault> {
    if address.is_multiple_of(bytes as u64) {
        Ok(())
    } else {
        Err(Fault::new(format!("{bytes} bytes at {address:#x}, which is no multiple of {bytes}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_inside_one_allocation() {
        let mut memory = Memory::default();
        let (a, b) = (memory.allocate(32), memory.allocate(0));
        memory.access(a + 16, 16).unwrap().fill(7);
        assert_eq!(memory.slice(a, 32).unwrap()[15..17], [POISON, 7]);
        for (address, bytes) in [(a + 32, 1), (a + 24, 16), (a - 1, 1), (b, 1), (0, 4)] {
            assert!(memory.slice(address, bytes).is_err(), "{address:#x}");
        }
        assert!(memory.access(a + 4, 8).is_err(), "misaligned");
        assert!(memory.free(a) && !memory.free(a));
        assert!(memory.slice(a, 1).is_err(), "freed");
    }

    #[test]
    fn plain_stores_need_a_fence_of_their_warp() {
        let mut smem = SharedMemory::new(64, 16);
        smem.store(16, &[POISON; 4], 3).unwrap();
        assert!(smem.read_by_proxy(16).is_ok(), "nothing changed");
        smem.store(16, &[1; 4], 3).unwrap();
        assert!(smem.read_by_proxy(0).is_ok());
        smem.fence(2);
        assert!(smem.read_by_proxy(16).unwrap_err().to_string().contains("warp 3"));
        smem.fence(3);
        assert!(smem.read_by_proxy(16).is_ok());
        smem.store(16, &[2; 4], 3).unwrap();
        smem.store(16, &[2; 4], 4).unwrap();
        smem.fence(4);
        assert!(smem.read_by_proxy(16).is_ok(), "the same by another, and fenced");
        assert!(smem.access(u64::from(STATIC_SMEM_BASE) + 8, 8).is_ok());
        assert!(smem.access(64, 4).is_err());
    }
}
