//! What each instruction does to a warp.

use super::Fault;
use super::asynchronous::{BulkGroup, EngineWork, LaneCopy};
use super::block::Room;
use super::grid::World;
use super::memory::POISON;
use super::registers::{LANES, lanes};
use super::tensor_map::TensorMap;
use super::warp::{Flow, Wait, Warp};
use super::wgmma::Product;
use super::{matrices, scalar};
use crate::ptx::{Address, Alu, BulkCopy, Instruction, Op, Operand, Shuffle, Space, Vote};

impl Warp {
    /// Executes an instruction in the lanes of `active`, of which there is one at least.
    pub(super) fn execute(
        &mut self,
        instruction: &Instruction,
        active: u32,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<Flow, Fault> {
        if let Some(needed) = self.needed(&instruction.op)
            && active != needed
        {
            return Ok(Flow::Park);
        }
        match &instruction.op {
            Op::Alu { op, kind, to, from } => {
                let result = scalar::compute(&mut self.registers, active, (*op, *kind), *to, *from);
                result.map_err(|_| Fault::new(format!("{op:?} of {kind:?} is not known here")))?;
            }
            Op::Convert { to_kind, from_kind, rounding, to, from } => {
                scalar::convert(&mut self.registers, active, (*to_kind, *from_kind, *rounding), (*to, *from));
            }
            Op::ConvertPair { half, to, from } => {
                scalar::convert_pair(&mut self.registers, active, *half, *to, *from);
            }
            Op::Unpack { to, from } => self.unpack(active, *to, *from),
            Op::Compare { comparison, kind, to, from, and } => {
                let mut holds = scalar::compare(&self.registers, *comparison, *kind, *from);
                if let Some((other, negated)) = and {
                    holds &= self.predicate(*other, *negated);
                }
                self.registers.set_predicate(*to, active, holds);
            }
            Op::Logic { op, to, from } => {
                let [a, b] = from.map(|operand| self.registers.predicate(operand));
                let result = match op {
                    Alu::And => a & b,
                    Alu::Or => a | b,
                    _ => a ^ b,
                };
                self.registers.set_predicate(*to, active, result);
            }
            Op::Load { kind, place, to } => self.load(active, *kind, *place, to, room, world)?,
            Op::Store { kind, place, from } => self.store(active, *kind, *place, from, room, world)?,
            Op::Atomic { op, kind, place, to, from } => {
                self.atomic(active, (*op, *kind), *place, (*to, from), room, world)?;
            }
            Op::Branch(target) => return Ok(Flow::Branch(*target, active)),
            Op::Exit => return Ok(Flow::Exit(active)),
            Op::WarpSync { .. } | Op::Together | Op::Nothing => {}
            Op::Shuffle { mode, to, valid, from } => self.shuffle(active, *mode, (*to, *valid), *from),
            Op::Vote { vote, to, from, negated, .. } => {
                let votes = self.predicate(*from, *negated) & active;
                match vote {
                    Vote::Any => {
                        self.registers.set_predicate(*to, active, if votes == 0 { 0 } else { u32::MAX })
                    }
                    Vote::All => {
                        self.registers.set_predicate(*to, active, if votes == active { u32::MAX } else { 0 })
                    }
                    Vote::Ballot => self.registers.set_words(*to, active, &[votes; LANES]),
                }
            }
            Op::Barrier { .. } | Op::BarrierReduce { .. } => {
                return self.meet(&instruction.op, active, room, world);
            }
            Op::Matrices { direction, registers, address } => {
                let addresses = self.addresses(*address);
                let Room { smem, .. } = room;
                matrices::move_matrices(smem, &mut self.registers, *direction, registers, &addresses)?;
            }
            Op::Mma { half, sums, a, b, c } => {
                matrices::multiply(&mut self.registers, *half, *sums, *a, *b, *c)
            }
            Op::CopyAsync { to, from, bytes, valid } => {
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
            }
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
            Op::BarrierTest { to, barrier, parity } => {
                let (places, parity) = (self.addresses(*barrier), self.registers.words(*parity));
                let mut done = 0;
                for lane in lanes(active) {
                    done |= u32::from(room.barriers.test(places[lane], parity[lane])?) << lane;
                }
                self.registers.set_predicate(*to, active, done);
                return Ok(if done == active { Flow::Next } else { Flow::Pause });
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
        }
        Ok(Flow::Next)
    }

    /// The lanes that must execute an instruction together, if there is a rule.
    fn needed(&self, op: &Op) -> Option<u32> {
        match op {
            Op::WarpSync { members } | Op::Vote { members, .. } => {
                let lane = self.live().trailing_zeros() as usize;
                Some(self.registers.words(*members)[lane % LANES] & self.live())
            }
            Op::Shuffle { from, .. } => {
                let lane = self.live().trailing_zeros() as usize;
                Some(self.registers.words(from[3])[lane % LANES] & self.live())
            }
            Op::Barrier { .. }
            | Op::BarrierReduce { .. }
            | Op::Matrices { .. }
            | Op::Mma { .. }
            | Op::Wgmma { .. }
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. }
            | Op::Together => Some(self.live()),
            _ => None,
        }
    }

    fn predicate(&self, operand: Operand, negated: bool) -> u32 {
        let holds = self.registers.predicate(operand);
        if negated { !holds } else { holds }
    }

    fn thread(&self, lane: usize) -> u32 {
        self.registers.identity.warp * LANES as u32 + lane as u32
    }

    pub(super) fn addresses(&self, Address { base, offset }: Address) -> [u64; LANES] {
        self.registers.wides(base).map(|base| base.wrapping_add_signed(offset))
    }

    fn unpack(&mut self, active: u32, to: [Operand; 2], from: Operand) {
        let wide = matches!(from, Operand::Wide(_));
        let values = self.registers.wides(from);
        let bits = if wide { 32 } else { 16 };
        for lane in lanes(active) {
            let low = values[lane] & ((1 << bits) - 1);
            self.registers.set_lane(to[0], lane, low);
            self.registers.set_lane(to[1], lane, values[lane] >> bits);
        }
    }

    fn shuffle(&mut self, active: u32, mode: Shuffle, (to, valid): (Operand, Operand), from: [Operand; 4]) {
        let [values, by, clamp] = [from[0], from[1], from[2]].map(|operand| self.registers.words(operand));
        let mut result = values;
        let mut in_range = 0;
        for lane in lanes(active) {
            let (n, segment, bound) = (by[lane] & 31, clamp[lane] >> 8 & 31, clamp[lane] & 31);
            let lane_number = lane as u32;
            let highest = lane_number & segment | bound & !segment;
            let (source, ok) = match mode {
                Shuffle::Up => {
                    let source = lane_number.wrapping_sub(n);
                    (source, source as i32 >= highest as i32)
                }
                Shuffle::Down => (lane_number + n, lane_number + n <= highest),
                Shuffle::Butterfly => (lane_number ^ n, lane_number ^ n <= highest),
                Shuffle::Index => {
                    let source = lane_number & segment | n & !segment;
                    (source, source <= highest)
                }
            };
            if ok {
                result[lane] = values[source as usize % LANES];
                in_range |= 1 << lane;
            }
        }
        self.registers.set_words(to, active, &result);
        self.registers.set_predicate(valid, active, in_range);
    }

    fn meet(&mut self, op: &Op, active: u32, room: &mut Room, world: &mut World<'_>) -> Result<Flow, Fault> {
        let everybody = self.registers.identity.block_threads.next_multiple_of(LANES as u32);
        let lane = active.trailing_zeros() as usize;
        let value = |warp: &Warp, operand: Operand| warp.registers.words(operand)[lane];
        let (id, threads, (any, any_not)) = match op {
            Op::Barrier { id, threads, .. } => {
                (value(self, *id), threads.map_or(everybody, |threads| value(self, threads)), (false, false))
            }
            Op::BarrierReduce { id, from, negated, .. } => {
                let holds = self.predicate(*from, *negated) & active;
                (value(self, *id), everybody, (holds != 0, holds != active))
            }
            _ => return Ok(Flow::Next),
        };
        let ticket = room.barriers.arrive(id, LANES as u32, threads, any, any_not)?;
        world.events += 1;
        match op {
            Op::Barrier { waits: false, .. } => return Ok(Flow::Next),
            Op::BarrierReduce { any, to, .. } => {
                self.waits = Some(Wait { ticket, outcome: Some((*to, *any)) })
            }
            _ => self.waits = Some(Wait { ticket, outcome: None }),
        }
        Ok(Flow::Next)
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
