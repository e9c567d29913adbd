//! What a warp starts and waits for: copies, products of its warpgroup, and the barriers in memory that tell of them.

use super::Fault;
use super::asynchronous::{BulkGroup, EngineWork, LaneCopy};
use super::block::Room;
use super::grid::World;
use super::memory::POISON;
use super::registers::{LANES, lanes};
use super::tensor_map::TensorMap;
use super::warp::{Flow, Warp};
use super::wgmma::Product;
use crate::ptx::{Address, BulkCopy, Op, Operand, Space};

impl Warp {
    /// Issues asynchronous work, or waits for it.
    pub(super) fn issue(
        &mut self,
        op: &Op,
        active: u32,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        match op {
            Op::CopyAsync { .. } => self.issue_copies(op, active, room, world)?,
            Op::CopyCommit => self.copies.commit(active),
            Op::CopyWait { pending } => {
                let warp = self.registers.identity.warp;
                self.copies.wait((&mut room.smem, world.memory), warp, active, *pending)?;
            }
            Op::BarrierInit { barrier, arrivals } => {
                let (places, arrivals) = (self.addresses(*barrier), self.registers.words(*arrivals));
                for lane in lanes(active) {
                    room.barriers.init(places[lane], arrivals[lane])?;
                }
            }
            Op::BarrierArrive { barrier, bytes } => {
                let places = self.addresses(*barrier);
                let bytes = bytes.map_or([0; LANES], |bytes| self.registers.words(bytes));
                for lane in lanes(active) {
                    room.barriers.arrive_in_memory(places[lane], 1, bytes[lane])?;
                }
                world.events += 1;
            }
            Op::TensorLoad { to, map, coordinates, barrier } => {
                self.issue_load(active, (*to, *map, *barrier), *coordinates, room, world)?;
            }
            Op::Bulk(copy) => self.issue_bulk(active, copy, room),
            Op::BulkCommit => lanes(active).for_each(|lane| self.bulk_group[lane] += 1),
            Op::BulkWait { pending, read } => {
                for lane in lanes(active) {
                    let end = (self.bulk_group[lane]).saturating_sub(*pending);
                    let Room { smem, barriers, engine } = &mut *room;
                    engine.wait((self.thread(lane), end, *read), (smem, world.memory), barriers)?;
                }
            }
            Op::FenceAsyncProxy => room.smem.fence(self.registers.identity.warp),
            Op::Wgmma { half, n, sums, a, b, b_transposed, adds } => {
                let product =
                    Product::issue(&self.registers, (*half, *n), sums, a, (*b, *b_transposed), *adds)?;
                self.products.push_back((self.product_group, product));
                if world.random.once_in(3) {
                    self.compute_products(u64::MAX, room)?;
                }
            }
            Op::WgmmaCommit => self.product_group += 1,
            Op::WgmmaWait { pending } => {
                self.compute_products(self.product_group.saturating_sub(*pending), room)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a barrier in memory has completed a round. Who finds that it has not lets others go on.
    pub(super) fn test_barrier(
        &mut self,
        active: u32,
        to: Operand,
        barrier: Address,
        parity: Operand,
        room: &mut Room,
    ) -> Result<Flow, Fault> {
        let (places, parity) = (self.addresses(barrier), self.registers.words(parity));
        let mut done = 0;
        for lane in lanes(active) {
            done |= u32::from(room.barriers.test(places[lane], parity[lane])?) << lane;
        }
        self.registers.set_predicate(to, active, done);
        Ok(if done == active { Flow::Next } else { Flow::Pause })
    }

    fn issue_copies(
        &mut self,
        op: &Op,
        active: u32,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let Op::CopyAsync { to, from, bytes, valid } = op else { return Ok(()) };
        let (to, from) = (self.addresses(*to), self.addresses(*from));
        let valid = self.registers.words(*valid);
        // One decision for all lanes: copies of one instruction mostly come together.
        let late = !world.random.once_in(3);
        let warp = self.registers.identity.warp;
        for lane in lanes(active) {
            let (to, from, valid) = (to[lane], from[lane], valid[lane] as usize);
            let copy = LaneCopy { to, from, bytes: *bytes, valid };
            self.copies.issue((&mut room.smem, world.memory), (lane, warp), copy, late)?;
        }
        world.events += 1;
        Ok(())
    }

    fn issue_load(
        &mut self,
        active: u32,
        (to, map, barrier): (Address, Address, Address),
        coordinates: [Operand; 3],
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let [to, map, barrier] = [to, map, barrier].map(|address| self.addresses(address));
        let coordinates = coordinates.map(|operand| self.registers.words(operand));
        for lane in lanes(active) {
            let space = (Space::Generic, map[lane], TensorMap::BYTES);
            let map = TensorMap::from_bytes(self.bytes(space, lane, room, world)?)?;
            let coordinates = coordinates.map(|words| words[lane] as i32);
            let (row_bytes, rows) = map.box_size();
            // What was there is lost from here on.
            room.smem.slice(to[lane], row_bytes * rows)?.fill(POISON);
            let (to, barrier) = (to[lane], barrier[lane]);
            room.engine.pending.push(EngineWork::Load { map, coordinates, to, barrier });
        }
        Ok(())
    }

    fn issue_bulk(&mut self, active: u32, copy: &BulkCopy, room: &mut Room) {
        let (to, from) = (self.addresses(copy.to), self.addresses(copy.from));
        let bytes = self.registers.words(copy.bytes);
        for lane in lanes(active) {
            let group = BulkGroup { thread: self.thread(lane), number: self.bulk_group[lane] };
            let (to, from, bytes) = (to[lane], from[lane], bytes[lane] as usize);
            room.engine.pending.push(EngineWork::Store {
                to,
                from,
                bytes,
                adds: copy.adds,
                read: None,
                group,
            });
        }
    }

    /// Computes the products of the groups numbered below `end`, in order.
    fn compute_products(&mut self, end: u64, room: &mut Room) -> Result<(), Fault> {
        while let Some((_, product)) = self.products.pop_front_if(|(group, _)| *group < end) {
            product.compute(&mut self.registers, &mut room.smem)?;
        }
        Ok(())
    }
}
