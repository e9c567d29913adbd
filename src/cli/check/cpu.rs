//! CPU kernels against the oracle.

use longgen_runtime::cpu::{CpuAttention, CpuAttentionError, CpuGradientInputs, CpuInputs, Isa};
use longgen_runtime::gpu::OutputError;
use longgen_runtime::oracle::{self, Inputs};
use longgen_runtime::plain;
use longgen_runtime::problem::DType;

use super::numbers::Numbers;
use super::problems::{self, Named};
use super::table::Table;
use super::{Args, Outcome};
use crate::cli::CliError;
use crate::cli::kernel_args::Subject;

/// How many times the error of plain attention a 16-bit output may err.
const FACTOR: f64 = 2.0;
/// The same for f32 outputs and statistics. The yardstick rounds once where kernels round at every step of a sum and take
/// their exponential from a polynomial good to 2 units in the last place.
const FACTOR_F32: f64 = 32.0;

/// The kernels of a pattern, and what they are held to.
pub struct CpuSubject<'a> {
    subject: &'a Subject,
    attention: CpuAttention,
}

/// The table of all problems and types.
///
/// # Errors
/// Kernels that cannot be compiled.
pub fn table(args: &Args, subject: &Subject) -> Result<Table, CliError> {
    let head_dim = args.head_dim as usize;
    let kernels = CpuSubject::compile(subject, head_dim)?;
    let mut table = Table::new(format!("cpu ({})", kernels.isa()), subject);
    for problem in &problems::thorough(subject, head_dim)? {
        for dtype in args.dtypes() {
            table.add(problem, dtype, kernels.check(problem, dtype, args.seed)?);
        }
    }
    Ok(table)
}

impl<'a> CpuSubject<'a> {
    /// Compiles.
    ///
    /// # Errors
    /// Kernels that cannot be compiled.
    pub fn compile(subject: &'a Subject, head_dim: usize) -> Result<CpuSubject<'a>, CliError> {
        let attention = CpuAttention::new(&subject.ir, head_dim).map_err(CliError::failure)?;
        Ok(CpuSubject { subject, attention })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.attention.isa()
    }

    /// Forward and backward on random numbers, against the pattern's definition.
    ///
    /// # Errors
    /// A problem that the kernels do not take; wrong numbers are no error.
    pub fn check(&self, named: &Named, dtype: DType, seed: u32) -> Result<Outcome, CliError> {
        self.measured(named, dtype, seed).map_err(CliError::failure)
    }

    fn measured(&self, named: &Named, dtype: DType, seed: u32) -> Result<Outcome, CpuAttentionError> {
        let (pattern, layer, problem) = (&self.subject.pattern, self.subject.layer, &named.problem);
        let mask = |g: i64, i: i64, j: i64| pattern.sees(layer, g as u32, i as u32, j as u32);
        let numbers = Numbers::random(problem, dtype, pattern.softmax().sink_logit, seed)?;
        let Numbers { q, k, v, d_o, sink_logit } = &numbers;
        let inputs = CpuInputs { q: q.view(), k: k.view(), v: v.view(), sink_logit: sink_logit.as_deref() };
        let output = self.attention.forward(problem, inputs)?;
        let incoming =
            CpuGradientInputs { o: output.o.view(), lse: &output.lse, d_o: d_o.view(), d_lse: None };
        let found = self.attention.backward(problem, inputs, incoming)?;

        let [q, k, v, d_o] = [q, k, v, d_o].map(|tensor| tensor.to_f64());
        let sink = sink_logit.as_deref().map(wide);
        let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: sink.as_deref() };
        let exact = oracle::forward(problem, inputs, mask)?;
        let rough = plain::forward(problem, inputs, dtype, mask);
        let exact_back = oracle::backward(problem, inputs, &exact, &d_o, None, mask)?;
        let rough_back = plain::backward(problem, inputs, &rough, &d_o, None, dtype, mask);

        let factor = if dtype == DType::F32 { FACTOR_F32 } else { FACTOR };
        let measure = OutputError::measure;
        let mut outputs = vec![
            measure("o", &output.o.to_f64(), &exact.o, &rough.o, factor),
            measure("lse", &wide(&output.lse), &exact.lse, &rough.lse, FACTOR_F32),
            measure("dq", &found.dq.to_f64(), &exact_back.dq, &rough_back.dq, factor),
            measure("dk", &found.dk.to_f64(), &exact_back.dk, &rough_back.dk, factor),
            measure("dv", &found.dv.to_f64(), &exact_back.dv, &rough_back.dv, factor),
        ];
        if let (Some(found), Some(exact), Some(rough)) =
            (&found.d_sink, &exact_back.d_sink, &rough_back.d_sink)
        {
            outputs.push(measure("dsink_logit", &wide(found), exact, rough, FACTOR_F32));
        }
        Ok(Outcome { outputs })
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
