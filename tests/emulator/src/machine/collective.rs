//! What the lanes of a warp do together: votes, shuffles, small matrices, and the barriers at which they meet other warps.

use super::block::Room;
use super::grid::World;
use super::registers::{LANES, lanes};
use super::warp::{Wait, Warp};
use super::{Fault, matrices};
use crate::ptx::{Op, Operand, Shuffle, Vote};

impl Warp {
    /// The lanes that must execute an instruction together, if there is a rule.
    pub(super) fn needed(&self, op: &Op) -> Option<u32> {
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

    /// A vote, a shuffle, a move or product of matrices, or a barrier.
    pub(super) fn do_together(
        &mut self,
        op: &Op,
        active: u32,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        match op {
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
            Op::Matrices { direction, registers, address } => {
                let addresses = self.addresses(*address);
                let Room { smem, .. } = room;
                matrices::move_matrices(smem, &mut self.registers, *direction, registers, &addresses)?;
            }
            Op::Mma { half, sums, a, b, c } => {
                matrices::multiply(&mut self.registers, *half, *sums, *a, *b, *c)
            }
            _ => self.meet(op, active, room, world)?,
        }
        Ok(())
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

    fn meet(&mut self, op: &Op, active: u32, room: &mut Room, world: &mut World<'_>) -> Result<(), Fault> {
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
            _ => return Ok(()),
        };
        let ticket = room.barriers.arrive(id, LANES as u32, threads, any, any_not)?;
        world.events += 1;
        match op {
            Op::Barrier { waits: false, .. } => {}
            Op::BarrierReduce { any, to, .. } => {
                self.waits = Some(Wait { ticket, outcome: Some((*to, *any)) })
            }
            _ => self.waits = Some(Wait { ticket, outcome: None }),
        }
        Ok(())
    }
}
