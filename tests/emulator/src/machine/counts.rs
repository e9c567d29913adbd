//! What a launch took, by line of the CUDA source: instructions, and how well its accesses fit banks and sectors.

use std::collections::HashMap;
use std::fmt;

use crate::ptx::Entry;

/// Bytes of a bank, and banks.
const BANK_BYTES: u64 = 4;
const BANKS: usize = 32;
/// Bytes that shared memory moves at a time.
const WAVEFRONT_BYTES: usize = 128;
/// Bytes that global memory moves at least.
const SECTOR_BYTES: u64 = 32;
/// Lines that are printed, besides those that waste something.
const MOST_LINES: usize = 12;

/// Of one line.
#[derive(Clone, Copy, Debug, Default)]
struct LineCounts {
    /// Instructions of warps.
    instructions: u64,
    /// Turns of the shared memory, and as many as there would be without conflicts of banks.
    wavefronts: u64,
    least_wavefronts: u64,
    /// Sectors of global memory, and as many as the bytes fill.
    sectors: u64,
    least_sectors: u64,
}

impl LineCounts {
    /// Whether banks collide, or sectors are touched for a part of what they hold.
    fn wastes(&self) -> bool {
        self.wavefronts > self.least_wavefronts || 4 * self.sectors > 5 * self.least_sectors
    }
}

/// Of a launch, by (file, line).
#[derive(Debug, Default)]
pub struct Counts {
    lines: HashMap<(u32, u32), LineCounts>,
}

impl Counts {
    /// An instruction of a warp; for an access, where its lanes access `bytes` bytes each.
    pub fn add(&mut self, source: (u32, u32), access: Option<&Access>) {
        let line = self.lines.entry(source).or_default();
        line.instructions += 1;
        match access {
            Some(Access::Shared { addresses, bytes }) => {
                let (turns, least) = wavefronts(addresses, *bytes);
                line.wavefronts += turns;
                line.least_wavefronts += least;
            }
            Some(Access::Global { addresses, bytes }) => {
                let (sectors, least) = sectors(addresses, *bytes);
                line.sectors += sectors;
                line.least_sectors += least;
            }
            None => {}
        }
    }

    /// A table of all that `entry` took, the lines with most instructions first.
    pub fn table<'a>(&'a self, entry: &'a Entry) -> impl fmt::Display + 'a {
        Table { counts: self, entry }
    }
}

/// Where the lanes that take part in an access have their bytes.
#[derive(Debug)]
pub enum Access {
    Shared { addresses: Vec<u64>, bytes: usize },
    Global { addresses: Vec<u64>, bytes: usize },
}

/// Shared memory serves as many lanes at a time as have 128 bytes; two words of one bank take two turns.
fn wavefronts(addresses: &[u64], bytes: usize) -> (u64, u64) {
    let lanes = (WAVEFRONT_BYTES / bytes.max(4)).max(1);
    let (mut turns, mut least) = (0, 0);
    for group in addresses.chunks(lanes) {
        let mut words: Vec<u64> = Vec::with_capacity(group.len() * bytes.div_ceil(4));
        for address in group {
            words.extend((address / BANK_BYTES..).take(bytes.div_ceil(4)));
        }
        words.sort_unstable();
        words.dedup();
        let mut load = [0u64; BANKS];
        for word in &words {
            load[*word as usize % BANKS] += 1;
        }
        turns += load.iter().max().copied().unwrap_or(0);
        least += words.len().div_ceil(BANKS) as u64;
    }
    (turns, least)
}

fn sectors(addresses: &[u64], bytes: usize) -> (u64, u64) {
    let mut touched: Vec<u64> = addresses
        .iter()
        .flat_map(|address| address / SECTOR_BYTES..=(address + bytes as u64 - 1) / SECTOR_BYTES)
        .collect();
    touched.sort_unstable();
    touched.dedup();
    let mut starts = addresses.to_vec();
    starts.sort_unstable();
    starts.dedup();
    (touched.len() as u64, (starts.len() as u64 * bytes as u64).div_ceil(SECTOR_BYTES))
}

struct Table<'a> {
    counts: &'a Counts,
    entry: &'a Entry,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<_> = self.counts.lines.iter().collect();
        lines.sort_by_key(|(source, line)| (std::cmp::Reverse(line.instructions), **source));
        let mut total = LineCounts::default();
        for (_, line) in &lines {
            total.instructions += line.instructions;
            total.wavefronts += line.wavefronts;
            total.least_wavefronts += line.least_wavefronts;
            total.sectors += line.sectors;
            total.least_sectors += line.least_sectors;
        }
        writeln!(
            f,
            "{:<44} {:>12} {:>11} {:>11} {:>9} {:>9}",
            self.entry.name, "instructions", "wavefronts", "at least", "sectors", "at least"
        )?;
        let mut row = |name: &str, line: &LineCounts| {
            let LineCounts { instructions, wavefronts, least_wavefronts, sectors, least_sectors } = line;
            writeln!(
                f,
                "{name:<44} {instructions:>12} {wavefronts:>11} {least_wavefronts:>11} {sectors:>9} {least_sectors:>9}"
            )
        };
        row("all", &total)?;
        let shown =
            lines.into_iter().enumerate().filter(|(rank, (_, line))| *rank < MOST_LINES || line.wastes());
        for (_, ((file, line), counts)) in shown {
            let name =
                self.entry.files.iter().find(|(number, _)| number == file).map_or("?", |(_, name)| name);
            let name = name.rsplit('/').next().unwrap_or(name);
            row(&format!("  {name}:{line}"), counts)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_counted_by_bank() {
        let by = |stride: u64| (0..32).map(|lane| lane * stride).collect::<Vec<u64>>();
        assert_eq!(wavefronts(&by(4), 4), (1, 1));
        assert_eq!(wavefronts(&by(0), 4), (1, 1), "one word for all");
        assert_eq!(wavefronts(&by(128), 4), (32, 1));
        assert_eq!(wavefronts(&by(16), 16), (4, 4));
        assert_eq!(wavefronts(&by(128), 16), (32, 4), "rows of 128 bytes, not swizzled");
        let swizzled: Vec<u64> = (0..8).map(|row| row * 128 + ((row % 8) ^ 3) * 16).collect();
        assert_eq!(wavefronts(&swizzled, 16), (1, 1));
    }

    #[test]
    fn sectors_are_counted_once() {
        let by = |stride: u64| (0..32).map(|lane| 64 + lane * stride).collect::<Vec<u64>>();
        assert_eq!(sectors(&by(4), 4), (4, 4));
        assert_eq!(sectors(&by(256), 4), (32, 4));
        assert_eq!(sectors(&by(0), 4), (1, 1));
    }
}
