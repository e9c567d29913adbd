//! Hosts that launch the kernels of a bundle, on an emulated GPU that none of its machine code is for: they take the PTX.

use std::path::{Path, PathBuf};
use std::process::Command;

use longgen_emulator::Emulated;

use super::hosts::Host;
use super::made::{cuda, lgc};

/// Newer than anything that the bundle has machine code for.
const CAPABILITY: &str = "12.0";

/// What `program` prints of its result with the emulator as its driver.
fn launch(program: &Path, emulated: &Emulated, bundle: &Path) -> String {
    let mut command = Command::new(program);
    command.arg(bundle).envs(emulated.variables()).env("LONGGEN_EMULATOR_CAPABILITY", CAPABILITY);
    let output = command.output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn c_and_rust_hosts_launch_what_they_find() {
    let Ok(nvrtc) = cuda::nvrtc().inspect_err(|reason| eprintln!("skipped: {reason}")) else { return };
    let emulated = Emulated::new(nvrtc.path()).expect("the emulator is built with the tests");
    let folder = tempfile::tempdir().unwrap();
    let (cache, file) = (folder.path().join("cache"), folder.path().join("kernels.lgk"));
    let file_text = file.to_str().expect("UTF-8");
    lgc(
        &cache,
        &["bundle", "sink=4, window=64", "--pass", "forward,decode", "--arch", "sm_80", "-o", file_text],
    );
    let test = std::env::current_exe().unwrap();
    let rust_host: PathBuf = test.ancestors().nth(2).expect("the target folder").join("examples/bundle");
    let c_host = Host::all(folder.path()).into_iter().find_map(|host| match host {
        Host::C(program) => Some(program),
        Host::Python => None,
    });
    for program in c_host.into_iter().chain([rust_host].into_iter().filter(|program| program.is_file())) {
        let printed = launch(&program, &emulated, &file);
        // Each compares with a reference of its own, and fails where the two differ.
        let says = [
            "sm_80 PTX, compute capability 12.0: relative error",
            "agrees with the oracle: forward for sm_80",
        ];
        assert!(says.iter().any(|text| printed.contains(text)), "{}: {printed}", program.display());
    }
}
