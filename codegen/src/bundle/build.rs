//! Filling a bundle: for programs that compile their patterns when they are built.

use std::sync::Arc;

use super::{Bundle, BundledKernel, BundledPattern, ImageKind};
use crate::artifact::{Artifact, BuildError, CompiledKernel};
use crate::build::{Missing, Order, Outcome};
use crate::cuda::nvrtc::Nvrtc;
use crate::model::PassGroup;
use crate::spec::{PatternCode, Shape};
use crate::target::Target;

impl Bundle {
    /// Names a pattern, under which C and Python find its kernels. A name that does not fit the file is refused when the
    /// bundle is written.
    pub fn add_pattern(&mut self, label: &str, code: &PatternCode) {
        let (text, hash) = (code.canonical.clone(), code.hash());
        self.info.patterns.push(BundledPattern { label: label.to_owned(), text, hash });
    }

    /// Compiles passes of a pattern that [`Bundle::add_pattern`] has named, for one shape and target: machine code, and PTX too
    /// unless the target is one that only its own devices run. A backward is whole with the kernels of one way to compute it.
    ///
    /// # Errors
    /// [`CompileError`]; the bundle then is what it was.
    pub fn compile(
        &mut self,
        nvrtc: &Nvrtc,
        label: &str,
        code: &Arc<PatternCode>,
        shape: Shape,
        target: Target,
        passes: &[PassGroup],
    ) -> Result<(), CompileError> {
        let order = Order::new(code, &[shape], &[target], passes);
        let Outcome { kernels, missing } = order.build(|job| Artifact::build_first(nvrtc, &job.specs))?;
        if let Some(missing) = missing.into_iter().next() {
            return Err(CompileError::Missing(Box::new(missing)));
        }
        let kernels = kernels.into_iter();
        self.kernels
            .extend(kernels.flat_map(|kernel| BundledKernel::of_artifact(label, kernel, !target.is_exact())));
        Ok(())
    }
}

/// Why a pattern could not be compiled into a bundle.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A pass that was asked for and that has no kernels: to be left out of the passes for this shape and target.
    #[error(transparent)]
    Missing(Box<Missing>),
    /// A kernel could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
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
