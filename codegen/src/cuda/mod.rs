//! The CUDA backend: a kernel's specification becomes CUDA C++ text, and NVRTC makes PTX and cubin of it.
//! No GPU and no driver are needed for any of it.

pub mod abi;
pub mod config;
pub mod engine;
pub mod fetch;
pub mod kernels;
pub mod locate;
pub mod log;
#[allow(unsafe_code)] // The C interface of NVRTC.
pub mod nvrtc;
pub mod sass;
pub mod source;
pub mod splice;

use std::path::PathBuf;

/// Why a source was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum NvrtcError {
    /// No NVRTC anywhere.
    #[error(
        "NVRTC, NVIDIA's run-time compiler, was not found; `lgc fetch-nvrtc` installs it. Tried:\n  {list}",
        list = tried.join("\n  ")
    )]
    NotFound {
        /// Each place, and why it did not serve.
        tried: Vec<String>,
    },
    /// A file is no usable NVRTC.
    #[error("cannot load NVRTC from `{path}`: {reason}")]
    Load {
        /// The file or folder.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// An NVRTC was found, but older than the kernels need.
    #[error(
        "NVRTC at `{path}` is version {}.{}; {}.{} is the oldest that serves",
        found.0, found.1, oldest.0, oldest.1
    )]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: (u32, u32),
        /// The oldest that serves.
        oldest: (u32, u32),
    },
    /// The compiler refused the source.
    #[error("NVRTC refuses `{name}`:\n{log}")]
    Source {
        /// The source's name.
        name: String,
        /// The compile log, whole.
        log: String,
    },
    /// A call of NVRTC failed for another reason than the source.
    #[error("{call}: {reason}")]
    Call {
        /// The function.
        call: &'static str,
        /// NVRTC's message.
        reason: String,
    },
    /// A source, name or option holds a NUL byte.
    #[error("a source, name or option for NVRTC holds a NUL byte")]
    Interior,
}
