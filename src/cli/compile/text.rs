//! The table of `lgc compile`.

use std::io::{self, Write};

use longgen_codegen::build::Missing;

use super::build::Built;
use super::cpu::CpuKernels;

/// One line for each kernel, and for each pass that there is none for.
pub fn table(built: &[Built], missing: &[Missing], cpu: &CpuKernels, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{:30} {:8} {:>10} {:>8} {:>9} {:>13} {:>7}",
        "kernel", "for", "tile", "threads", "registers", "shared memory", "spills"
    )?;
    for kernel in built {
        let Some(artifact) = &kernel.artifact else {
            writeln!(
                out,
                "{:30} {:8} {:>10}",
                format!("attention_{}", kernel.pass),
                kernel.target,
                "source"
            )?;
            continue;
        };
        let manifest = &artifact.manifest;
        let tile = if kernel.pass.is_tiled() {
            format!("{}x{}", manifest.tile_m, manifest.tile_n)
        } else {
            "-".to_string()
        };
        for entry in &manifest.kernels {
            let resources = &entry.resources;
            let shared = entry.dynamic_smem_bytes + resources.static_smem_bytes;
            writeln!(
                out,
                "{:30} {:8} {tile:>10} {:>8} {:>9} {:>11.1} K {:>7}",
                entry.name,
                kernel.target,
                entry.block,
                resources.registers,
                f64::from(shared) / 1024.0,
                resources.spill_store_bytes + resources.spill_load_bytes
            )?;
        }
    }
    for Missing { target, pass, reason, .. } in missing {
        writeln!(out, "{:30} {target:8} none: {reason}", pass.name())?;
    }
    writeln!(
        out,
        "{:30} {:8} checked against the oracle on {} problems, largest error {:.1e}",
        "forward, backward, decode",
        cpu.isa.name(),
        cpu.problems,
        cpu.worst
    )
}
