//! A block: its warps, in turns drawn at random, and what they share.

use super::Fault;
use super::asynchronous::Engine;
use super::barriers::Barriers;
use super::grid::{Launch, World};
use super::memory::SharedMemory;
use super::random::Random;
use super::registers::{Identity, LANES};
use super::warp::Warp;

/// What the warps of a block share.
#[derive(Debug)]
pub(super) struct Room {
    pub smem: SharedMemory,
    pub barriers: Barriers,
    pub engine: Engine,
}

/// A block that runs.
#[derive(Debug)]
pub(super) struct Block {
    room: Room,
    warps: Vec<Warp>,
    place: [u32; 3],
    habits: Habits,
    /// Turns since something happened, and how much had happened then.
    quiet: usize,
    events: u64,
}

/// How this block differs from others, so that what is rare in one is common in another.
#[derive(Clone, Copy, Debug)]
struct Habits {
    /// The copy engine has a turn once in so many; and when nothing else happens.
    engine_once_in: usize,
    /// It loads what it can before it stores anything.
    loads_first: bool,
    /// A warp that is slow, if its number is one of theirs.
    laggard: usize,
}

impl Habits {
    fn draw(random: &mut Random, warps: usize) -> Self {
        let engine_once_in = [2, 8, 64, usize::MAX][random.below(4)];
        Habits { engine_once_in, loads_first: random.once_in(2), laggard: random.below(2 * warps) }
    }
}

/// Whether a turn came to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Made,
    /// All warps wait for something that none of this block will bring about.
    Stuck,
}

/// Turns for each warp without an event, after which all of them likely ask for what the copy engine has to bring.
const QUIET_TURNS: usize = 4;

/// Turns of the warps are up to this many instructions long, most of them shorter.
const LONGEST_TURN_LOG2: usize = 12;

impl Block {
    pub fn new(launch: &Launch<'_>, place: [u32; 3], random: &mut Random) -> Self {
        let entry = launch.entry;
        let room = Room {
            smem: SharedMemory::new(launch.dynamic_smem_bytes, entry.static_smem_bytes),
            barriers: Barriers::default(),
            engine: Engine::default(),
        };
        let warp = |warp: u32| {
            let identity = Identity { warp, block_threads: launch.threads, block: place, grid: launch.grid };
            Warp::new(entry, identity)
        };
        let warps: Vec<Warp> = (0..launch.threads.div_ceil(LANES as u32)).map(warp).collect();
        let habits = Habits::draw(random, warps.len());
        Block { room, warps, place, habits, quiet: 0, events: 0 }
    }

    /// Lets a warp go on for a while, or the copy engine do a piece of its work.
    pub fn turn(&mut self, world: &mut World<'_>) -> Result<Progress, Fault> {
        let ready: Vec<usize> =
            (0..self.warps.len()).filter(|&n| self.warps[n].is_ready(&self.room.barriers)).collect();
        self.quiet = if world.events == self.events { self.quiet + 1 } else { 0 };
        self.events = world.events;
        let pending = self.room.engine.pending.len();
        let all_wait = ready.is_empty() || self.quiet > QUIET_TURNS * self.warps.len();
        if pending > 0 && (all_wait || world.random.once_in(self.habits.engine_once_in)) {
            let loads = if self.habits.loads_first { self.room.engine.loads() } else { Vec::new() };
            let index = match loads.len() {
                0 => world.random.below(pending),
                count => loads[world.random.below(count)],
            };
            let Room { smem, barriers, engine } = &mut self.room;
            engine
                .step(index, (smem, &mut *world.memory), barriers)
                .map_err(|fault| fault.at(format!("by the copy engine of block {:?}", self.place)))?;
            world.events += 1;
            return Ok(Progress::Made);
        }
        if ready.is_empty() {
            return Ok(Progress::Stuck);
        }
        let mut chosen = ready[world.random.below(ready.len())];
        if chosen == self.habits.laggard && !world.random.once_in(8) {
            chosen = ready[world.random.below(ready.len())];
        }
        let warp = &mut self.warps[chosen];
        let length = 1 << world.random.below(LONGEST_TURN_LOG2 + 1);
        warp.run(&mut self.room, world, length)?;
        if self.warps.iter().all(Warp::is_done) && self.room.engine.touches_shared_memory() {
            return Err(Fault::new(format!(
                "block {:?} ends while the copy engine uses its shared memory",
                self.place
            )));
        }
        Ok(Progress::Made)
    }

    /// Whether all warps have come to the end, and all copies took place.
    pub fn is_done(&self) -> bool {
        self.warps.iter().all(Warp::is_done) && self.room.engine.pending.is_empty()
    }

    /// Where everybody is.
    pub fn describe(&self) -> String {
        let warps: Vec<String> =
            self.warps.iter().filter(|warp| !warp.is_done()).map(Warp::describe).collect();
        format!("block {:?}: {}; {}", self.place, warps.join(", "), self.room.barriers.describe())
    }
}
