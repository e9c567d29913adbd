//! The blocks of a launch: a few at a time, in turns drawn at random.

use super::Fault;
use super::block::{Block, Progress};
use super::counts::Counts;
use super::memory::Memory;
use super::random::Random;
use crate::ptx::{Entry, GLOBALS_BASE, PARAMETER_WINDOW};

/// What to run.
#[derive(Debug)]
pub struct Launch<'a> {
    pub entry: &'a Entry,
    /// Initial contents of the module's variables.
    pub globals: &'a [u8],
    /// All parameters, each at its offset.
    pub parameters: Vec<u8>,
    pub grid: [u32; 3],
    pub threads: u32,
    pub dynamic_smem_bytes: u32,
    /// Blocks that run at a time.
    pub resident: usize,
    /// Decides everything that the hardware leaves open.
    pub seed: u64,
    /// Count what it takes.
    pub counts: bool,
}

/// What the warps of a launch share.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub launch: &'a Launch<'a>,
    pub memory: &'a mut Memory,
    pub random: Random,
    /// Counts what may let a waiting warp go on: stores, arrivals, copies that took place.
    pub events: u64,
    pub counts: Option<Counts>,
}

/// Turns without an event after which nobody will go on any more: everybody asks for what does not come.
const PATIENCE: u64 = 200_000;

/// Runs a kernel to its end; what it took, if that was to be counted.
///
/// # Errors
/// [`Fault`], with the kernel's name, the place in the source and the thread.
pub fn run(memory: &mut Memory, launch: &Launch<'_>) -> Result<Option<Counts>, Fault> {
    memory.put(GLOBALS_BASE, launch.globals.to_vec());
    memory.put(PARAMETER_WINDOW, launch.parameters.clone());
    let counts = launch.counts.then(Counts::default);
    let mut world = World { launch, memory, random: Random::new(launch.seed), events: 0, counts };
    let result = world.run().map_err(|fault| fault.at(format!("in kernel {}", launch.entry.name)));
    let counts = world.counts.take();
    memory.free(GLOBALS_BASE);
    memory.free(PARAMETER_WINDOW);
    result.map(|()| counts)
}

impl World<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let [x, y, z] = self.launch.grid;
        let mut waiting = (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| [x, y, z])));
        let mut resident: Vec<Block> = Vec::new();
        let (mut quiet, mut seen) = (0, self.events);
        loop {
            while resident.len() < self.launch.resident.max(1) {
                let Some(block) = waiting.next() else { break };
                resident.push(Block::new(self.launch, block, &mut self.random));
            }
            if resident.is_empty() {
                return Ok(());
            }
            let index = self.random.below(resident.len());
            let mut progress = resident[index].turn(self)?;
            if progress == Progress::Stuck {
                // Whoever else can go on, in whatever block.
                for block in &mut resident {
                    if block.turn(self)? != Progress::Stuck {
                        progress = Progress::Made;
                    }
                }
            }
            quiet = if self.events == seen { quiet + 1 } else { 0 };
            seen = self.events;
            if progress == Progress::Stuck || quiet > PATIENCE {
                let states: Vec<String> = resident.iter().map(Block::describe).collect();
                return Err(Fault::new(format!("nothing goes on any more: {}", states.join(" | "))));
            }
            let before = resident.len();
            resident.retain(|block| !block.is_done());
            if resident.len() < before {
                self.events += 1;
            }
        }
    }
}
