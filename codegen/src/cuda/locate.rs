//! Where NVRTC and nvdisasm may be found. The order is part of the command line's contract: an option, an environment
//! variable, the CUDA toolkit, the system loader, Python's packages, the cache that `fetch` fills.
//! Nothing here reads the environment: the caller hands in what it read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::nvrtc::Nvrtc;
use super::{NvrtcError, fetch};

/// What to search. Empty fields are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolSearch {
    /// A file or folder named on the command line. Binding: when it does not load, nothing else is tried.
    pub option: Option<PathBuf>,
    /// The same, from an environment variable (`LONGGEN_NVRTC` for `lgc`). Binding too.
    pub variable: Option<PathBuf>,
    /// The toolkit's root, when the caller knows of another than `/usr/local/cuda`.
    pub cuda_home: Option<PathBuf>,
    /// The Python program to ask for its package folders, such as `python3`.
    pub python: Option<String>,
    /// The cache folder that [`fetch`](super::fetch::fetch) fills.
    pub cache: Option<PathBuf>,
}

/// The oldest NVRTC the templates are written for (setmaxnreg and the `sm_90a` checks of ptxas).
const OLDEST: (u32, u32) = (12, 3);
const DEFAULT_TOOLKIT: &str = "/usr/local/cuda";
/// Folders of a Python package tree that hold NVRTC, newest layout first.
const WHEEL_FOLDERS: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cu12/lib"];
/// Bare names for the system loader.
const SONAMES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];

impl ToolSearch {
    /// The first NVRTC that loads and is recent enough.
    ///
    /// # Errors
    /// [`NvrtcError::NotFound`] lists every place tried with the reason it did not serve; a binding choice that
    /// fails gives its own error at once.
    pub fn nvrtc(&self) -> Result<Nvrtc, NvrtcError> {
        if let Some(chosen) = self.option.as_ref().or(self.variable.as_ref()) {
            return recent(open_any(chosen)?);
        }
        let mut tried = Vec::new();
        for folder in self.toolkit_library_folders() {
            if let Some(found) = attempt(&folder, open_folder(&folder), &mut tried) {
                return Ok(found);
            }
        }
        for name in SONAMES {
            if let Some(found) = attempt(Path::new(name), Nvrtc::open(Path::new(name), &[]), &mut tried) {
                return Ok(found);
            }
        }
        let packages = self.package_folders(&mut tried);
        let cached = self.cache.iter().map(|cache| fetch::tree(cache));
        for root in packages.into_iter().chain(cached) {
            let folders = WHEEL_FOLDERS.iter().map(|folder| root.join(folder)).filter(|f| f.is_dir());
            let folders: Vec<PathBuf> = folders.collect();
            if folders.is_empty() {
                tried.push(format!("{}: holds no NVRTC", root.display()));
            }
            for folder in folders {
                if let Some(found) = attempt(&folder, open_folder(&folder), &mut tried) {
                    return Ok(found);
                }
            }
        }
        Err(NvrtcError::NotFound { tried })
    }

    /// The first `nvdisasm`, which turns a cubin into SASS text.
    pub fn nvdisasm(&self) -> Option<PathBuf> {
        let mut candidates: Vec<PathBuf> = Vec::new();
        for chosen in [&self.option, &self.variable].into_iter().flatten() {
            // A choice of NVRTC points at a toolkit or wheel tree: its programs lie in `../bin`.
            let folder = if chosen.is_dir() { Some(chosen.as_path()) } else { chosen.parent() };
            candidates.extend(folder.and_then(Path::parent).map(|root| root.join("bin/nvdisasm")));
        }
        candidates.extend(self.toolkits().map(|root| root.join("bin/nvdisasm")));
        let packages = self.package_folders(&mut Vec::new());
        let cached = self.cache.iter().map(|cache| fetch::tree(cache));
        candidates
            .extend(packages.into_iter().chain(cached).map(|root| root.join("nvidia/cu13/bin/nvdisasm")));
        candidates.into_iter().find(|path| path.is_file())
    }

    fn toolkits(&self) -> impl Iterator<Item = PathBuf> {
        self.cuda_home.clone().into_iter().chain([PathBuf::from(DEFAULT_TOOLKIT)])
    }

    /// The folders of the CUDA toolkits' libraries that exist.
    pub fn toolkit_library_folders(&self) -> Vec<PathBuf> {
        self.toolkits()
            .flat_map(|root| [root.join("lib64"), root.join("lib")])
            .filter(|f| f.is_dir())
            .collect()
    }

    /// Python's package folders, asked of Python itself: virtual environments and user installs move them. `tried` gets
    /// the reason when there is no answer.
    pub fn package_folders(&self, tried: &mut Vec<String>) -> Vec<PathBuf> {
        const QUESTION: &str = "import site, sys\nfor p in sys.path + site.getsitepackages() + \
                                [site.getusersitepackages()]:\n    if p.endswith('-packages'): print(p)";
        let Some(python) = &self.python else { return Vec::new() };
        let answer = Command::new(python).args(["-c", QUESTION]).stdin(Stdio::null()).output();
        let answer = match answer {
            Ok(answer) if answer.status.success() => answer,
            Ok(answer) => {
                tried.push(format!("`{python}`: {}", answer.status));
                return Vec::new();
            }
            Err(error) => {
                tried.push(format!("`{python}`: {error}"));
                return Vec::new();
            }
        };
        let mut folders: Vec<PathBuf> = Vec::new();
        for line in String::from_utf8_lossy(&answer.stdout).lines() {
            let folder = PathBuf::from(line);
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }
}

/// A choice of the user's: a library file, its folder, or the root of a toolkit.
fn open_any(chosen: &Path) -> Result<Nvrtc, NvrtcError> {
    if chosen.is_file() {
        let folder = chosen.parent().unwrap_or(Path::new("."));
        return Nvrtc::open(&absolute(chosen)?, &builtins(folder)?);
    }
    let folders = ["", "lib64", "lib", WHEEL_FOLDERS[0], WHEEL_FOLDERS[1]].map(|part| chosen.join(part));
    let holds = |folder: &&PathBuf| library_file(folder).is_ok();
    open_folder(folders.iter().find(holds).unwrap_or(&folders[0]))
}

fn open_folder(folder: &Path) -> Result<Nvrtc, NvrtcError> {
    Nvrtc::open(&library_file(folder)?, &builtins(folder)?)
}

/// The NVRTC library of a folder: the highest major version, else the unversioned link.
fn library_file(folder: &Path) -> Result<PathBuf, NvrtcError> {
    let mut best: Option<(u32, PathBuf)> = None;
    for (name, path) in files(folder)? {
        let major = match name.strip_prefix("libnvrtc.so") {
            Some("") => 0,
            Some(suffix) => match suffix.strip_prefix('.').and_then(|number| number.parse().ok()) {
                Some(major) => major,
                None => continue,
            },
            None => continue,
        };
        if best.as_ref().is_none_or(|(other, _)| major > *other) {
            best = Some((major, path));
        }
    }
    let missing = || missing(folder, "holds no libnvrtc.so");
    best.map(|(_, path)| path).ok_or_else(missing)
}

/// The builtins beside it, `libnvrtc-builtins.so.MAJOR.MINOR`. NVRTC cannot compile a thing without them.
fn builtins(folder: &Path) -> Result<Vec<PathBuf>, NvrtcError> {
    let is_version = |suffix: &str| {
        let parts: Vec<&str> = suffix.split('.').collect();
        parts.len() == 2 && parts.iter().all(|part| part.parse::<u32>().is_ok())
    };
    let mut found: Vec<PathBuf> = files(folder)?
        .into_iter()
        .filter(|(name, _)| name.strip_prefix("libnvrtc-builtins.so.").is_some_and(is_version))
        .map(|(_, path)| path)
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(missing(folder, "holds no libnvrtc-builtins.so.MAJOR.MINOR"));
    }
    Ok(found)
}

fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, NvrtcError> {
    let folder = absolute(folder)?;
    let entries = std::fs::read_dir(&folder).map_err(|e| missing(&folder, &e.to_string()))?;
    Ok(entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect())
}

fn absolute(path: &Path) -> Result<PathBuf, NvrtcError> {
    std::path::absolute(path).map_err(|e| missing(path, &e.to_string()))
}

fn missing(path: &Path, reason: &str) -> NvrtcError {
    NvrtcError::Load { path: path.to_owned(), reason: reason.to_owned() }
}

fn recent(found: Nvrtc) -> Result<Nvrtc, NvrtcError> {
    if found.version() >= OLDEST {
        return Ok(found);
    }
    Err(NvrtcError::TooOld { path: found.path().to_owned(), found: found.version(), oldest: OLDEST })
}

fn attempt(place: &Path, result: Result<Nvrtc, NvrtcError>, tried: &mut Vec<String>) -> Option<Nvrtc> {
    match result.and_then(recent) {
        Ok(found) => Some(found),
        Err(NvrtcError::Load { path, reason }) => {
            tried.push(format!("{}: {reason}", path.display()));
            None
        }
        Err(error) => {
            tried.push(format!("{}: {error}", place.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_choice_is_an_error_and_not_a_fallback() {
        let search = ToolSearch { option: Some(PathBuf::from("/nonexistent/nvrtc")), ..Default::default() };
        let error = search.nvrtc().expect_err("no such folder");
        assert!(error.to_string().contains("/nonexistent/nvrtc"), "{error}");
    }

    #[test]
    fn a_missing_library_says_what_was_tried() {
        let cache = Some(PathBuf::from("/nonexistent/cache"));
        let search = ToolSearch { cache, python: Some("no-such-python".into()), ..Default::default() };
        match search.nvrtc() {
            // A machine with a toolkit finds one all the same.
            Ok(found) => assert!(found.version() >= OLDEST),
            Err(NvrtcError::NotFound { tried }) => {
                assert!(tried.iter().any(|line| line.contains("no-such-python")), "{tried:?}");
                assert!(tried.iter().any(|line| line.contains("/nonexistent/cache")), "{tried:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}
