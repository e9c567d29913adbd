//! `lgc cache list`.

use std::io::{self, Write};
use std::path::Path;

use longgen_runtime::store::{KernelAbout, KernelRow, Operation, Store, TunedRow};
use serde::Serialize;

use super::{age, print_json};
use crate::cli::{CliError, number};

/// Characters of a pattern that fit a line.
const PATTERN_WIDTH: usize = 40;

#[derive(Serialize)]
struct Listing<'a> {
    file: Option<&'a Path>,
    kernels: Vec<Kernel<'a>>,
    tuned: Vec<Tuned<'a>>,
}

#[derive(Serialize)]
struct Kernel<'a> {
    id: String,
    made: i64,
    /// The pass, or the operation.
    pass: &'a str,
    head_dim: Option<u32>,
    dtype: Option<&'a str>,
    target: &'a str,
    schedule: Option<&'a str>,
    nvrtc: &'a str,
    generator: &'a str,
    bytes: u64,
    pattern: Option<&'a str>,
}

#[derive(Serialize)]
struct Tuned<'a> {
    id: String,
    made: i64,
    pass: &'a str,
    head_dim: u32,
    group: u32,
    dtype: &'a str,
    target: &'a str,
    device: &'a str,
    tokens: u64,
    schedule: &'a str,
    seconds: f64,
    spread: f64,
    generator: &'a str,
    pattern: &'a str,
}

/// Prints both tables.
pub fn run(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let (kernels, tuned) = (store.kernels(), store.tuned_rows());
    let listing = Listing {
        file: store.path(),
        kernels: kernels.iter().map(Kernel::new).collect(),
        tuned: tuned.iter().map(Tuned::new).collect(),
    };
    if json {
        return print_json(&listing, out);
    }
    listing.print(out)?;
    Ok(())
}

impl<'a> Kernel<'a> {
    fn new(row: &'a KernelRow) -> Self {
        let (id, made, nvrtc, bytes) = (row.id(), row.made, row.key.nvrtc.as_str(), row.image_bytes);
        match &row.about {
            KernelAbout::Attention(manifest) => Kernel {
                id,
                made,
                pass: manifest.pass.name(),
                head_dim: Some(manifest.shape.head_dim),
                dtype: Some(manifest.shape.dtype.name()),
                target: &manifest.target,
                schedule: Some(&manifest.schedule),
                nvrtc,
                generator: &manifest.generator,
                bytes,
                pattern: Some(&manifest.pattern),
            },
            KernelAbout::Operation(Operation { name, target, generator }) => Kernel {
                id,
                made,
                pass: name,
                head_dim: None,
                dtype: None,
                target,
                schedule: None,
                nvrtc,
                generator,
                bytes,
                pattern: None,
            },
        }
    }
}

impl<'a> Tuned<'a> {
    fn new(row: &'a TunedRow) -> Self {
        let (problem, choice) = (&row.key.problem, &row.choice);
        Tuned {
            id: row.key.id(),
            made: row.made,
            pass: &problem.pass,
            head_dim: problem.head_dim,
            group: problem.group,
            dtype: &problem.dtype,
            target: &problem.target,
            device: &problem.device,
            tokens: row.key.bucket,
            schedule: &choice.schedule,
            seconds: choice.seconds,
            spread: choice.spread,
            generator: &problem.generator,
            pattern: &choice.provenance.pattern,
        }
    }
}

impl Listing<'_> {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let place = self.file.map_or("in memory".into(), |file| file.display().to_string());
        let bytes: u64 = self.kernels.iter().map(|kernel| kernel.bytes).sum();
        let (kernels, tuned) = (self.kernels.len(), self.tuned.len());
        writeln!(
            out,
            "{place}: {kernels} kernels ({}B), {tuned} tuning results",
            number::scaled(bytes.into())
        )?;
        if kernels > 0 {
            writeln!(
                out,
                "\n{:10}  {:22} {:>4} {:4} {:7} {:6} {:>9} {:>7}  pattern",
                "kernel", "pass", "D", "type", "for", "nvrtc", "bytes", "age"
            )?;
        }
        for kernel in &self.kernels {
            let Kernel { id, pass, target, nvrtc, .. } = kernel;
            let head_dim = kernel.head_dim.map_or("-".to_owned(), |head_dim| head_dim.to_string());
            let dtype = kernel.dtype.unwrap_or("-");
            let (bytes, age) = (number::grouped(kernel.bytes.into()), age(kernel.made));
            let pattern = shortened(kernel.pattern.unwrap_or("-"));
            writeln!(
                out,
                "{id:10}  {pass:22} {head_dim:>4} {dtype:4} {target:7} {nvrtc:6} {bytes:>9} {age:>7}  {pattern}"
            )?;
        }
        if tuned > 0 {
            writeln!(
                out,
                "\n{:10}  {:22} {:>4} {:4} {:7} {:>9} {:>10} {:>7}  pattern",
                "tuned", "pass", "D", "type", "for", "tokens", "time", "age"
            )?;
        }
        for tuned in &self.tuned {
            let Tuned { id, pass, head_dim, dtype, target, tokens, .. } = tuned;
            let (time, age) = (number::time(tuned.seconds), age(tuned.made));
            let pattern = shortened(tuned.pattern);
            writeln!(
                out,
                "{id:10}  {pass:22} {head_dim:>4} {dtype:4} {target:7} {tokens:>9} {time:>10} {age:>7}  {pattern}"
            )?;
        }
        Ok(())
    }
}

/// The beginning of a text, on one line.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= PATTERN_WIDTH {
        return line;
    }
    line.chars().take(PATTERN_WIDTH - 3).chain("...".chars()).collect()
}
