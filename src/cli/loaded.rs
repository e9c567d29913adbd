//! A CUDA source of the user's, such as an emitted one after editing.

use std::path::Path;

use longgen_codegen::cuda::source::CudaSource;
use longgen_runtime::read::read_limited;
use thiserror::Error;

use super::CliError;

/// More bytes than any kernel's source has.
const SOURCE_LIMIT: u64 = 4 << 20;

/// A source and the kernel it stands in for.
#[derive(Debug)]
pub struct LoadedCuda {
    /// The text.
    pub source: CudaSource,
    /// The fingerprint of the specification, as the header says.
    pub fingerprint: String,
}

/// Why a source was not taken.
#[derive(Debug, Error)]
enum LoadError {
    #[error("`{name}` is not UTF-8 text")]
    NotText { name: String },
    #[error(
        "`{name}` has no line `// spec: ...` at its head: start from what `lgc emit --stage cuda` prints"
    )]
    NoHeader { name: String },
}

/// Reads a source.
///
/// # Errors
/// [`CliError::Failure`] for a file that cannot be read or has lost its header.
pub fn load(path: &Path) -> Result<LoadedCuda, CliError> {
    let bytes = read_limited(path, "CUDA source", SOURCE_LIMIT).map_err(CliError::failure)?;
    let name =
        path.file_name().map_or_else(|| "loaded.cu".into(), |name| name.to_string_lossy().into_owned());
    let text =
        String::from_utf8(bytes).map_err(|_| CliError::failure(LoadError::NotText { name: name.clone() }))?;
    let header = text.lines().take_while(|line| line.starts_with("//"));
    let fingerprint =
        header.filter_map(|line| line.strip_prefix("// spec:")).map(|spec| spec.trim().to_string()).next();
    let fingerprint =
        fingerprint.ok_or_else(|| CliError::failure(LoadError::NoHeader { name: name.clone() }))?;
    Ok(LoadedCuda { source: CudaSource { name, text }, fingerprint })
}
