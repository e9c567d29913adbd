//! A cubin as SASS text, through `nvdisasm`.

use std::path::Path;
use std::process::{Command, Stdio};

/// Why there is no SASS.
#[derive(Debug, thiserror::Error)]
pub enum SassError {
    /// A file could not be written or the program not started.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program refused the cubin.
    #[error("`{program}` failed ({status}): {message}")]
    Refused {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// What it wrote to its error stream.
        message: String,
    },
}

/// Disassembles `cubin` with the `nvdisasm` at `program`. The cubin passes through a file in `scratch`, since the
/// program reads files only.
///
/// # Errors
/// [`SassError`] when the program cannot be run or refuses the cubin.
pub fn disassemble(program: &Path, cubin: &[u8], scratch: &Path) -> Result<String, SassError> {
    let name = program.display().to_string();
    let file = scratch.join(format!("longgen-{}-{}.cubin", std::process::id(), blake3::hash(cubin).to_hex()));
    let run = |source| SassError::Run { program: name.clone(), source };
    std::fs::write(&file, cubin).map_err(run)?;
    let output = Command::new(program).arg("-c").arg(&file).stdin(Stdio::null()).output();
    // The scratch file is gone whatever happened; failing to delete it is no reason to withhold the text.
    let _ = std::fs::remove_file(&file);
    let output = output.map_err(run)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(SassError::Refused { program: name, status: output.status.to_string(), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
