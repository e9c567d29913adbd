//! How near the tuner comes to an exhaustive search, and the model's first guess to both.
//!
//! `cargo bench --bench tune -- [--device cpu|cuda] [--pattern TEXT]... [--lengths A,B,C] [--pass NAME] [--repeats R] [--cpu-time] [--all]`.
//! For each pattern and length every candidate that can run is timed R times, all taking turns, those that the model prunes
//! too; then the tuner searches as `lgc tune` does. Printed: the tuner's choice and the first guess over the best of the
//! exhaustive search, by the times of the exhaustive search; and whether pruning kept the best. With `--all` the time of
//! every candidate is printed beside the model's, which is what the model's costs are fitted to.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::{PassGroup, Rejection};
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, Shape};
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::problem::{DType, HeadShape};
use longgen_runtime::store::{Store, StoreLocation, TuneKey, TuneProblem};
use longgen_runtime::tune::{
    Bench, CpuBench, CpuClock, CpuSubject, GpuBench, GpuSubject, GpuTensors, GpuTuner, Limits, RaceRules,
    Standing, Statistic, search,
};

const PATTERNS: [&str; 3] = ["full", "sink=4, window=1024", "longgen-stride"];

struct Options {
    cuda: bool,
    cpu_time: bool,
    all: bool,
    patterns: Vec<String>,
    lengths: Vec<u32>,
    pass: PassGroup,
    repeats: usize,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() {
    let outcome = options().and_then(|options| run(&options));
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Outcome<()> {
    println!(
        "{:<24} {:>7} {:>5} {:>5} {:>10} {:>8} {:>8} {:>6}",
        "pattern", "tokens", "all", "kept", "best, ms", "tuned", "guess", "kept?"
    );
    for name in &options.patterns {
        let pattern = Pattern::preset(name).or_else(|_| name.parse())?;
        let ir = MaskIr::lower(&pattern, Some(0))?;
        if options.cuda {
            on_gpu(options, name, &pattern, &ir)?;
        } else {
            on_cpu(options, name, &ir)?;
        }
    }
    Ok(())
}

fn on_cpu(options: &Options, name: &str, ir: &MaskIr) -> Outcome<()> {
    for &tokens in &options.lengths {
        let clock = if options.cpu_time { CpuClock::Processor } else { CpuClock::Wall };
        let shape = HeadShape::new(8, 8, 128)?;
        let (pass, dtype) = (options.pass, DType::F32);
        let subject = CpuSubject { ir, pass, shape, dtype, tokens, softcap: None, clock, pool: None };
        compare(options, name, tokens, &mut CpuBench::new(&subject)?)?;
    }
    Ok(())
}

fn on_gpu(options: &Options, name: &str, pattern: &Pattern, ir: &MaskIr) -> Outcome<()> {
    let device = Device::open(0)?;
    let variable = std::env::var_os("LONGGEN_NVRTC").map(Into::into);
    let cache = KernelCache::in_memory(ToolSearch { variable, ..ToolSearch::default() });
    let target = *device.targets().first().ok_or("no kernels for this GPU")?;
    let (canonical, heads) = (pattern.to_string(), HeadShape::new(32, 32, 128)?);
    let shape = Shape::plain(128, Dtype::Bf16);
    let subject = GpuSubject { canonical: &canonical, ir, shape, heads, target };
    let mut tuner = GpuTuner::new(device, Arc::new(cache), subject)?;
    for &tokens in &options.lengths {
        let mut tensors = GpuTensors::new(&tuner, tokens, options.pass == PassGroup::Backward)?;
        let mut bench = GpuBench::new(&mut tuner, &mut tensors, options.pass, false)?;
        compare(options, name, tokens, &mut bench)?;
    }
    Ok(())
}

fn compare<B: Bench>(options: &Options, name: &str, tokens: u32, bench: &mut B) -> Outcome<()>
where
    B::Error: Error + 'static,
{
    /// Beyond these nothing is a rival: a GPU has hundreds that are legal.
    const MOST: usize = 64;
    let candidates = bench.candidates().to_vec();
    let runs =
        |n: &usize| !matches!(candidates[*n].rejected, Some(Rejection::Impossible(_) | Rejection::Twin(_)));
    let all: Vec<usize> = (0..candidates.len()).filter(runs).take(MOST).collect();
    let mut times: Vec<(usize, Vec<f64>)> = Vec::new();
    bench.prepare(&all);
    for &n in &all {
        while !bench.is_ready(n) {
            bench.wait();
        }
        match bench.admit(n)? {
            Ok(()) => times.push((n, Vec::new())),
            Err(reason) => eprintln!("refused: {}: {reason}", candidates[n].candidate),
        }
    }
    for _ in 0..options.repeats {
        for (n, times) in &mut times {
            times.push(bench.time(*n)?);
        }
    }
    let statistic = bench.rules().statistic;
    let time = |schedule: &str| {
        let found = times.iter().find(|(n, _)| candidates[*n].candidate == schedule);
        found.map_or(f64::NAN, |(_, times)| summary(statistic, times))
    };
    let best = times.iter().min_by(|a, b| summary(statistic, &a.1).total_cmp(&summary(statistic, &b.1)));
    let best = best.map(|(n, _)| *n).ok_or("no candidate runs")?;
    let best_seconds = time(&candidates[best].candidate);
    if options.all {
        eprintln!("  {name}, {}, {}: time and expected time in ms", options.pass, bench.describe());
        for (n, times) in &times {
            let (ranked, seconds) = (&candidates[*n], summary(statistic, times));
            eprintln!("  {:>10.3} {:>10.3}  {}", 1e3 * seconds, 1e3 * ranked.seconds, ranked.candidate);
        }
    }

    // The store is this search's own: its key tells nothing apart.
    let (store, key) =
        (Store::open(StoreLocation::Memory), TuneKey::new(TuneProblem::default(), tokens.into()));
    let stop = AtomicBool::new(false);
    let limits = Limits { deadline: Instant::now() + Duration::from_secs(120), stop: &stop };
    let report = search(bench, (&store, &key, name), limits, &mut |_| {})?;
    let tuned = report.best().map_or(f64::NAN, |best| time(&best.schedule));
    let guess = report.first_guess().map_or(f64::NAN, |guess| time(&guess.schedule));
    let kept = candidates.iter().filter(|ranked| ranked.rejected.is_none()).count();
    println!(
        "{name:<24} {tokens:>7} {:>5} {kept:>5} {:>10.3} {:>8.3} {:>8.3} {:>6}",
        times.len(),
        1e3 * best_seconds,
        tuned / best_seconds,
        guess / best_seconds,
        if candidates[best].rejected.is_none() { "yes" } else { "no" },
    );
    let named = |found: Option<&Standing>| found.map_or("-".to_owned(), |found| found.schedule.clone());
    let (tuned, guess) = (named(report.best()), named(report.first_guess()));
    eprintln!("  best {}; tuned {tuned}; guess {guess}", candidates[best].candidate);
    Ok(())
}

fn summary(statistic: Statistic, seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = if statistic == Statistic::Least { 0 } else { sorted.len().saturating_sub(1) / 2 };
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        cuda: false,
        cpu_time: false,
        all: false,
        patterns: Vec::new(),
        lengths: vec![1024, 4096, 16384],
        pass: PassGroup::Forward,
        repeats: RaceRules::CPU.most_repeats as usize,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--device" => options.cuda = value()? == "cuda",
            "--cpu-time" => options.cpu_time = true,
            "--all" => options.all = true,
            "--pattern" => options.patterns.push(value()?),
            "--lengths" => options.lengths = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--repeats" => options.repeats = value()?.parse()?,
            "--pass" => {
                let name = value()?;
                let found = PassGroup::ALL.into_iter().find(|pass| pass.name() == name);
                options.pass = found.ok_or(format!("`{name}` is none of forward, backward, decode"))?;
            }
            // What `cargo bench` adds.
            "--bench" => {}
            other => return Err(format!("unknown option `{other}`").into()),
        }
    }
    if options.patterns.is_empty() {
        options.patterns = PATTERNS.map(String::from).to_vec();
    }
    Ok(options)
}
