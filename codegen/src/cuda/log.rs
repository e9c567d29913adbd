//! What ptxas said: registers, spills, shared memory and warnings of each kernel, read from the compile log.
//! It reads text only, and refuses a kernel only in [`PtxasReport::check`].

use serde::{Deserialize, Serialize};

/// What one kernel takes, as ptxas counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelResources {
    /// The kernel's name.
    pub name: String,
    /// Registers per thread at launch. With `setmaxnreg` this is the number before any warp changes it.
    pub registers: u32,
    /// Local memory of a thread's stack frame, in bytes.
    pub stack_bytes: u32,
    /// Bytes written by register spills.
    pub spill_store_bytes: u32,
    /// Bytes read back by register spills.
    pub spill_load_bytes: u32,
    /// Statically allocated shared memory, in bytes.
    pub static_smem_bytes: u32,
    /// Named barriers in use.
    pub barriers: u32,
}

/// Why a compiled kernel is not to be shipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Registers spilled to local memory.
    #[error("kernel `{kernel}` spills registers: {store_bytes} bytes stored, {load_bytes} bytes loaded")]
    Spills {
        /// The kernel.
        kernel: String,
        /// Bytes of spill stores.
        store_bytes: u32,
        /// Bytes of spill loads.
        load_bytes: u32,
    },
    /// ptxas says that it serialised wgmma, ignored setmaxnreg, or the like.
    #[error("ptxas warns of lost performance: {line}")]
    Serialised {
        /// The log line.
        line: String,
    },
    /// Any other warning.
    #[error("ptxas warns: {line}")]
    Warning {
        /// The log line.
        line: String,
    },
    /// The log names no kernel, so nothing is known about it.
    #[error("the compile log names no kernel, so its registers and spills are unknown")]
    NoReport,
}

/// The compile log, read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtxasReport {
    /// One entry per kernel, in the log's order.
    pub kernels: Vec<KernelResources>,
    /// ptxas' notes of lost performance (C75xx: serialised wgmma, setmaxnreg ignored).
    pub losses: Vec<String>,
    /// Every other warning, of the C++ front end too.
    pub warnings: Vec<String>,
}

impl PtxasReport {
    /// Reads a log. Lines it does not know are skipped: the log's wording is no interface.
    pub fn parse(log: &str) -> Self {
        let mut report = PtxasReport::default();
        let mut in_entry = false;
        for line in log.lines().map(str::trim) {
            if line.contains("Potential Performance Loss") || has_loss_code(line) {
                report.losses.push(line.to_owned());
            } else if is_warning(line) {
                report.warnings.push(line.to_owned());
            } else if let Some(name) = between(line, "Compiling entry function '", "'") {
                report.kernels.push(KernelResources { name: name.to_owned(), ..Default::default() });
                in_entry = true;
            } else if let Some(name) = line.split("Function properties for ").nth(1) {
                // Properties of a device function that was not inlined are not the kernel's own.
                in_entry = report.kernels.last().is_some_and(|kernel| kernel.name == name.trim());
            } else if let (true, Some(kernel)) = (in_entry, report.kernels.last_mut()) {
                kernel.read(line);
            }
        }
        report
    }

    /// The entry of one kernel.
    pub fn kernel(&self, name: &str) -> Option<&KernelResources> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Refuses what must not be shipped: spills, serialised wgmma, any warning.
    ///
    /// # Errors
    /// The first [`Refusal`], in the order given there.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.kernels.is_empty() {
            return Err(Refusal::NoReport);
        }
        for kernel in &self.kernels {
            if kernel.spill_store_bytes + kernel.spill_load_bytes > 0 {
                return Err(Refusal::Spills {
                    kernel: kernel.name.clone(),
                    store_bytes: kernel.spill_store_bytes,
                    load_bytes: kernel.spill_load_bytes,
                });
            }
        }
        if let Some(line) = self.losses.first() {
            return Err(Refusal::Serialised { line: line.clone() });
        }
        match self.warnings.first() {
            Some(line) => Err(Refusal::Warning { line: line.clone() }),
            None => Ok(()),
        }
    }
}

impl KernelResources {
    /// `0 bytes stack frame, 0 bytes spill stores, ...` or `Used 40 registers, used 1 barriers, 16 bytes smem`.
    fn read(&mut self, line: &str) {
        let line = line.split_once(" : ").map_or(line, |(_, rest)| rest);
        for part in line.split(',').map(str::trim) {
            let Some(number) = part.split_whitespace().find_map(|word| word.parse::<u32>().ok()) else {
                continue;
            };
            if part.ends_with("bytes stack frame") {
                self.stack_bytes = number;
            } else if part.ends_with("bytes spill stores") {
                self.spill_store_bytes = number;
            } else if part.ends_with("bytes spill loads") {
                self.spill_load_bytes = number;
            } else if part.ends_with("registers") {
                self.registers = number;
            } else if part.ends_with("barriers") {
                self.barriers = number;
            } else if part.ends_with("bytes smem") {
                self.static_smem_bytes = number;
            }
        }
    }
}

/// C7500 to C7599 tell of performance given away; ptxas prints them as `(C7510)`.
fn has_loss_code(line: &str) -> bool {
    line.match_indices("(C75").any(|(at, _)| {
        let code = &line.as_bytes()[at + 4..];
        code.len() >= 3 && code[0].is_ascii_digit() && code[1].is_ascii_digit() && code[2] == b')'
    })
}

fn is_warning(line: &str) -> bool {
    line.contains(": warning") || line.starts_with("warning") || line.contains("ptxas warning")
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'attention_forward' for 'sm_90a'\n\
        ptxas info    : Function properties for attention_forward\n    \
        16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 3 barriers, 16 bytes stack, 1024 bytes smem\n\
        ptxas info    : Compile time = 293.1 ms\n";

    #[test]
    fn resources_are_read() {
        let report = PtxasReport::parse(CLEAN);
        let kernel = report.kernel("attention_forward").expect("listed");
        let (regs, stack, smem, bars) =
            (kernel.registers, kernel.stack_bytes, kernel.static_smem_bytes, kernel.barriers);
        assert_eq!((regs, stack, smem, bars), (168, 16, 1024, 3));
        assert_eq!(report.check(), Ok(()));
    }

    #[test]
    fn spills_are_refused() {
        let log = CLEAN.replace("0 bytes spill stores, 0", "8 bytes spill stores, 24");
        let refusal = PtxasReport::parse(&log).check();
        assert!(matches!(refusal, Err(Refusal::Spills { store_bytes: 8, load_bytes: 24, .. })));
    }

    #[test]
    fn serialised_wgmma_is_refused() {
        let line = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are \
                    serialized due to insufficient register resources";
        let refusal = PtxasReport::parse(&format!("{CLEAN}{line}\n")).check();
        assert!(matches!(refusal, Err(Refusal::Serialised { .. })));
    }

    #[test]
    fn a_silent_log_is_refused() {
        assert_eq!(PtxasReport::parse("").check(), Err(Refusal::NoReport));
    }
}
