//! A run on the CPU.

use longgen_codegen::model::PassGroup;
use longgen_runtime::cpu::{CpuAttention, CpuGradientInputs, CpuInputs};
use longgen_runtime::tune::tuned_blockings;

use super::input::Input;
use super::output::{Gradients, Results};
use crate::cli::kernel_args::Subject;
use crate::cli::{CliError, store};

/// Computes everything that was asked for.
///
/// # Errors
/// [`CliError::Failure`] for a head dimension without kernels.
pub fn run(subject: &Subject, input: &Input, backward: bool) -> Result<Results, CliError> {
    let problem = &input.problem;
    let attention = CpuAttention::new(&subject.ir, problem.shape.head_dim()).map_err(CliError::failure)?;
    attention.use_tuned(tuned_blockings(
        &store::open(),
        &subject.ir,
        (problem.shape, problem.softcap().is_some()),
        (attention.isa(), attention.threads()),
    ));
    let inputs = CpuInputs {
        q: input.q.view(),
        k: input.k.view(),
        v: input.v.view(),
        sink_logit: input.sink_logit.as_deref(),
    };
    let output = attention.forward(problem, inputs).map_err(CliError::failure)?;
    let gradients = match &input.d_o {
        Some(d_o) if backward => {
            let incoming = CpuGradientInputs {
                o: output.o.view(),
                lse: &output.lse,
                d_o: d_o.view(),
                d_lse: input.d_lse.as_deref(),
            };
            let found = attention.backward(problem, inputs, incoming).map_err(CliError::failure)?;
            Some(Gradients { dq: found.dq, dk: found.dk, dv: found.dv, d_sink: found.d_sink })
        }
        _ => None,
    };
    let passes =
        if backward { &[PassGroup::Forward, PassGroup::Backward][..] } else { &[PassGroup::Forward] };
    let schedules = passes.iter().map(|&pass| {
        let (blocking, chosen_by) = attention.blocking(problem, input.q.dtype(), pass);
        format!("{pass}: {blocking} ({})", chosen_by.words())
    });
    Ok(Results { o: output.o, lse: output.lse, gradients, schedules: schedules.collect() })
}
