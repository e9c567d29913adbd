//! `lgc doctor`: what this machine has, what it lacks, and how to get it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use longgen_codegen::cuda::fetch;
use longgen_runtime::blas::BlasError;
use longgen_runtime::cpu::Isa;
use longgen_runtime::driver::{Device, GpuError, driver_version};
use longgen_runtime::store::FILE_NAME;
use serde::Serialize;

use super::kernel_args::NvrtcArgs;
use super::{CliError, environment, store};

/// Arguments of `lgc doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    nvrtc: NvrtcArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    cpu: Finding,
    nvrtc: Finding,
    nvdisasm: Finding,
    cublaslt: Finding,
    driver: Finding,
    gpus: Vec<String>,
    cache: Finding,
    environment: Vec<(&'static str, String)>,
}

/// Something that is there, or is not.
#[derive(Serialize)]
struct Finding {
    found: bool,
    what: String,
    /// How to get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Finding {
    fn here(what: String) -> Finding {
        Finding { found: true, what, remedy: None }
    }

    fn missing(what: String, remedy: &'static str) -> Finding {
        Finding { found: false, what, remedy: Some(remedy) }
    }
}

/// Looks around and prints what it found. Missing things are no failure.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let findings = Findings::new(&args.nvrtc);
    if args.json {
        let json = serde_json::to_string_pretty(&findings).map_err(CliError::failure)?;
        return Ok(writeln!(out, "{json}")?);
    }
    Ok(findings.print(out)?)
}

impl Findings {
    fn new(nvrtc: &NvrtcArgs) -> Findings {
        let variables = environment::VARIABLES.iter();
        let set = variables.filter_map(|(name, _)| Some((*name, std::env::var_os(name)?)));
        Findings {
            version: env!("CARGO_PKG_VERSION"),
            cpu: cpu(),
            nvrtc: compiler(nvrtc),
            nvdisasm: disassembler(nvrtc),
            cublaslt: products(),
            driver: driver(),
            gpus: gpus(),
            cache: cache(),
            environment: set.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect(),
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "lgc {}", self.version)?;
        let findings = [
            ("CPU", &self.cpu),
            ("NVRTC", &self.nvrtc),
            ("nvdisasm", &self.nvdisasm),
            ("cuBLASLt", &self.cublaslt),
            ("CUDA driver", &self.driver),
            ("cache", &self.cache),
        ];
        for (name, finding) in findings {
            let mark = if finding.found { "ok" } else { "--" };
            let what = finding.what.replace('\n', "\n                   ");
            writeln!(out, "  {mark} {name:12}  {what}")?;
            if let Some(remedy) = finding.remedy {
                writeln!(out, "                   {remedy}")?;
            }
        }
        for gpu in &self.gpus {
            writeln!(out, "  ok {:12}  {gpu}", "GPU")?;
        }
        for (name, value) in &self.environment {
            writeln!(out, "     {name}={value}")?;
        }
        Ok(())
    }
}

fn cpu() -> Finding {
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Finding::here(format!("{}: {}, {threads} threads", std::env::consts::ARCH, sets.join(", ")))
}

fn compiler(args: &NvrtcArgs) -> Finding {
    match args.load_quietly() {
        Ok(nvrtc) => Finding::here(format!("{} at {}", nvrtc.version_text(), nvrtc.path().display())),
        Err(error) => Finding::missing(
            error,
            "needed for PTX and cubin only; `lgc fetch-nvrtc` installs it (120 MB), or give --nvrtc PATH",
        ),
    }
}

fn disassembler(args: &NvrtcArgs) -> Finding {
    match args.search().nvdisasm() {
        Some(path) => Finding::here(path.display().to_string()),
        None => Finding::missing(
            "not found".into(),
            "needed for `lgc emit --stage sass` only; `lgc fetch-nvrtc` installs it too",
        ),
    }
}

fn products() -> Finding {
    match environment::blas_search(None).find() {
        Ok(found) => {
            let version = found.version();
            let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
            Finding::here(format!("{major}.{minor}.{patch} at {}", found.path().display()))
        }
        Err(BlasError::NotFound { .. }) => Finding::missing(
            "not found".into(),
            "needed for `--device cuda` of train, generate and eval only; it comes with the CUDA toolkit, PyTorch and \
             nvidia-cublas",
        ),
        Err(error) => Finding::missing(error.to_string(), "set LONGGEN_CUBLASLT to one that loads"),
    }
}

fn driver() -> Finding {
    match driver_version() {
        Ok(version) => Finding::here(format!("CUDA {}.{}", version / 1000, version % 1000 / 10)),
        Err(error @ GpuError::NoDriver) => Finding::missing(
            error.to_string(),
            "needed to run on a GPU only: everything compiles and runs on the CPU without it",
        ),
        Err(error) => Finding::missing(error.to_string(), "reinstall NVIDIA's driver"),
    }
}

fn gpus() -> Vec<String> {
    let count = Device::count().unwrap_or(0);
    (0..count)
        .map(|ordinal| Device::open(ordinal).map_or_else(|error| error.to_string(), |d| described(&d)))
        .collect()
}

fn described(device: &Device) -> String {
    let (major, minor) = device.compute_capability();
    let targets: Vec<&str> = device.targets().iter().map(|target| target.name()).collect();
    let memory = device.memory().map_or(0, |(_, total)| total >> 30);
    let kernels = if targets.is_empty() { "none".to_string() } else { targets.join(", ") };
    format!("{}: compute capability {major}.{minor}, {memory} GiB, kernels: {kernels}", device.name())
}

fn cache() -> Finding {
    let Some(folder) = environment::cache_folder() else {
        return Finding::missing("no folder".into(), "set LONGGEN_CACHE to one");
    };
    let nvrtc = if fetch::is_fetched(&folder) { "NVRTC fetched" } else { "NVRTC not fetched" };
    let what = format!("{}: {nvrtc}, {}", folder.display(), kept(&folder));
    if is_writable(&folder) {
        Finding::here(what)
    } else {
        Finding::missing(format!("{what}; it cannot be written"), "set LONGGEN_CACHE to a folder that can")
    }
}

/// What the store holds. Asking must not make one.
fn kept(folder: &Path) -> String {
    if !folder.join(FILE_NAME).exists() {
        return "no kernels, no tuning results".to_owned();
    }
    let store = store::open();
    format!("{} kernels, {} tuning results", store.kernels().len(), store.tuned_rows().len())
}

/// Whether files can be made in a folder, or in the closest folder above it that exists.
fn is_writable(folder: &Path) -> bool {
    let existing = folder.ancestors().find(|folder| folder.is_dir());
    existing.is_some_and(|folder| {
        let probe = folder.join(format!(".lgc-{}", std::process::id()));
        let written = fs::write(&probe, []).is_ok();
        written && fs::remove_file(&probe).is_ok()
    })
}
