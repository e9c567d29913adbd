//! Fetches NVIDIA's redistributable NVRTC and nvdisasm into a cache folder, through Python's own package client:
//! pinned versions, pinned checksums, and either the whole tree appears or none of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The NVRTC that `fetch` installs. Also the version the shipped kernels are checked with.
pub const NVRTC_VERSION: &str = "13.0.88";

/// What is installed. A package has one checksum per processor architecture; the client takes the one that fits.
const REQUIREMENTS: &str = "\
nvidia-cuda-nvrtc==13.0.88 \\
  --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575 \\
  --hash=sha256:d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b
nvidia-cuda-nvdisasm==13.2.51 \\
  --hash=sha256:5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c \\
  --hash=sha256:483c8f652c1ca006135584b4faf7ea1d2bafe4c40ec1c9ef57a04c6acfbdd57f
";

/// What must be there afterwards, relative to the tree.
const EXPECTED: [&str; 2] = ["nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0"];

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The cache folder cannot be written.
    #[error("cannot write the cache folder `{path}`")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no such Python.
    #[error("cannot start `{python}`: a Python 3 with pip is needed to fetch NVRTC")]
    Python {
        /// The program asked for.
        python: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The package client failed: no network, no pip, or a checksum that differs.
    #[error("`{python} -m pip install` failed ({status}):\n{message}")]
    Client {
        /// The program asked for.
        python: String,
        /// How it ended.
        status: String,
        /// What it wrote to its error stream.
        message: String,
    },
    /// The client succeeded, yet a file is missing.
    #[error("the packages hold no `{file}`")]
    Incomplete {
        /// The file that should be there.
        file: &'static str,
    },
}

/// The tree inside the cache folder that [`fetch`] makes.
pub fn tree(cache: &Path) -> PathBuf {
    cache.join(format!("nvrtc-{NVRTC_VERSION}"))
}

/// Whether the tree is there already.
pub fn is_fetched(cache: &Path) -> bool {
    EXPECTED.iter().all(|file| tree(cache).join(file).is_file())
}

/// Installs NVRTC and nvdisasm below `cache` (about 120 MB on disk) and returns the tree. Does nothing when it is there.
///
/// # Errors
/// [`FetchError`]; the cache is then as it was before.
pub fn fetch(cache: &Path, python: &str) -> Result<PathBuf, FetchError> {
    let destination = tree(cache);
    if is_fetched(cache) {
        return Ok(destination);
    }
    let staging = Staging::create(cache)?;
    let requirements = staging.0.join("requirements.txt");
    write(&requirements, REQUIREMENTS)?;
    let packages = staging.0.join("tree");
    install(python, &requirements, &packages)?;
    for file in EXPECTED {
        if !packages.join(file).is_file() {
            return Err(FetchError::Incomplete { file });
        }
    }
    drop_second_copies(&packages.join("nvidia/cu13/lib"));
    match std::fs::rename(&packages, &destination) {
        Ok(()) => Ok(destination),
        // Another process was quicker, and its tree is as good.
        Err(_) if is_fetched(cache) => Ok(destination),
        Err(source) => Err(FetchError::Cache { path: destination, source }),
    }
}

fn install(python: &str, requirements: &Path, target: &Path) -> Result<(), FetchError> {
    let output = Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--no-compile",
        ])
        .args(["--no-input", "--disable-pip-version-check", "--quiet", "--target"])
        .arg(target)
        .arg("--requirement")
        .arg(requirements)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FetchError::Python { python: python.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FetchError::Client { python: python.to_owned(), status: output.status.to_string(), message })
}

/// The package carries NVRTC twice (`.alt`, for another C library); the second copy doubles the cache for nothing.
/// Failing to delete one does no harm, so it is no error.
fn drop_second_copies(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(".alt.") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A folder beside the destination, removed however `fetch` ends.
struct Staging(PathBuf);

impl Staging {
    fn create(cache: &Path) -> Result<Self, FetchError> {
        let path = cache.join(format!(".fetch-{}", std::process::id()));
        let failed = |source| FetchError::Cache { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        Ok(Staging(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path, text: &str) -> Result<(), FetchError> {
    std::fs::write(path, text).map_err(|source| FetchError::Cache { path: path.to_owned(), source })
}
