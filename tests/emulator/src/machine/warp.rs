//! A warp: lanes that mostly stand at the same instruction. Where they do not, it falls into fragments, each with its own
//! place, and they become one again where they meet.

use std::collections::VecDeque;

use super::Fault;
use super::asynchronous::LaneCopies;
use super::barriers::{Barriers, Ticket};
use super::block::Room;
use super::grid::World;
use super::registers::{Identity, LANES, Registers};
use super::wgmma::Product;
use crate::ptx::{Entry, Guard, Instruction, Operand};

/// Lanes that stand at the same instruction.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    place: u32,
    mask: u32,
    /// The instruction is for more lanes than these: they wait for the others.
    parked: bool,
}

/// A barrier that all of a warp waits for, and where the outcome of its predicates goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub ticket: Ticket,
    /// The register, and whether it asks if any predicate held, or if all did.
    pub outcome: Option<(Operand, bool)>,
}

/// A warp of a block that runs.
#[derive(Debug)]
pub(super) struct Warp {
    pub registers: Registers,
    /// Local memory of all lanes, one after the other.
    pub local: Vec<u8>,
    pub copies: LaneCopies,
    /// Number of the group of bulk copies that each lane is filling.
    pub bulk_group: [u64; LANES],
    /// Products that were issued and not computed, with their group; and the group being filled.
    pub products: VecDeque<(u64, Product)>,
    pub product_group: u64,
    pub waits: Option<Wait>,
    fragments: Vec<Fragment>,
}

/// How an instruction leaves its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    /// The lanes that go to this instruction; the others go to the next.
    Branch(u32, u32),
    /// Lanes that are done.
    Exit(u32),
    /// The instruction needs other lanes, too. It was not executed.
    Park,
    /// It was executed; others should have a turn now.
    Pause,
}

impl Warp {
    pub fn new(entry: &Entry, identity: Identity) -> Self {
        let lanes = identity.block_threads.saturating_sub(identity.warp * LANES as u32).min(LANES as u32);
        let mask = if lanes == LANES as u32 { u32::MAX } else { (1 << lanes) - 1 };
        Warp {
            registers: Registers::new(identity, entry.words, entry.predicates),
            local: vec![super::memory::POISON; entry.local_bytes as usize * LANES],
            copies: LaneCopies::default(),
            bulk_group: [0; LANES],
            products: VecDeque::new(),
            product_group: 0,
            waits: None,
            fragments: vec![Fragment { place: 0, mask, parked: false }],
        }
    }

    pub fn is_done(&self) -> bool {
        self.fragments.is_empty()
    }

    pub fn is_ready(&self, barriers: &Barriers) -> bool {
        !self.is_done() && self.waits.is_none_or(|wait| barriers.completed(wait.ticket).is_some())
    }

    /// Lanes that have not come to the end.
    pub fn live(&self) -> u32 {
        self.fragments.iter().fold(0, |mask, fragment| mask | fragment.mask)
    }

    /// Where the lanes are.
    pub fn describe(&self) -> String {
        let places: Vec<String> =
            self.fragments.iter().map(|f| format!("{:x}@{}", f.mask, f.place)).collect();
        let waits = if self.waits.is_some() { " waits" } else { "" };
        format!("warp {}{waits} {}", self.registers.identity.warp, places.join(" "))
    }

    /// Executes up to `length` instructions, until the warp has to wait.
    pub fn run(&mut self, room: &mut Room, world: &mut World<'_>, length: usize) -> Result<(), Fault> {
        if let Some(wait) = self.waits.take()
            && let (Some((any, any_not)), Some((to, asks_any))) =
                (room.barriers.completed(wait.ticket), wait.outcome)
        {
            let outcome = if asks_any { any } else { !any_not };
            self.registers.set_predicate(to, u32::MAX, if outcome { u32::MAX } else { 0 });
        }
        let mut left = length;
        while left > 0 && self.waits.is_none() && !self.is_done() {
            let current = self.choose(world)?;
            self.run_fragment(current, &mut left, room, world)?;
            self.merge();
        }
        Ok(())
    }

    /// The fragment to go on with: the one furthest behind, for the others to meet it; now and then another.
    fn choose(&self, world: &mut World<'_>) -> Result<usize, Fault> {
        if let [fragment] = &self.fragments[..]
            && !fragment.parked
        {
            return Ok(0);
        }
        let able: Vec<usize> = (0..self.fragments.len()).filter(|&n| !self.fragments[n].parked).collect();
        if able.is_empty() {
            let entry = world.launch.entry;
            let places = self.fragments.iter().map(|fragment| {
                let Fragment { place, mask, .. } = fragment;
                format!("lanes {mask:08x} at {}", location(entry, &entry.code[*place as usize]))
            });
            let places = places.collect::<Vec<_>>().join(", ");
            return Err(Fault::new(format!(
                "lanes of a warp wait for each other at different places: {places}"
            ))
            .at(self.place_in_grid()));
        }
        if world.random.once_in(64) {
            return Ok(able[world.random.below(able.len())]);
        }
        Ok(able.into_iter().min_by_key(|&n| self.fragments[n].place).unwrap_or(0))
    }

    /// Fragments at the same place become one.
    fn merge(&mut self) {
        if self.fragments.len() < 2 {
            return;
        }
        self.fragments.sort_by_key(|fragment| fragment.place);
        self.fragments.dedup_by(|next, first| {
            let same = next.place == first.place;
            if same {
                first.mask |= next.mask;
                first.parked = false;
            }
            same
        });
    }

    fn run_fragment(
        &mut self,
        index: usize,
        left: &mut usize,
        room: &mut Room,
        world: &mut World<'_>,
    ) -> Result<(), Fault> {
        let Fragment { mut place, mask, .. } = self.fragments[index];
        let alone = self.fragments.len() == 1;
        let entry = world.launch.entry;
        while *left > 0 {
            *left -= 1;
            let instruction = &entry.code[place as usize];
            let active = match instruction.guard {
                Guard::Always => mask,
                Guard::If(register, holds) => {
                    let predicate = self.registers.predicate(Operand::Predicate(register));
                    mask & if holds { predicate } else { !predicate }
                }
            };
            // Before it is executed: it may overwrite its own addresses.
            let counted = world.counts.is_some().then(|| self.access(&instruction.op, active));
            let flow = if active == 0 {
                Flow::Next
            } else {
                self.execute(instruction, active, room, world)
                    .map_err(|fault| fault.at(location(entry, instruction)).at(self.place_in_grid()))?
            };
            if let (Some(counts), Some(access)) = (&mut world.counts, counted)
                && flow != Flow::Park
            {
                counts.add(instruction.source, access.as_ref());
            }
            match flow {
                Flow::Next => place += 1,
                Flow::Pause => {
                    place += 1;
                    *left = 0;
                }
                Flow::Branch(target, taken) if taken == mask => place = target,
                Flow::Branch(target, taken) => {
                    let fragment = Fragment { place: target, mask: taken, parked: false };
                    self.fragments[index] = Fragment { place: place + 1, mask: mask & !taken, parked: false };
                    self.fragments.push(fragment);
                    return Ok(());
                }
                Flow::Park => {
                    self.fragments[index] = Fragment { place, mask, parked: true };
                    return Ok(());
                }
                Flow::Exit(lanes) => {
                    self.fragments[index] = Fragment { place: place + 1, mask: mask & !lanes, parked: false };
                    self.fragments.retain(|fragment| fragment.mask != 0);
                    // Who waits for all that are left may have waited for these.
                    self.fragments.iter_mut().for_each(|fragment| fragment.parked = false);
                    world.events += 1;
                    return Ok(());
                }
            }
            let meets =
                !alone && self.fragments.iter().any(|other| other.place == place && other.mask != mask);
            if meets || self.waits.is_some() {
                break;
            }
        }
        self.fragments[index].place = place;
        Ok(())
    }

    fn place_in_grid(&self) -> String {
        let Identity { warp, block, .. } = self.registers.identity;
        format!("warp {warp} of block {block:?}")
    }
}

/// File and line of an instruction.
fn location(entry: &Entry, instruction: &Instruction) -> String {
    let (file, line) = instruction.source;
    match entry.files.iter().find(|(number, _)| *number == file) {
        Some((_, name)) => format!("at {name}:{line}"),
        None => format!("at line {line} of the PTX"),
    }
}
