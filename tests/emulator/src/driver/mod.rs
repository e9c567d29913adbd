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

/// Loads the emulator as the driver of this process, and says where it is: the file is a cuBLASLt, too. To be called before
/// anything opens a driver.
///
/// # Errors
/// What is missing, in words.
pub fn stand_in() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let name = format!("{}longgen_emulator{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let beside =
        |folder: Option<PathBuf>| folder.map(|folder| folder.join(&name)).filter(|file| file.is_file());
    let folder = test.parent().map(PathBuf::from);
    let above = folder.as_ref().and_then(|folder| folder.parent()).map(PathBuf::from);
    let file = beside(folder)
        .or_else(|| beside(above))
        .ok_or_else(|| format!("there is no {name} beside the test"))?;
    // SAFETY: the library is the one beside this test; it has no initialisers.
    let library = unsafe { libloading::os::unix::Library::open(Some(&file), libloading::os::unix::RTLD_NOW) };
    std::mem::forget(library.map_err(|error| error.to_string())?);
    Ok(file)
}
