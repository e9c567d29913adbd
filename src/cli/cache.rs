//! `lgc cache`: what is remembered between runs, and how to move it or be rid of it.

mod list;
mod show;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use longgen_codegen::cuda::source::{GENERATOR, tuning_generator};
use longgen_runtime::store::{Prune, Store, Transferred};
use serde::Serialize;
use thiserror::Error;

use super::{CliError, store};

const EXAMPLES: &str = "\
Examples:
  lgc cache list
  lgc cache show 1f9c2a7e04
  lgc cache prune --older-than 90
  lgc cache export tuned.db         then, on a machine of the same kind: lgc cache import tuned.db

Kernels and tuning results lie in one file, longgen.db, in the cache folder; `lgc doctor` says where that is.";

/// Arguments of `lgc cache`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Table of all kernels and tuning results
    List,
    /// Everything about one of them
    Show {
        /// Its ID in the list, or the beginning of it
        id: String,
    },
    /// Throw away what other versions of lgc made, what is old, or everything
    Prune {
        /// Entries made more than this many days ago
        #[arg(long, value_name = "DAYS", conflicts_with = "all")]
        older_than: Option<u32>,
        /// Everything
        #[arg(long)]
        all: bool,
    },
    /// Write everything to a file
    Export {
        /// The file to write
        file: PathBuf,
    },
    /// Take in what an exported file holds
    Import {
        /// The file to read
        file: PathBuf,
    },
}

/// No entry, or more than one, has an ID that begins so.
#[derive(Debug, Error)]
enum IdError {
    #[error("nothing in the cache has an ID that begins with `{id}`; `lgc cache list` lists them")]
    None { id: String },
    #[error("{count} entries have an ID that begins with `{id}`; give more of it")]
    Several { id: String, count: usize },
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// Runs one action on the store of the cache folder.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let store = store::open();
    match &args.action {
        Action::List => list::run(&store, args.json, out),
        Action::Show { id } => show::run(&store, id, args.json, out),
        Action::Prune { older_than, all } => prune(&store, *older_than, *all, args.json, out),
        Action::Export { file } => {
            let sum = store.export(file).map_err(CliError::failure)?;
            transferred("exported", &sum, args.json, out)
        }
        Action::Import { file } => {
            let sum = store.import(file).map_err(CliError::failure)?;
            transferred("imported", &sum, args.json, out)
        }
    }
}

fn prune(
    store: &Store,
    older_than: Option<u32>,
    all: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let what = match older_than {
        _ if all => Prune::All,
        Some(days) => Prune::OlderThan(Duration::from_secs(u64::from(days) * SECONDS_PER_DAY)),
        None => {
            Prune::OtherGenerators { kernels: GENERATOR.to_owned(), tuned: tuning_generator().to_owned() }
        }
    };
    let pruned = store.prune(&what);
    if json {
        return print_json(&pruned, out);
    }
    let (kernels, tuned) = (pruned.kernels, pruned.tuned);
    writeln!(out, "removed {kernels} kernels, {tuned} tuning results, {} measurements", pruned.trials)?;
    Ok(())
}

fn transferred(verb: &str, sum: &Transferred, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    if json {
        return print_json(sum, out);
    }
    let Transferred { kernels, tuned, trials, damaged } = sum;
    write!(out, "{verb} {kernels} kernels, {tuned} tuning results, {trials} measurements")?;
    if *damaged > 0 {
        write!(out, "; {damaged} damaged entries were left out")?;
    }
    Ok(writeln!(out)?)
}

fn print_json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::failure)?;
    Ok(writeln!(out, "{text}")?)
}

/// How long ago, in one unit: `40 s`, `3 h`, `12 d`.
fn age(made: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs().saturating_sub(made.unsigned_abs());
    let unit =
        [(SECONDS_PER_DAY, "d"), (3600, "h"), (60, "min")].into_iter().find(|(size, _)| seconds >= *size);
    unit.map_or(format!("{seconds} s"), |(size, name)| format!("{} {name}", seconds / size))
}
