//! `lgc tune`: measures which schedule is the quickest for a pattern, and remembers it.

mod cpu;
mod cuda;
mod picture;
pub mod request;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use longgen_codegen::model::{PassGroup, Ranked};
use longgen_runtime::problem::DType;
use longgen_runtime::store::{Store, TuneKey};
use longgen_runtime::tune::{Bench, Limits, Progress, TuneReport, search};

use super::device::DeviceArg;
use super::drawing::Drawing;
use super::kernel_args::{MaskArgs, NvrtcArgs};
use super::{CliError, engine, number, store};
use request::{Request, Search};

const NOTES: &str = "\
Each candidate is checked against the f64 oracle, then timed on the pattern itself; repeats of all candidates take turns, and
the slower half leaves after each round. What was measured is kept: Ctrl-C ends with the best so far, and the same
command goes on from there. `lgc run`, `generate` and `eval` take the result without being told; --explain shows the
candidates and why others were left out, and measures nothing. A result holds for the D, type, number of query heads of a KV
head and threads it was measured with, those of --model, --dtype and --threads, and for a softcap if the pattern has one.

Examples:
  lgc tune 'sink=4, window=4096'
  lgc tune longgen-sink --model llama-2-7b --length 8k..128k --pass forward,backward,decode --device cuda --budget 180s
  lgc tune longgen-stride --explain";

/// Arguments of `lgc tune`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    mask: MaskArgs,
    /// Heads and head dimension: llama-2-7b, llama-3-8b, a model directory or a config.json
    #[arg(long, value_name = "MODEL", default_value = "llama-2-7b")]
    model: String,
    /// Lengths: A..B for three from A to B, or a list with commas; 1k..16k by default, 8k..128k on a GPU
    #[arg(long, value_name = "LENGTHS", value_parser = request::lengths)]
    length: Option<request::Lengths>,
    /// Passes, with commas
    #[arg(long, value_name = "PASSES", value_delimiter = ',', default_value = "forward,backward,decode", value_parser = request::pass)]
    pass: Vec<PassGroup>,
    /// Type of Q, K and V: f32 (CPU only), bf16, fp16; by default f32, on a GPU bf16
    #[arg(long, value_parser = request::dtype)]
    dtype: Option<DType>,
    /// Time for everything: 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = request::duration)]
    budget: Duration,
    /// Where to measure
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// Tune the backward that gives the same bits in every run, which `lgc run` takes; on a CPU each does
    #[arg(long)]
    deterministic: bool,
    /// Show the candidates and the reasons of those left out; measure nothing
    #[arg(long)]
    explain: bool,
    /// Forget what was measured of these problems before
    #[arg(long)]
    again: bool,
    /// Threads on the CPU; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = number::count)]
    threads: Option<usize>,
    /// Take processor time instead of time on the wall, on a CPU that is busy otherwise (Linux)
    #[arg(long)]
    cpu_time: bool,
    /// Draw time over candidates: NAME.png or NAME.svg, one picture for each pass and length
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Searches, prints, remembers.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    args.plot.as_deref().map(Drawing::of).transpose().map_err(CliError::usage)?;
    engine::set_threads(args.threads)?;
    let request = Request::new(args)?;
    if args.explain {
        return explain(args, &request, out);
    }
    let stop = engine::stop_flag()?;
    let session = Session::new(args, &request, &stop);
    let reports = match args.device {
        DeviceArg::Cpu => cpu::search(&request, &session),
        DeviceArg::Cuda => cuda::search(args, &request, &session),
    };
    session.bar.finish_and_clear();
    let reports = reports?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&reports).map_err(CliError::failure)?)?;
    } else {
        let left = request.searches().len() - reports.len();
        write!(out, "{}", table::Reports { pattern: &request.canonical, reports: &reports, left })?;
    }
    if let Some(path) = &args.plot {
        let written = picture::write(path, &reports)?;
        if !args.json {
            written.iter().try_for_each(|path| writeln!(out, "{}", path.display()))?;
        }
    }
    Ok(())
}

fn explain(args: &Args, request: &Request, out: &mut dyn Write) -> Result<(), CliError> {
    let mut lists: Vec<(Search, Vec<Ranked<String>>)> = Vec::new();
    for search in request.searches() {
        let list = match args.device {
            DeviceArg::Cpu => cpu::candidates(request, search),
            DeviceArg::Cuda => cuda::candidates(request, search),
        };
        lists.push((search, list?));
    }
    if args.json {
        let text = table::candidates_json(&lists);
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&text).map_err(CliError::failure)?)?);
    }
    for (search, list) in &lists {
        write!(out, "{}", table::Candidates { search, list })?;
    }
    Ok(())
}

/// What the searches of one run share: the time, the store, the display.
struct Session<'a> {
    store: std::sync::Arc<Store>,
    canonical: &'a str,
    deadline: Instant,
    stop: &'a AtomicBool,
    again: bool,
    bar: ProgressBar,
}

impl<'a> Session<'a> {
    fn new(args: &Args, request: &'a Request, stop: &'a AtomicBool) -> Session<'a> {
        let bar = engine::progress(args.budget.as_secs(), "{msg}  [{elapsed}/{len} s]");
        Session {
            store: store::open(),
            canonical: &request.canonical,
            deadline: Instant::now() + args.budget,
            stop,
            again: args.again,
            bar,
        }
    }

    /// Whether there was a Ctrl-C: what is not begun is left for the next time.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Searches with its share of the time that is left; `after` more searches follow.
    fn search<B: Bench>(
        &self,
        what: Search,
        after: usize,
        key: &TuneKey,
        bench: &mut B,
    ) -> Result<TuneReport, CliError>
    where
        B::Error: std::error::Error + 'static,
    {
        if self.again {
            self.store.forget_trials(key, &bench.describe());
        }
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        let limits = Limits { deadline: now + left / (after as u32 + 1), stop: self.stop };
        let show = &mut |progress: Progress<'_>| self.show(what, progress);
        search(bench, (&self.store, key, self.canonical), limits, show).map_err(CliError::failure)
    }

    fn show(&self, what: Search, progress: Progress<'_>) {
        let Progress { candidates, running, measured, best } = progress;
        let best = best.map_or(String::new(), |(schedule, seconds)| {
            format!(", best {} ms: {schedule}", number::milliseconds(seconds))
        });
        let left = self.deadline.saturating_duration_since(Instant::now()).as_secs();
        self.bar.set_message(format!(
            "{what}: {running} of {candidates} candidates, {measured} measurements{best}; {left} s left"
        ));
    }
}
