//! `lgc fetch-nvrtc`: NVIDIA's run-time compiler into the cache.

use std::io::Write;

use longgen_codegen::cuda::fetch;

use super::kernel_args::NoCache;
use super::{CliError, environment};

/// Arguments of `lgc fetch-nvrtc`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pinned versions and checksums, through Python's pip. Nothing happens when it is there already."
)]
pub struct Args {}

/// Fetches and says where it lies.
pub fn run(_: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let cache = environment::cache_folder().ok_or_else(|| CliError::failure(NoCache))?;
    let tree = fetch::fetch(&cache, &environment::python()).map_err(CliError::failure)?;
    writeln!(out, "NVRTC {} lies in {}", fetch::NVRTC_VERSION, tree.display())?;
    Ok(())
}
