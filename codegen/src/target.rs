//! What a GPU architecture offers, and which kernel family serves it.

use std::fmt;
use std::str::FromStr;

/// The two kernel families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `mma.sync` and `cp.async`: Ampere and everything after it.
    Sm80,
    /// TMA and `wgmma`: Hopper only, `sm_90a`.
    Sm90,
}

impl Family {
    /// The folder of the family's kernels in the templates.
    pub fn folder(self) -> &'static str {
        match self {
            Family::Sm80 => "sm80",
            Family::Sm90 => "sm90",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::Sm80 => "sm_80",
            Family::Sm90 => "sm_90a",
        })
    }
}

/// An architecture that kernels are compiled for. Prints and parses as `sm_80`, `sm_90a`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    name: &'static str,
    family: Family,
    compute_capability: (u32, u32),
    smem_per_block_bytes: u32,
}

/// Every architecture this version knows: (name, family, capability, shared memory a block may opt in to).
/// The shared memory is the CUDA programming guide's table of technical specifications per compute capability.
const TARGETS: [Target; 10] = [
    target("sm_80", Family::Sm80, (8, 0), 163),
    target("sm_86", Family::Sm80, (8, 6), 99),
    target("sm_87", Family::Sm80, (8, 7), 163),
    target("sm_89", Family::Sm80, (8, 9), 99),
    target("sm_90", Family::Sm80, (9, 0), 227),
    target("sm_90a", Family::Sm90, (9, 0), 227),
    target("sm_100", Family::Sm80, (10, 0), 227),
    target("sm_103", Family::Sm80, (10, 3), 227),
    target("sm_120", Family::Sm80, (12, 0), 99),
    target("sm_121", Family::Sm80, (12, 1), 99),
];

const fn target(name: &'static str, family: Family, compute_capability: (u32, u32), smem_kib: u32) -> Target {
    Target { name, family, compute_capability, smem_per_block_bytes: smem_kib * 1024 }
}

/// The architecture is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture `{0}`; known are {list}", list = Target::names().join(", "))]
pub struct UnknownTarget(pub String);

impl Target {
    /// Every known architecture, oldest first.
    pub fn all() -> &'static [Target] {
        &TARGETS
    }

    /// The names of [`Target::all`].
    pub fn names() -> Vec<&'static str> {
        TARGETS.iter().map(|target| target.name).collect()
    }

    /// The plainest target of a family: `sm_80` or `sm_90a`.
    pub fn of_family(family: Family) -> Target {
        let first = TARGETS.iter().find(|target| target.family == family);
        *first.unwrap_or(&TARGETS[0])
    }

    /// The targets that run on a device of this compute capability, best first: Hopper takes `sm_90a` and then
    /// the `sm_80` family compiled for it. Empty for a device older than `sm_80` or newer than the table.
    pub fn for_device(major: u32, minor: u32) -> Vec<Target> {
        let mut found: Vec<Target> = TARGETS
            .iter()
            .copied()
            // A cubin runs on later minor revisions of its major one, except for the `a` targets.
            .filter(|t| t.compute_capability.0 == major && t.compute_capability.1 <= minor)
            .filter(|t| t.family == Family::Sm80 || t.compute_capability.1 == minor)
            .collect();
        found.sort_by_key(|t| std::cmp::Reverse((t.family, t.compute_capability)));
        found
    }

    /// The name that NVRTC takes, `sm_90a`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Which kernels serve it.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether its code runs on this very compute capability only (the `a` in `sm_90a`).
    pub fn is_exact(&self) -> bool {
        self.name.ends_with('a')
    }

    /// (major, minor).
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// Shared memory that one block may opt in to, in bytes.
    pub fn smem_per_block_bytes(&self) -> u32 {
        self.smem_per_block_bytes
    }

    /// Threads that one block may have.
    pub fn max_threads_per_block(&self) -> u32 {
        1024
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        let found = TARGETS.iter().find(|target| target.name == text.trim());
        found.copied().ok_or_else(|| UnknownTarget(text.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for target in Target::all() {
            assert_eq!(target.name().parse::<Target>().as_ref(), Ok(target));
        }
        let message = "sm_70".parse::<Target>().expect_err("too old").to_string();
        assert!(message.contains("`sm_70`") && message.contains("sm_90a"), "{message}");
    }

    #[test]
    fn a_device_gets_its_best_target_first() {
        let names =
            |major, minor| -> Vec<_> { Target::for_device(major, minor).iter().map(Target::name).collect() };
        assert_eq!(names(9, 0), ["sm_90a", "sm_90"]);
        assert_eq!(names(8, 9), ["sm_89", "sm_87", "sm_86", "sm_80"]);
        assert!(names(7, 5).is_empty());
    }
}
