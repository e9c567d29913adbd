//! Filling a bundle: for programs that compile their patterns when they are built.

use std::sync::Arc;

use super::{Bundle, BundledKernel, BundledPattern, ImageKind};
use crate::artifact::{Artifact, BuildError, CompiledKernel};
use crate::cuda::nvrtc::Nvrtc;
use crate::spec::{KernelSpec, Pass, PatternCode, Shape};
use crate::target::Target;

impl Bundle {
    /// Names a pattern, under which C and Python find its kernels. A name that does not fit the file is refused when the
    /// bundle is written.
    pub fn add_pattern(&mut self, label: &str, code: &PatternCode) {
        let (text, hash) = (code.canonical.clone(), code.hash());
        self.info.patterns.push(BundledPattern { label: label.to_owned(), text, hash });
    }

    /// Compiles every pass of a pattern that [`Bundle::add_pattern`] has named, for one shape and target: machine code, and
    /// PTX too unless the target is one that only its own devices run.
    ///
    /// # Errors
    /// [`BuildError`]; a fused backward that is refused is left out, since the split one does its work.
    pub fn compile(
        &mut self,
        nvrtc: &Nvrtc,
        label: &str,
        code: &Arc<PatternCode>,
        shape: Shape,
        target: Target,
    ) -> Result<(), BuildError> {
        for pass in Pass::ALL {
            let specs = KernelSpec::candidates(pass, target, shape, code);
            if specs.is_empty() {
                continue;
            }
            match Artifact::build_first(nvrtc, &specs) {
                Ok(artifact) => {
                    self.kernels.extend(BundledKernel::of_artifact(label, artifact, !target.is_exact()));
                }
                Err(BuildError::Refused { .. }) if pass.has_substitute() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl BundledKernel {
    /// What was compiled, as a bundle holds it: machine code, and PTX if that is wanted.
    pub fn of_artifact(label: &str, artifact: Artifact, with_ptx: bool) -> Vec<BundledKernel> {
        let Artifact { ptx, cubin, manifest, .. } = artifact;
        let kernel = |kind, image| {
            let compiled = CompiledKernel { image, manifest: manifest.clone() };
            BundledKernel { pattern: label.to_owned(), kind, compiled }
        };
        let mut kernels = vec![kernel(ImageKind::Cubin, cubin)];
        if with_ptx {
            kernels.push(kernel(ImageKind::Ptx, [ptx.as_bytes(), b"\0"].concat()));
        }
        kernels
    }
}
