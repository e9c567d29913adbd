//! A folder in which a process finds the emulator under the names of NVIDIA's libraries.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::driver;

/// What NVIDIA's libraries are called that this one stands for: driver, compiler, products.
const NAMES: [&str; 3] = ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"];

/// The folder. It is removed when this is dropped.
#[derive(Debug)]
pub struct Emulated {
    folder: TempDir,
}

impl Emulated {
    /// Lays out the folder. `nvrtc` is the real library, whose builtins lie beside it.
    ///
    /// # Errors
    /// When a link cannot be made, or the emulator is not beside this program.
    pub fn new(nvrtc: &Path) -> io::Result<Emulated> {
        let emulated = Emulated { folder: tempfile::tempdir()? };
        let library = library()?;
        for name in NAMES {
            symlink(&library, emulated.folder().join(name))?;
        }
        symlink(nvrtc, emulated.folder().join(driver::REAL_NVRTC))?;
        for entry in nvrtc.parent().unwrap_or(Path::new(".")).read_dir()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so.") {
                symlink(entry.path(), emulated.folder().join(entry.file_name()))?;
            }
        }
        Ok(emulated)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the emulator the driver of this process. To be called before anything opens one.
    ///
    /// # Errors
    /// When it does not load.
    pub fn stand_in(&self) -> io::Result<()> {
        driver::load(&self.folder().join(NAMES[0]))
    }

    /// What `lgc` needs in its environment to find it.
    pub fn variables(&self) -> [(&'static str, PathBuf); 3] {
        ["LD_LIBRARY_PATH", "LONGGEN_NVRTC", "LONGGEN_CUBLASLT"].map(|name| (name, self.folder().to_owned()))
    }
}

/// The emulator's file, built beside the tests.
fn library() -> io::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let name = format!("{}longgen_emulator{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    // A test lies beside it, in `deps`; an example in a folder next to that.
    let near = test.ancestors().skip(1).take(2);
    let mut files = near.flat_map(|folder| [folder.join(&name), folder.join("deps").join(&name)]);
    files.find(|file| file.is_file()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("there is no {name} beside {}", test.display()))
    })
}
