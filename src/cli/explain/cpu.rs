//! Kernels of the CPU.

use std::io::Write;

use longgen_codegen::cpu::{Blocking, ClifSource};
use longgen_codegen::ir::Programs;
use longgen_codegen::model::PassGroup;
use longgen_codegen::model::Workload;
use longgen_runtime::cpu::{CpuAttention, machine};
use longgen_runtime::problem::{AttentionProblem, DType, Sequences};
use longgen_runtime::tune::tuned_blockings;

use super::Explained;
use crate::cli::number::{grouped, milliseconds, percent};
use crate::cli::{CliError, store};

/// Functions of the Cranelift IR that come from the pattern.
const OF_PATTERN: [&str; 6] =
    ["next_keys", "next_queries", "all_visible", "edge_only", "visible", "mask_pairs"];

/// Words, numbers and source of the kernels of the pass.
pub fn explain(explained: &Explained<'_>, out: &mut dyn Write) -> Result<(), CliError> {
    let (args, shape, ir) = (explained.args, explained.shape, &explained.subject.ir);
    let attention = CpuAttention::new(ir, shape.head_dim()).map_err(CliError::failure)?;
    let threads = attention.threads();
    let head_dim = shape.head_dim() as u32;
    let softcap = explained.subject.pattern.softmax().softcap;
    let (of, with) = ((shape, softcap.is_some()), (attention.isa(), threads));
    attention.use_tuned(tuned_blockings(&store::open(), ir, of, with));
    let tokens = args.length as usize;
    let queries = if args.pass == PassGroup::Decode { 1 } else { tokens };
    let sequences = Sequences::new(vec![0, queries], vec![0, tokens], None).map_err(CliError::failure)?;
    let problem = AttentionProblem::new(shape, sequences);
    let problem = match softcap {
        Some(cap) => problem.with_softcap(cap).map_err(CliError::failure)?,
        None => problem,
    };
    let (blocking, chosen_by) = attention.blocking(&problem, DType::F32, args.pass);
    let programs = Programs::new(ir);
    let workload = Workload {
        programs: &programs,
        pass: args.pass,
        heads: shape.heads() as u32,
        kv_heads: shape.kv_heads() as u32,
        head_dim,
        batch: 1,
        queries: queries as u32,
        keys: args.length,
        element_bytes: 4,
    };
    let expected = machine(attention.isa(), threads).estimate(&workload, blocking);
    writeln!(
        out,
        "{} of {} tokens, {} query heads, {} KV heads, D {head_dim}, f32, on {threads} threads with {}",
        args.pass,
        grouped(args.length.into()),
        shape.heads(),
        shape.kv_heads(),
        attention.isa()
    )?;
    writeln!(out, "\n{blocking} ({})", chosen_by.words())?;
    for sentence in words(args.pass, blocking) {
        writeln!(out, "  {sentence}")?;
    }
    writeln!(
        out,
        "  {} tiles of lanes, {} steps; {} of the pairs in steps with a mask",
        grouped(expected.tiles.round() as u128),
        grouped(expected.steps.round() as u128),
        percent(expected.masked_pairs / expected.pairs.max(1.0))
    )?;
    writeln!(
        out,
        "  {} ms expected, floor {} ms",
        milliseconds(expected.seconds),
        milliseconds(expected.floor_seconds)
    )?;
    if args.no_source {
        return Ok(());
    }
    let source = ClifSource::new(ir, shape.head_dim()).map_err(CliError::failure)?;
    writeln!(out)?;
    Ok(out.write_all(marked(&source.to_string()).as_bytes())?)
}

fn words(pass: PassGroup, blocking: Blocking) -> Vec<String> {
    let Blocking { lanes, rows, gather_below, copy_uses } = blocking;
    let mut words = vec![
        format!("A thread takes {lanes} lanes: query rows of one KV head, tokens by heads of the group."),
        format!(
            "It walks the runs of keys that they see, {rows} at a time, with scores, softmax and products of one step in cache."
        ),
        format!(
            "Runs shorter than {gather_below} keys are gathered until a step is full; longer ones are read in place."
        ),
    ];
    if pass == PassGroup::Backward {
        words.push(format!(
            "That gives dQ; then dK and dV with {lanes} keys in the lanes, walking the queries that see them."
        ));
    }
    words.push(match copy_uses {
        Blocking::NEVER => "Rows are read where they lie.".to_owned(),
        uses => format!("Rows that at least {uses} tiles walk are first copied into contiguous f32."),
    });
    words
}

/// The IR with a mark before each line of a function that comes from the pattern.
fn marked(source: &str) -> String {
    let mut of_pattern = false;
    let mut text = String::with_capacity(source.len() + source.len() / 16);
    for line in source.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix("; ") {
            of_pattern = OF_PATTERN.contains(&name.trim());
        }
        text.push_str(if line.trim().is_empty() {
            ""
        } else if of_pattern {
            "| "
        } else {
            "  "
        });
        text.push_str(line);
    }
    text
}
