//! Problems that reach every corner of a pattern, and are small enough for the oracle.

use longgen_codegen::ir::{Bound, MaskIr};
use longgen_runtime::problem::{AttentionProblem, HeadShape, ProblemError, Sequences};

use crate::cli::CliError;
use crate::cli::kernel_args::Subject;

/// A problem and what it is about.
pub struct Named {
    /// In a few words.
    pub name: String,
    /// The problem.
    pub problem: AttentionProblem,
}

/// Keys beyond which no problem goes: the oracle takes its time.
const MOST_KEYS: usize = 4500;
/// KV heads beyond which no problem goes.
const MOST_KV_HEADS: usize = 32;

/// Three problems: packed sequences, a chunk of queries at the end of many keys, decoding.
///
/// # Errors
/// None for head dimensions that kernels take.
pub fn quick(subject: &Subject, head_dim: usize) -> Result<Vec<Named>, CliError> {
    all(subject, head_dim, &[2]).map_err(CliError::failure)
}

/// The same for several numbers of query heads per KV head.
///
/// # Errors
/// None for head dimensions that kernels take.
pub fn thorough(subject: &Subject, head_dim: usize) -> Result<Vec<Named>, CliError> {
    all(subject, head_dim, &[1, 2, 4]).map_err(CliError::failure)
}

fn all(subject: &Subject, head_dim: usize, groups: &[usize]) -> Result<Vec<Named>, ProblemError> {
    let long = (reach(&subject.ir) + 150).min(MOST_KEYS);
    let kv_heads = kv_heads(subject);
    let mut problems = Vec::new();
    for &group in groups {
        let shape = HeadShape::new(kv_heads * group, kv_heads, head_dim)?;
        let heads = format!("{} / {kv_heads} heads", shape.heads());
        let mut add = |name: String, sequences: Sequences| -> Result<(), ProblemError> {
            let mut problem = AttentionProblem::new(shape, sequences);
            if let Some(cap) = subject.pattern.softmax().softcap {
                problem = problem.with_softcap(cap)?;
            }
            problems.push(Named { name: format!("{name}, {heads}"), problem });
            Ok(())
        };
        add("5 sequences".into(), Sequences::packed(vec![0, 1, 64, 64, 194, 264])?)?;
        let chunk = Sequences::new(vec![0, 24], vec![0, long], None)?;
        add(format!("24 queries at the end of {long} keys"), chunk)?;
        let decode = Sequences::new(vec![0, 1, 2, 3], vec![0, 1, 78, 78 + long], None)?;
        add(format!("decoding at 1, 77 and {long} keys"), decode)?;
    }
    Ok(problems)
}

/// The keys after which the mask's constants and windows are all crossed.
fn reach(ir: &MaskIr) -> usize {
    let bounds =
        ir.classes.iter().flat_map(|class| &class.terms).flat_map(|t| t.lower.iter().chain(&t.upper));
    let reach = bounds.map(|bound| match *bound {
        Bound::Const(value) => value.unsigned_abs(),
        Bound::Step { shift, step, offset } => {
            shift.unsigned_abs() + step.unsigned_abs() + offset.unsigned_abs()
        }
    });
    reach.max().map_or(0, |reach| usize::try_from(reach).unwrap_or(MOST_KEYS)).min(MOST_KEYS)
}

/// Enough KV heads that every rule holds for one.
fn kv_heads(subject: &Subject) -> usize {
    let named = subject.pattern.rules().iter().filter_map(|rule| rule.heads.largest_named());
    named.max().map_or(2, |head| head as usize + 1).clamp(2, MOST_KV_HEADS)
}
