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
mod state;
mod streams;

use std::path::PathBuf;

/// The library: what a program finds as its driver where this file is called `libcuda.so.1`. It is a cuBLASLt, too.
///
/// # Errors
/// What is missing, in words.
pub fn library() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let name = format!("{}longgen_emulator{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders = test.ancestors().skip(1).take(2);
    let file = folders.map(|folder| folder.join(&name)).find(|file| file.is_file());
    file.ok_or_else(|| format!("there is no {name} beside {}", test.display()))
}

/// Loads the library as the driver of this process, and says where it is. To be called before anything opens a driver.
///
/// # Errors
/// As [`library`]; that it does not load.
pub fn stand_in() -> Result<PathBuf, String> {
    let file = library()?;
    // SAFETY: the library is the one beside this test; it has no initialisers.
    let library = unsafe { libloading::os::unix::Library::open(Some(&file), libloading::os::unix::RTLD_NOW) };
    std::mem::forget(library.map_err(|error| error.to_string())?);
    Ok(file)
}
