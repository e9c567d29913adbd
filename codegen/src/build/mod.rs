//! Every pass of a pattern for some shapes and targets, several at once: which kernels there are to build, which of those that
//! were built make whole passes, and what is missing.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::artifact::BuildError;
use crate::model::PassGroup;
use crate::spec::{KernelSpec, Pass, PatternCode, Shape};
use crate::target::Target;

/// The kernels that a pass takes, in each way to compute it; the deterministic backwards are ways of their own.
const fn sets(group: PassGroup) -> &'static [&'static [Pass]] {
    match group {
        PassGroup::Forward => &[&[Pass::Forward]],
        PassGroup::Backward => &[&Pass::BACKWARD_FUSED, &Pass::BACKWARD_ORDERED, &Pass::BACKWARD_SPLIT],
        PassGroup::Decode => &[&[Pass::Decode]],
    }
}

/// One kernel to build.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it computes.
    pub pass: Pass,
    /// Head dimension, type, softmax features.
    pub shape: Shape,
    /// What it is compiled for.
    pub target: Target,
    /// The specifications in the order to try them, at least one: see [`KernelSpec::candidates`].
    pub specs: Vec<KernelSpec>,
}

/// A pass that no way of computing it has all kernels of: not every head dimension fits the registers of a backward.
#[derive(Debug, thiserror::Error)]
#[error("there is no {pass} for {shape} on {target}")]
pub struct Missing {
    /// The pass, all of its kernels.
    pub pass: PassGroup,
    /// Head dimension, type, softmax features.
    pub shape: Shape,
    /// The architecture.
    pub target: Target,
    /// What was wrong with the last schedule that was tried.
    #[source]
    pub reason: BuildError,
}

/// What came of an [`Order`]: kernels in its order, those of whole passes only.
#[derive(Debug)]
pub struct Outcome<K> {
    /// The kernels.
    pub kernels: Vec<K>,
    /// The passes that were ordered and are not there.
    pub missing: Vec<Missing>,
}

/// The kernels of a pattern to build: by shape, by target, and in the order of [`Pass::ALL`].
#[derive(Debug)]
pub struct Order {
    groups: Vec<Group>,
}

/// The jobs of a pass for one shape and target; none where no template computes it.
#[derive(Debug)]
struct Group {
    pass: PassGroup,
    shape: Shape,
    target: Target,
    jobs: Vec<Job>,
}

impl Order {
    /// Every kernel of these passes that has a template, and that a whole pass may come of.
    pub fn new(code: &Arc<PatternCode>, shapes: &[Shape], targets: &[Target], passes: &[PassGroup]) -> Order {
        let mut groups = Vec::new();
        for &shape in shapes {
            for &target in targets {
                let wanted = PassGroup::ALL.into_iter().filter(|pass| passes.contains(pass));
                groups.extend(wanted.map(|pass| Group::new(code, shape, target, pass)));
            }
        }
        Order { groups }
    }

    /// How many kernels there are to build.
    pub fn len(&self) -> usize {
        self.jobs().count()
    }

    /// Whether no template computes any of it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.groups.iter().flat_map(|group| &group.jobs)
    }

    /// Builds all of it, on all cores. A kernel that ptxas refuses is missed only where no other way computes its pass; the other
    /// kernels of a way that lacks one are left out.
    ///
    /// # Errors
    /// The first kernel that could not be built for another reason.
    pub fn build<K: Send>(
        &self,
        build: impl Fn(&Job) -> Result<K, BuildError> + Sync,
    ) -> Result<Outcome<K>, BuildError> {
        let jobs: Vec<&Job> = self.jobs().collect();
        let mut results = in_parallel(&jobs, build).into_iter();
        let mut outcome = Outcome { kernels: Vec::with_capacity(jobs.len()), missing: Vec::new() };
        for group in &self.groups {
            group.take(results.by_ref().take(group.jobs.len()), &mut outcome)?;
        }
        Ok(outcome)
    }
}

impl Group {
    fn new(code: &Arc<PatternCode>, shape: Shape, target: Target, pass: PassGroup) -> Group {
        let mut jobs: Vec<Job> = Vec::new();
        for kernel in Pass::ALL.into_iter().filter(|&kernel| PassGroup::from(kernel) == pass) {
            let specs = KernelSpec::candidates(kernel, target, shape, code);
            if !specs.is_empty() {
                jobs.push(Job { pass: kernel, shape, target, specs });
            }
        }
        let there: Vec<Pass> = jobs.iter().map(|job| job.pass).collect();
        jobs.retain(|job| is_of_use(job.pass, &there));
        Group { pass, shape, target, jobs }
    }

    /// Sorts what was built into kernels, a missing pass, and kernels that are of no use without another.
    fn take<K>(
        &self,
        results: impl Iterator<Item = Result<K, BuildError>>,
        outcome: &mut Outcome<K>,
    ) -> Result<(), BuildError> {
        let (mut built, mut reason) = (Vec::with_capacity(self.jobs.len()), BuildError::NoKernel);
        for (job, result) in self.jobs.iter().zip(results) {
            match result {
                Ok(kernel) => built.push((job.pass, kernel)),
                // The plainest way comes first in `Pass::ALL`: why that fails says most.
                Err(refused @ BuildError::Refused { .. }) if matches!(reason, BuildError::NoKernel) => {
                    reason = refused;
                }
                Err(BuildError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let there: Vec<Pass> = built.iter().map(|(pass, _)| *pass).collect();
        built.retain(|(pass, _)| is_of_use(*pass, &there));
        if built.is_empty() {
            let Group { pass, shape, target, .. } = *self;
            outcome.missing.push(Missing { pass, shape, target, reason });
        }
        outcome.kernels.extend(built.into_iter().map(|(_, kernel)| kernel));
        Ok(())
    }
}

/// Whether a kernel is one of those that compute a pass together, and all of these are there.
fn is_of_use(kernel: Pass, there: &[Pass]) -> bool {
    let whole = |set: &[Pass]| set.contains(&kernel) && set.iter().all(|pass| there.contains(pass));
    sets(kernel.into()).iter().any(|set| whole(set))
}

fn in_parallel<K: Send>(
    jobs: &[&Job],
    build: impl Fn(&Job) -> Result<K, BuildError> + Sync,
) -> Vec<Result<K, BuildError>> {
    let outcomes: Vec<Mutex<Option<Result<K, BuildError>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < jobs.len()) {
            let outcome = build(jobs[at]);
            *outcomes[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let outcomes = outcomes.into_iter().map(|cell| cell.into_inner().unwrap_or_else(PoisonError::into_inner));
    outcomes.map(|outcome| outcome.unwrap_or(Err(BuildError::NoKernel))).collect()
}
