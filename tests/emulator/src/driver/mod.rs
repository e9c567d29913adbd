//! The driver's C interface, and how it gets into a process.
//!
//! Callers keep the contract of the driver, which is what each `unsafe` in here rests on: pointers are to live values of their
//! type, strings end in NUL, arrays are as long as the call says. Work is done when it is submitted, so nothing is read later.
#![allow(unsafe_code)]

mod blas;
mod context;
mod errors;
mod memory;
mod modules;
mod nvrtc;
mod state;
mod streams;

use std::io;
use std::path::Path;

pub use nvrtc::REAL as REAL_NVRTC;

/// Loads the library from this path, for good.
///
/// # Errors
/// When the system's loader refuses it.
pub fn load(file: &Path) -> io::Result<()> {
    // SAFETY: the library is this crate's own, and has no initialisers.
    let library = unsafe { libloading::os::unix::Library::open(Some(file), libloading::os::unix::RTLD_NOW) };
    std::mem::forget(library.map_err(io::Error::other)?);
    Ok(())
}
