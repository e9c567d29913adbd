//! What lanes load from memory of every kind, store there, and change there in one go.

use super::Fault;
use super::block::Room;
use super::counts::Access;
use super::grid::World;
use super::registers::{LANES, lanes};
use super::warp::Warp;
use crate::ptx::{
    Atomic, LOCAL_WINDOW, Op, Operand, PARAMETER_WINDOW, Place, SHARED_WINDOW, Space, Type, WINDOW_MASK,
};

impl Warp {
    /// Where an instruction accesses shared or global memory, if it does.
    pub(super) fn access(&self, op: &Op, active: u32) -> Option<Access> {
        let (space, address, bytes, active) = match op {
            Op::Load { kind, place, to } => (place.space, place.address, kind.bytes() * to.len(), active),
            Op::Store { kind, place, from } => {
                (place.space, place.address, kind.bytes() * from.len(), active)
            }
            Op::Atomic { op, kind, place, from, .. } => {
                let elements = if *op == Atomic::CompareAndSwap { 1 } else { from.len() };
                (place.space, place.address, kind.bytes() * elements, active)
            }
            // Eight lanes give the rows of a matrix.
            Op::Matrices { registers, address, .. } => {
                let lanes = u32::MAX >> (LANES - 8 * registers.len());
                (Space::Shared, *address, 16, lanes)
            }
            Op::CopyAsync { to, bytes, .. } => (Space::Shared, *to, *bytes, active),
            _ => return None,
        };
        let all = self.addresses(address);
        let (space, _) = specific(space, all[active.trailing_zeros() as usize % LANES]);
        let addresses = lanes(active).map(|lane| specific(space, all[lane]).1).collect();
        match space {
            Space::Shared => Some(Access::Shared { addresses, bytes }),
            Space::Global | Space::Generic => Some(Access::Global { addresses, bytes }),
            _ => None,
        }
    }

    /// Memory of one lane.
    pub(super) fn bytes<'a>(
        &'a mut self,
        (space, address, bytes): (Space, u64, usize),
        lane: usize,
        room: &'a mut Room,
        world: &'a mut World<'_>,
    ) -> Result<&'a mut [u8], Fault> {
        let (space, address) = specific(space, address);
        match space {
            Space::Shared => room.smem.access(address, bytes),
            Space::Local => {
                let size = self.local.len() / LANES;
                let end = (address as usize).saturating_add(bytes);
                if end > size {
                    return Err(Fault::new(format!(
                        "{bytes} bytes at {address} of {size} bytes of local memory"
                    )));
                }
                let start = lane * size + address as usize;
                Ok(&mut self.local[start..start + bytes])
            }
            Space::Parameter => world.memory.access(PARAMETER_WINDOW + address, bytes),
            Space::Generic | Space::Global => world.memory.access(address, bytes),
        }
    }

    pub(super) fn load(
        &mut self,
        active: u32,
        kind: Type,
        place: Place,
        to: &[Operand],
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let (addresses, size) = (self.addresses(place.address), kind.bytes());
        for lane in lanes(active) {
            let mut values = [0u8; 32];
            let total = size * to.len();
            let found = self.bytes((place.space, addresses[lane], total), lane, room, world)?;
            values[..total].copy_from_slice(found);
            for (register, value) in to.iter().zip(values.chunks_exact(size)) {
                let mut wide = [0u8; 8];
                wide[..size].copy_from_slice(value);
                let value = u64::from_le_bytes(wide);
                let value = match kind {
                    Type::S8 => value as i8 as i64 as u64,
                    Type::S16 => value as i16 as i64 as u64,
                    Type::S32 => value as i32 as i64 as u64,
                    _ => value,
                };
                self.registers.set_lane(*register, lane, value);
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        active: u32,
        kind: Type,
        place: Place,
        from: &[Operand],
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let (addresses, size) = (self.addresses(place.address), kind.bytes());
        let values: Vec<_> = from.iter().map(|&register| self.registers.wides(register)).collect();
        for lane in lanes(active) {
            let total = size * from.len();
            let mut bytes = [0u8; 32];
            for (bytes, value) in bytes[..total].chunks_exact_mut(size).zip(&values) {
                bytes.copy_from_slice(&value[lane].to_le_bytes()[..size]);
            }
            match specific(place.space, addresses[lane]) {
                (Space::Shared, address) => {
                    room.smem.store(address, &bytes[..total], self.registers.identity.warp)?;
                }
                (space, address) => {
                    self.bytes((space, address, total), lane, room, world)?.copy_from_slice(&bytes[..total]);
                }
            }
        }
        world.events += 1;
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        active: u32,
        (op, kind): (Atomic, Type),
        place: Place,
        (to, from): (Option<Operand>, &[Operand]),
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let (addresses, size) = (self.addresses(place.address), kind.bytes());
        let values: Vec<_> = from.iter().map(|&register| self.registers.wides(register)).collect();
        // A vector is added element by element; else there is one element, and what it is compared with before.
        let elements = if op == Atomic::CompareAndSwap { 1 } else { from.len() };
        for lane in lanes(active) {
            let target = self.bytes((place.space, addresses[lane], size * elements), lane, room, world)?;
            let mut before = 0;
            for (index, bytes) in target.chunks_exact_mut(size).enumerate() {
                let mut wide = [0u8; 8];
                wide[..size].copy_from_slice(bytes);
                before = u64::from_le_bytes(wide);
                let value = values[index][lane];
                let after = match op {
                    Atomic::Add if kind == Type::F32 => {
                        u64::from((f32::from_bits(before as u32) + f32::from_bits(value as u32)).to_bits())
                    }
                    Atomic::Add => before.wrapping_add(value),
                    Atomic::Exchange => value,
                    Atomic::CompareAndSwap if before == value => values[1][lane],
                    Atomic::CompareAndSwap => before,
                    Atomic::Min if kind.is_signed() => (before as i32).min(value as i32) as u64,
                    Atomic::Max if kind.is_signed() => (before as i32).max(value as i32) as u64,
                    Atomic::Min => before.min(value),
                    Atomic::Max => before.max(value),
                    Atomic::And => before & value,
                    Atomic::Or => before | value,
                };
                bytes.copy_from_slice(&after.to_le_bytes()[..size]);
            }
            if let Some(to) = to {
                self.registers.set_lane(to, lane, before);
            }
        }
        world.events += 1;
        Ok(())
    }
}

/// The space that a generic address is in, and the address there.
fn specific(space: Space, address: u64) -> (Space, u64) {
    let inside = address & WINDOW_MASK;
    match (space, address & !WINDOW_MASK) {
        (Space::Generic, SHARED_WINDOW) => (Space::Shared, inside),
        (Space::Generic, LOCAL_WINDOW) => (Space::Local, inside),
        (Space::Generic, PARAMETER_WINDOW) => (Space::Parameter, inside),
        _ => (space, address),
    }
}
