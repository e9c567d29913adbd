//! Copies that take place some time between their issue and the wait for them.

use super::Fault;
use super::barriers::Barriers;
use super::memory::{GRANULE, Memory, POISON, SharedMemory};
use super::registers::{LANES, lanes};
use super::tensor_map::{TensorMap, swizzle};

/// A copy of one lane from global to shared memory (`cp.async`).
#[derive(Clone, Copy, Debug)]
pub struct LaneCopy {
    pub to: u64,
    pub from: u64,
    pub bytes: usize,
    /// Bytes that are read; zeros follow.
    pub valid: usize,
}

/// The copies of a warp's lanes that have not taken place, and the group that each lane is filling.
#[derive(Debug, Default)]
pub struct LaneCopies {
    pending: Vec<(usize, u64, LaneCopy)>,
    group: [u64; LANES],
}

impl LaneCopies {
    /// Issues a copy. If it is not `late`, it takes place at once.
    pub fn issue(
        &mut self,
        (smem, memory): (&mut SharedMemory, &mut Memory),
        (lane, warp): (usize, u32),
        copy: LaneCopy,
        late: bool,
    ) -> Result<(), Fault> {
        if late {
            // What arrives later overwrites what is there now: nobody may count on it from here on.
            smem.store(copy.to, &[POISON; 16][..copy.bytes], warp)?;
            self.pending.push((lane, self.group[lane], copy));
            return Ok(());
        }
        perform(smem, memory, warp, copy)
    }

    /// Closes the groups of these lanes.
    pub fn commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.group[lane] += 1;
        }
    }

    /// Completes all but the last `kept` groups of these lanes.
    pub fn wait(
        &mut self,
        (smem, memory): (&mut SharedMemory, &mut Memory),
        warp: u32,
        mask: u32,
        kept: u64,
    ) -> Result<(), Fault> {
        let group = self.group;
        let due = |lane: usize, of: u64| mask >> lane & 1 == 1 && of + kept < group[lane];
        let mut result = Ok(());
        self.pending.retain(|&(lane, of, copy)| {
            let now = due(lane, of);
            if now && result.is_ok() {
                result = perform(smem, memory, warp, copy);
            }
            !now
        });
        result
    }
}

fn perform(smem: &mut SharedMemory, memory: &mut Memory, warp: u32, copy: LaneCopy) -> Result<(), Fault> {
    let LaneCopy { to, from, bytes, valid } = copy;
    if valid > bytes {
        return Err(Fault::new(format!("a copy of {bytes} bytes, of which {valid} are read")));
    }
    let mut values = [0u8; 16];
    if valid > 0 {
        if !from.is_multiple_of(bytes as u64) {
            return Err(Fault::new(format!(
                "a copy of {bytes} bytes from {from:#x}, which is no multiple of {bytes}"
            )));
        }
        values[..valid].copy_from_slice(memory.slice(from, valid)?);
    }
    smem.store(to, &values[..bytes], warp)
}

/// Work of the copy engine.
#[derive(Clone, Debug)]
pub enum EngineWork {
    /// A box of a tensor into shared memory; then its bytes are delivered to the barrier.
    Load { map: TensorMap, coordinates: [i32; 3], to: u64, barrier: u64 },
    /// Shared to global memory, stored or added as floats: what was read, once it is.
    Store { to: u64, from: u64, bytes: usize, adds: bool, read: Option<Vec<u8>>, group: BulkGroup },
}

/// A group of bulk copies of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkGroup {
    pub thread: u32,
    pub number: u64,
}

/// What the copy engine has still to do for a block, in any order.
#[derive(Debug, Default)]
pub struct Engine {
    pub pending: Vec<EngineWork>,
}

impl Engine {
    /// Places of the loads among what is pending.
    pub fn loads(&self) -> Vec<usize> {
        let is_load = |&n: &usize| matches!(self.pending[n], EngineWork::Load { .. });
        (0..self.pending.len()).filter(is_load).collect()
    }

    /// Whether something is left that reads or writes shared memory.
    pub fn touches_shared_memory(&self) -> bool {
        self.pending.iter().any(|work| !matches!(work, EngineWork::Store { read: Some(_), .. }))
    }

    /// Does one step of the work at `index`: a load, the reading of a store, or its writing.
    pub fn step(
        &mut self,
        index: usize,
        (smem, memory): (&mut SharedMemory, &mut Memory),
        barriers: &mut Barriers,
    ) -> Result<(), Fault> {
        match &mut self.pending[index] {
            EngineWork::Load { map, coordinates, to, barrier } => {
                let (row_bytes, rows) = map.box_size();
                if row_bytes != 128 || !to.is_multiple_of(1024) {
                    return Err(Fault::new(format!(
                        "a box of rows of {row_bytes} bytes, swizzled over 128, at {to}"
                    )));
                }
                let found = map.read_box(memory, *coordinates)?;
                for (chunk, values) in found.chunks_exact(GRANULE).enumerate() {
                    smem.write_by_proxy(swizzle(*to + (chunk * GRANULE) as u64), values)?;
                }
                barriers.deliver(*barrier, row_bytes * rows)?;
                self.pending.swap_remove(index);
            }
            EngineWork::Store { from, bytes, read: read @ None, .. } => {
                *read = Some(read_shared(smem, *from, *bytes)?);
            }
            EngineWork::Store { to, adds, read: Some(values), .. } => {
                let target = memory.access(*to, GRANULE).map(|_| *to)?;
                let target = memory.slice(target, values.len())?;
                if *adds {
                    add_floats(target, values);
                } else {
                    target.copy_from_slice(values);
                }
                self.pending.swap_remove(index);
            }
        }
        Ok(())
    }

    /// Does what is left of a thread's groups numbered below `end`; only the reading, if `read`.
    pub fn wait(
        &mut self,
        (thread, end, read_only): (u32, u64, bool),
        (smem, memory): (&mut SharedMemory, &mut Memory),
        barriers: &mut Barriers,
    ) -> Result<(), Fault> {
        let mut index = 0;
        while index < self.pending.len() {
            match &self.pending[index] {
                EngineWork::Store { group, read, .. }
                    if group.thread == thread && group.number < end && !(read_only && read.is_some()) =>
                {
                    self.step(index, (smem, memory), barriers)?;
                }
                _ => index += 1,
            }
        }
        Ok(())
    }
}

fn read_shared(smem: &mut SharedMemory, from: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
    if !from.is_multiple_of(GRANULE as u64) || !bytes.is_multiple_of(GRANULE) {
        return Err(Fault::new(format!(
            "a bulk copy of {bytes} bytes from {from}: both are multiples of 16"
        )));
    }
    let mut values = Vec::with_capacity(bytes);
    for offset in (0..bytes).step_by(GRANULE) {
        values.extend_from_slice(&smem.read_by_proxy(from + offset as u64)?);
    }
    Ok(values)
}

fn add_floats(target: &mut [u8], values: &[u8]) {
    for (to, value) in target.chunks_exact_mut(4).zip(values.chunks_exact(4)) {
        let float = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let sum = float(to) + float(value);
        to.copy_from_slice(&sum.to_le_bytes());
    }
}
