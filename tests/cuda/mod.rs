//! What the CUDA test binaries share: where NVRTC is looked for, and which patterns are tried.
#![allow(dead_code)] // Each binary uses its part.

use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Failed, Trial};
use longgen_codegen::cuda::NvrtcError;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{Clause, IndexSet, Mask, Pattern, PatternBuilder, Predicate};
use longgen_codegen::spec::PatternCode;
use longgen_emulator::Emulated;
use longgen_runtime::driver::{GpuError, driver_version};

/// Where tests look for NVRTC: the places `lgc` looks.
pub fn search() -> ToolSearch {
    let path = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let cache = path("LONGGEN_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|home| home.join("longgen")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/longgen")));
    ToolSearch {
        option: None,
        variable: path("LONGGEN_NVRTC"),
        cuda_home: path("CUDA_HOME"),
        python: Some("python3".to_owned()),
        cache,
    }
}

/// NVRTC, or why there is none. A choice that does not load is a failure, not an absence.
pub fn nvrtc() -> Result<Nvrtc, String> {
    // Once: a second search would find by its bare name what the first has loaded, and not say where it is.
    static FOUND: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    let find = || match search().nvrtc() {
        Ok(found) => Ok(found),
        Err(NvrtcError::NotFound { .. }) => Err("no NVRTC on this machine".to_owned()),
        Err(other) => panic!("{other}"),
    };
    FOUND.get_or_init(find).clone()
}

/// Where a test finds a GPU's libraries: the machine's own, or the emulator's where there is no driver.
pub struct Gpu {
    /// Of NVRTC.
    pub search: ToolSearch,
    /// Of cuBLASLt, if not where it usually is.
    pub blas: Option<std::path::PathBuf>,
    /// The emulator's folder, which must stay.
    emulated: Option<Emulated>,
}

impl Gpu {
    /// Whether it is no GPU, and slow.
    pub fn is_emulated(&self) -> bool {
        self.emulated.is_some()
    }

    /// Whether each trial gets a process of its own. The emulator does one thing at a time, tells a fault to whoever asks first, and
    /// draws the order of events from how much it has done: so trials run side by side, and each alone as among the others.
    pub fn keeps_trials_apart(&self) -> bool {
        self.is_emulated() && std::env::var_os(APART).is_none()
    }

    /// Looks for a driver, and takes the emulator in its place where there is none.
    ///
    /// # Errors
    /// That there is no NVRTC.
    pub fn find() -> Result<Gpu, String> {
        let (nvrtc, search) = (nvrtc()?, search());
        let blas = std::env::var_os("LONGGEN_CUBLASLT").map(Into::into);
        if !matches!(driver_version(), Err(GpuError::NoDriver)) {
            return Ok(Gpu { search, blas, emulated: None });
        }
        let emulated = Emulated::new(nvrtc.path()).expect("the emulator is built with the tests");
        emulated.stand_in().expect("it loads");
        let folder = Some(emulated.folder().to_owned());
        let search = ToolSearch { variable: folder.clone(), ..search };
        Ok(Gpu { search, blas: folder, emulated: Some(emulated) })
    }
}

/// Set in a process that runs one trial.
const APART: &str = "LONGGEN_TRIAL_APART";

/// Runs a trial of this program in a process of its own.
///
/// # Errors
/// What the process says when the trial fails there.
pub fn run_apart(name: &str) -> Result<(), Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["--exact", name, "--nocapture"]).env(APART, "1").output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    // A name that no trial has would be no failure.
    if output.status.success() && told.contains("1 passed") {
        return Ok(());
    }
    Err(format!("{told}{}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The `main` of a binary whose trials need NVRTC and no GPU.
pub fn run_with_nvrtc(trials: impl FnOnce(Option<Nvrtc>) -> Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    // NVRTC works on as many threads as it is asked from; two are what a small machine has.
    arguments.test_threads.get_or_insert(2);
    let nvrtc = nvrtc();
    if let Err(reason) = &nvrtc {
        eprintln!("ignored: {reason}");
    }
    libtest_mimic::run(&arguments, trials(nvrtc.ok())).exit()
}

/// A pattern with a name for test titles.
#[derive(Clone)]
pub struct Case {
    /// No spaces.
    pub name: String,
    /// The pattern.
    pub pattern: Pattern,
}

impl Case {
    /// A published pattern.
    pub fn preset(name: &str) -> Self {
        Case { name: name.to_owned(), pattern: Pattern::preset(name).expect("a preset") }
    }

    fn new(name: &str, mask: Mask) -> Self {
        Case::built(name, Pattern::builder(mask))
    }

    fn built(name: &str, builder: PatternBuilder) -> Self {
        let pattern = builder.name(name).build().expect("a legal pattern");
        Case { name: name.to_owned(), pattern }
    }

    /// The mask of a layer that is not full.
    pub fn ir(&self) -> MaskIr {
        MaskIr::lower(&self.pattern, None).expect("few terms")
    }

    /// The pattern as kernels take it.
    pub fn code(&self) -> PatternCode {
        let ir = self.ir();
        PatternCode::new(ir.to_string(), &ir)
    }
}

/// Small patterns that between them reach every kind of tile within a few hundred tokens.
pub fn small_patterns() -> Vec<Case> {
    let predicate = Predicate::parse("q - k < 33 || (q + k) % 5 == head % 5");
    vec![
        Case::new("full", Mask::full()),
        Case::new("window", Mask::window(100)),
        Case::new("sink-window", Mask::sink(4) | Mask::window(65)),
        Case::new("stride", Mask::window(40) | Mask::stride(3)),
        Case::new("blocks", Mask::sink_blocks(1, 64) | Mask::window_blocks(2, 64)),
        Case::new("hole", Mask::full() - Mask::window(30)),
        Case::new("group", Mask::group(96)),
        Case::built("heads", Pattern::builder(Mask::window(48)).heads(IndexSet::of([1]), Mask::full())),
        Case::new("where", Mask::Clause(Clause::Where(predicate.expect("a legal predicate")))),
        // Two residues at once: no closed form, so its tiles are listed.
        Case::new("listed", (Mask::stride(2) & Mask::stride(3)) | Mask::window(17)),
    ]
}
