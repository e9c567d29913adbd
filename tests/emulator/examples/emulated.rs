//! Runs a program with the emulator in the place of NVIDIA's libraries.
//!
//! ```text
//! cargo run -p longgen-emulator --example emulated -- PATH/libnvrtc.so.13 lgc check longgen-sink --device cuda
//! ```

use std::error::Error;
use std::path::Path;
use std::process::{Command, exit};

use longgen_emulator::Emulated;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(nvrtc), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: emulated PATH/libnvrtc.so.13 PROGRAM [ARGUMENTS]".into());
    };
    let emulated = Emulated::new(Path::new(&nvrtc))?;
    let status = Command::new(program).args(arguments).envs(emulated.variables()).status()?;
    exit(status.code().unwrap_or(1))
}
