//! `lgc cache show ID`.

use std::io::{self, Write};

use longgen_codegen::artifact::{KernelEntry, Manifest};
use longgen_runtime::store::{
    KernelAbout, KernelRow, Operation, Store, Trial, TrialOutcome, TuneProblem, TunedChoice, TunedRow,
};
use serde::Serialize;

use super::{IdError, age, print_json};
use crate::cli::{CliError, number};

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Entry<'a> {
    Kernel {
        id: String,
        made: i64,
        image_bytes: u64,
        nvrtc: &'a str,
        manifest: &'a KernelAbout,
    },
    Tuned {
        id: String,
        made: i64,
        tokens: u64,
        problem: &'a TuneProblem,
        choice: &'a TunedChoice,
        trials: Vec<Trial>,
    },
}

/// Prints the one entry whose ID begins with `id`.
pub fn run(store: &Store, id: &str, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let mut kernels = store.kernels();
    kernels.retain(|row| row.id().starts_with(id));
    let mut tuned = store.tuned_rows();
    tuned.retain(|row| row.key.id().starts_with(id));
    let entry = match (&kernels[..], &tuned[..]) {
        ([row], []) => Entry::kernel(row),
        ([], [row]) => {
            let mut trials = store.trials(&row.key);
            trials.retain(|trial| trial.problem == row.choice.provenance.problem);
            Entry::tuned(row, trials)
        }
        ([], []) => return Err(CliError::failure(IdError::None { id: id.to_owned() })),
        _ => {
            let count = kernels.len() + tuned.len();
            return Err(CliError::failure(IdError::Several { id: id.to_owned(), count }));
        }
    };
    if json {
        return print_json(&entry, out);
    }
    entry.print(out)?;
    Ok(())
}

impl<'a> Entry<'a> {
    fn kernel(row: &'a KernelRow) -> Self {
        let KernelRow { key, made, image_bytes, about } = row;
        let nvrtc = &key.nvrtc;
        Entry::Kernel { id: row.id(), made: *made, image_bytes: *image_bytes, nvrtc, manifest: about }
    }

    fn tuned(row: &'a TunedRow, trials: Vec<Trial>) -> Self {
        let TunedRow { key, made, choice } = row;
        Entry::Tuned { id: key.id(), made: *made, tokens: key.bucket, problem: &key.problem, choice, trials }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Entry::Kernel { id, made, image_bytes, nvrtc, manifest } => {
                writeln!(out, "{:9} {id}", "kernel")?;
                match manifest {
                    KernelAbout::Attention(manifest) => print_attention(manifest, out)?,
                    KernelAbout::Operation(operation) => print_operation(operation, out)?,
                }
                let bytes = number::grouped((*image_bytes).into());
                let lines = [
                    ("made", format!("{} ago, NVRTC {nvrtc}", age(*made))),
                    ("size", format!("{bytes} bytes")),
                ];
                table(&lines, out)
            }
            Entry::Tuned { id, made, tokens, problem, choice, trials } => {
                print_choice(id, *made, *tokens, problem, choice, out)?;
                trials.iter().try_for_each(|trial| print_trial(trial, out))
            }
        }
    }
}

fn print_attention(manifest: &Manifest, out: &mut dyn Write) -> io::Result<()> {
    let lines = [
        ("pattern", manifest.pattern.trim().to_owned()),
        ("pass", manifest.pass.to_string()),
        ("shape", manifest.shape.to_string()),
        ("for", manifest.target.clone()),
        ("schedule", manifest.schedule.clone()),
        ("by", manifest.generator.clone()),
    ];
    table(&lines, out)?;
    for kernel in &manifest.kernels {
        let KernelEntry { name, block, resources, dynamic_smem_bytes, .. } = kernel;
        let smem = dynamic_smem_bytes + resources.static_smem_bytes;
        let registers = resources.registers;
        writeln!(out, "  {name}: {block} threads, {registers} registers, {smem} bytes of shared memory")?;
    }
    Ok(())
}

fn print_operation(operation: &Operation, out: &mut dyn Write) -> io::Result<()> {
    let Operation { name, target, generator } = operation;
    let lines = [("operation", name.clone()), ("for", target.clone()), ("by", generator.clone())];
    table(&lines, out)
}

fn print_choice(
    id: &str,
    made: i64,
    tokens: u64,
    problem: &TuneProblem,
    choice: &TunedChoice,
    out: &mut dyn Write,
) -> io::Result<()> {
    let TuneProblem { head_dim, group, dtype, target, device, driver, compiler, generator, .. } = problem;
    let from = &choice.provenance;
    let finished = if from.finished { "searched to the end" } else { "stopped at its budget" };
    let tried = format!("{} of {} candidates, {finished}", from.candidates_timed, from.candidates);
    // On a CPU the threads stand where a GPU has its driver.
    let driver = if driver.ends_with("threads") { driver.clone() } else { format!("driver {driver}") };
    let features = [(problem.softcap, ", softcap"), (problem.sink_logit, ", sink logits")];
    let features = features.map(|(is_there, text)| if is_there { text } else { "" }).concat();
    let (shortest, longest) = (u128::from(tokens / 2 + 1), u128::from(tokens));
    let lines = [
        ("tuned", id.to_owned()),
        ("pattern", from.pattern.trim().to_owned()),
        ("pass", problem.pass.clone()),
        ("shape", format!("D {head_dim}, {dtype}, {group} query heads to a KV head{features}")),
        ("tokens", format!("{} to {}", number::grouped(shortest), number::grouped(longest))),
        ("for", format!("{target} on {device}, {driver}, {compiler}")),
        ("schedule", choice.schedule.clone()),
        ("time", format!("{}, spread {:.1} %", number::time(choice.seconds), choice.spread * 100.0)),
        ("timed", format!("{}; {tried}", from.problem)),
        ("made", format!("{} ago by {generator}", age(made))),
    ];
    table(&lines, out)
}

fn print_trial(trial: &Trial, out: &mut dyn Write) -> io::Result<()> {
    let Trial { schedule, outcome, .. } = trial;
    match outcome {
        TrialOutcome::Measured(seconds) => writeln!(out, "  {}  {schedule}", number::time(*seconds)),
        TrialOutcome::Checked => writeln!(out, "  checked  {schedule}"),
        TrialOutcome::Refused(why) => writeln!(out, "  refused  {schedule}: {why}"),
    }
}

fn table(lines: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    lines
        .iter()
        .try_for_each(|(name, value)| writeln!(out, "{name:9} {}", value.replace('\n', "\n          ")))
}
