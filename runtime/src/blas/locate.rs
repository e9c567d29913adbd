//! Where cuBLASLt may be found. The order is that of NVRTC: an option, an environment variable, the CUDA toolkit, the
//! system loader, Python's packages (NVIDIA's own, and the copy that older PyTorch wheels bring).

use std::path::{Path, PathBuf};

use longgen_codegen::cuda::locate::ToolSearch;

use super::{BlasError, CublasLt};

/// What to search. Empty fields are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlasSearch {
    /// A file or folder named on the command line. Binding: when it does not load, nothing else is tried.
    pub option: Option<PathBuf>,
    /// The same, from an environment variable (`LONGGEN_CUBLASLT` for `lgc`). Binding too.
    pub variable: Option<PathBuf>,
    /// Where the CUDA toolkit and Python's packages are.
    pub tools: ToolSearch,
}

/// Folders of a Python package tree that hold cuBLASLt, newest layout first.
const WHEEL_FOLDERS: [&str; 4] = ["nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/cu12/lib", "torch/lib"];
/// Names of the library, newest first; bare ones are for the system loader.
const SONAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

impl BlasSearch {
    /// The first cuBLASLt that loads.
    ///
    /// # Errors
    /// [`BlasError::NotFound`] lists every place tried with the reason it did not serve; a binding choice that fails
    /// gives its own error at once.
    pub fn find(&self) -> Result<CublasLt, BlasError> {
        if let Some(chosen) = self.option.as_ref().or(self.variable.as_ref()) {
            return open_chosen(chosen);
        }
        let mut tried = Vec::new();
        let folders = self.tools.toolkit_library_folders().into_iter();
        let packages = self.tools.package_folders(&mut tried);
        let wheels = packages.iter().flat_map(|root| WHEEL_FOLDERS.map(|folder| root.join(folder)));
        let in_folder = |folder: PathBuf| SONAMES.map(|name| folder.join(name)).into_iter();
        let files = folders
            .flat_map(in_folder)
            .filter(|file| file.is_file())
            .chain(SONAMES.map(PathBuf::from))
            .chain(wheels.flat_map(in_folder).filter(|file| file.is_file()));
        for file in files {
            match CublasLt::open(&file) {
                Ok(found) => return Ok(found),
                Err(error) => tried.push(error.to_string()),
            }
        }
        if packages.is_empty() {
            tried.push("Python's packages: no folders".to_owned());
        }
        Err(BlasError::NotFound { tried })
    }
}

/// A choice of the user's: the library, its folder, or the root of a toolkit.
fn open_chosen(chosen: &Path) -> Result<CublasLt, BlasError> {
    let failed = |reason: &str| BlasError::Load { path: chosen.to_owned(), reason: reason.to_owned() };
    let chosen = std::path::absolute(chosen).map_err(|error| failed(&error.to_string()))?;
    if chosen.is_file() {
        return CublasLt::open(&chosen);
    }
    let folders = ["", "lib64", "lib", WHEEL_FOLDERS[0], WHEEL_FOLDERS[1]].map(|part| chosen.join(part));
    let mut files = folders.iter().flat_map(|folder| SONAMES.map(|name| folder.join(name)));
    let file = files.find(|file| file.is_file());
    CublasLt::open(&file.ok_or_else(|| failed("holds no libcublasLt.so.13 or .12"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_choice_is_an_error_and_not_a_fallback() {
        let search =
            BlasSearch { option: Some(PathBuf::from("/nonexistent/cublas")), ..BlasSearch::default() };
        let error = search.find().expect_err("no such folder").to_string();
        assert!(error.contains("/nonexistent/cublas"), "{error}");
    }

    #[test]
    fn a_missing_library_says_what_was_tried() {
        let tools = ToolSearch { python: Some("no-such-python".into()), ..ToolSearch::default() };
        match (BlasSearch { tools, ..BlasSearch::default() }).find() {
            // A machine with a toolkit finds one all the same.
            Ok(found) => assert!(found.version() > 0),
            Err(BlasError::NotFound { tried }) => {
                assert!(tried.iter().any(|line| line.contains("no-such-python")), "{tried:?}");
                assert!(tried.iter().any(|line| line.contains("libcublasLt.so.13")), "{tried:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}
