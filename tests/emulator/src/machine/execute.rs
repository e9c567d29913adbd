//! What each instruction does to a warp: what its lanes do for themselves, here; the rest in rooms of its own.

use super::block::Room;
use super::grid::World;
use super::registers::{LANES, lanes};
use super::warp::{Flow, Warp};
use super::{Fault, scalar};
use crate::ptx::{Address, Alu, Instruction, Op, Operand};

impl Warp {
    /// Executes an instruction in the lanes of `active`, of which there is one at least.
    pub(super) fn execute(
        &mut self,
        instruction: &Instruction,
        active: u32,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<Flow, Fault> {
        let op = &instruction.op;
        if let Some(needed) = self.needed(op)
            && active != needed
        {
            return Ok(Flow::Park);
        }
        match op {
            Op::Branch(target) => return Ok(Flow::Branch(*target, active)),
            Op::Exit => return Ok(Flow::Exit(active)),
            Op::WarpSync { .. } | Op::Together | Op::Nothing => {}
            Op::Load { kind, place, to } => self.load(active, *kind, *place, to, room, world)?,
            Op::Store { kind, place, from } => self.store(active, *kind, *place, from, room, world)?,
            Op::Atomic { op, kind, place, to, from } => {
                self.atomic(active, (*op, *kind), *place, (*to, from), room, world)?;
            }
            Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Barrier { .. }
            | Op::BarrierReduce { .. }
            | Op::Matrices { .. }
            | Op::Mma { .. } => self.do_together(op, active, room, world)?,
            Op::Alu { .. }
            | Op::Convert { .. }
            | Op::ConvertPair { .. }
            | Op::Unpack { .. }
            | Op::Compare { .. }
            | Op::Logic { .. } => self.compute(op, active)?,
            Op::BarrierTest { to, barrier, parity } => {
                return self.test_barrier(active, *to, *barrier, *parity, room);
            }
            _ => self.issue(op, active, room, world)?,
        }
        Ok(Flow::Next)
    }

    /// From registers to registers, each lane for itself.
    fn compute(&mut self, op: &Op, active: u32) -> Result<(), Fault> {
        match op {
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
            _ => {}
        }
        Ok(())
    }

    pub(super) fn predicate(&self, operand: Operand, negated: bool) -> u32 {
        let holds = self.registers.predicate(operand);
        if negated { !holds } else { holds }
    }

    /// Number of a lane in its block.
    pub(super) fn thread(&self, lane: usize) -> u32 {
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
}
