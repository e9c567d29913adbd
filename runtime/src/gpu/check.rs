//! The kernels against the f64 oracle, on random numbers. The yardstick is plain attention in the same precision: our
//! error may be at most k times its error, in norm and at the worst element alike.

use std::fmt;

use longgen_codegen::spec::Dtype;

use super::tensor::{DeviceTensor, Layout};
use super::{BackwardTensors, ForwardTensors, GpuAttention, GpuAttentionError};
use crate::driver::Buffer;
use crate::oracle::{self, Inputs};
use crate::plain;
use crate::problem::{AttentionProblem, DType, HeadShape, Sequences};
use crate::tensor::{HostTensor, TensorShape};

/// How many times the error of plain attention a kernel may err.
const FACTOR: f64 = 2.0;
/// The same for the log-sum-exp and for d_sink, which plain attention keeps in f32 throughout while kernels take powers
/// and logarithms of two from instructions that are good to about 2 units in the last place, and sum in another order.
const FACTOR_F32: f64 = 32.0;
/// The same for the worst element against plain attention's worst: each is the largest of many rounding errors, so their
/// ratio scatters where that of the norms does not.
const FACTOR_WORST: f64 = 4.0;
/// What outputs hold before a kernel runs: a NaN in both 16-bit types and in f32.
const POISON: u8 = 0xff;

/// The error of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputError {
    /// `o`, `lse`, `dq`, ...
    pub name: &'static str,
    /// Norm of our difference from the oracle over the norm of the oracle.
    pub error: f64,
    /// The same of plain attention.
    pub plain: f64,
    /// Our largest difference.
    pub worst: f64,
    /// Plain attention's largest difference.
    pub plain_worst: f64,
    /// Elements that are not finite where the oracle's are, or the reverse.
    pub misplaced: usize,
    /// The k of the rule.
    pub factor: f64,
}

impl OutputError {
    /// Measures a result against the oracle's and plain attention's.
    pub fn measure(
        name: &'static str,
        found: &[f64],
        exact: &[f64],
        rough: &[f64],
        factor: f64,
    ) -> OutputError {
        let mut misplaced = found.len().abs_diff(exact.len());
        let (mut ours, mut theirs, mut norm) = (0.0, 0.0, 0.0);
        let (mut worst, mut plain_worst) = (0.0f64, 0.0f64);
        for ((&x, &e), &r) in found.iter().zip(exact).zip(rough) {
            if !(x.is_finite() && e.is_finite()) {
                misplaced += usize::from(x != e && !(x.is_nan() && e.is_nan()));
                continue;
            }
            let (a, b) = ((x - e).abs(), (r - e).abs());
            ours += a * a;
            theirs += b * b;
            norm += e * e;
            worst = worst.max(a);
            plain_worst = plain_worst.max(b);
        }
        let relative = |sum: f64| if norm > 0.0 { (sum / norm).sqrt() } else { sum.sqrt() };
        let (error, plain) = (relative(ours), relative(theirs));
        OutputError { name, error, plain, worst, plain_worst, misplaced, factor }
    }

    /// Whether the rule holds.
    pub fn holds(&self) -> bool {
        let norm_holds = self.error <= self.factor * self.plain;
        self.misplaced == 0 && norm_holds && self.worst <= self.factor.max(FACTOR_WORST) * self.plain_worst
    }
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutputError { name, error, plain, worst, plain_worst, misplaced, factor } = self;
        let verdict = if self.holds() { "ok" } else { "WRONG" };
        write!(
            f,
            "{name}: error {error:.2e} (plain {plain:.2e}), worst {worst:.2e} (plain {plain_worst:.2e}), \
             misplaced {misplaced}, limit {factor} x plain: {verdict}"
        )
    }
}

/// The errors of all outputs of one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckReport {
    /// One entry per output.
    pub outputs: Vec<OutputError>,
}

impl CheckReport {
    /// Whether the rule holds for every output.
    pub fn holds(&self) -> bool {
        self.outputs.iter().all(OutputError::holds)
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.outputs.iter().map(OutputError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Random inputs of a problem, on the host.
struct Numbers {
    dtype: DType,
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
    d_o: HostTensor,
    sink_logit: Option<Vec<f32>>,
    /// Not given where the log-sum-exp may be -inf.
    d_lse: Option<Vec<f32>>,
}

impl GpuAttention {
    /// Runs everything that is loaded on random numbers and measures it against the oracle. Decode is checked when the
    /// problem is a decode step.
    ///
    /// # Errors
    /// [`GpuAttentionError`] when a launch fails. Wrong numbers are no error: [`CheckReport::holds`] tells.
    pub fn check(&self, problem: &AttentionProblem, seed: u64) -> Result<CheckReport, GpuAttentionError> {
        let numbers = Numbers::random(self, problem, seed)?;
        let mask = |g: i64, i: i64, j: i64| self.ir.sees(g as u32, i as u32, j as u32);
        let (q, k, v) = (numbers.q.to_f64(), numbers.k.to_f64(), numbers.v.to_f64());
        let sink: Option<Vec<f64>> = numbers.sink_logit.as_deref().map(widen);
        let inputs = Inputs { q: &q, k: &k, v: &v, sink_logit: sink.as_deref() };
        let exact = oracle::forward(problem, inputs, mask)?;
        let rough = plain::forward(problem, inputs, numbers.dtype, mask);

        let device = OnDevice::upload(self, problem, &numbers)?;
        let mut prepared = self.prepare(problem)?;
        let mut outputs = Vec::new();
        let mut o = device.poisoned(self, numbers.q.shape())?;
        let mut lse = Buffer::filled(&self.stream, problem.lse_elements() * 4, POISON)?;
        if prepared.is_decode() {
            self.decode(&mut prepared, device.forward(&mut o, &mut lse), None)?;
            outputs.push(OutputError::measure(
                "decode o",
                &o.download()?.to_f64(),
                &exact.o,
                &rough.o,
                FACTOR,
            ));
            let found = widen(&lse.to_vec::<f32>()?);
            outputs.push(OutputError::measure("decode lse", &found, &exact.lse, &rough.lse, FACTOR_F32));
            lse.fill(POISON)?;
            o = device.poisoned(self, numbers.q.shape())?;
        }
        self.forward(&mut prepared, device.forward(&mut o, &mut lse))?;
        outputs.push(OutputError::measure("o", &o.download()?.to_f64(), &exact.o, &rough.o, FACTOR));
        let found = widen(&lse.to_vec::<f32>()?);
        outputs.push(OutputError::measure("lse", &found, &exact.lse, &rough.lse, FACTOR_F32));
        if !self.backward.is_empty() {
            let d_o = numbers.d_o.to_f64();
            let d_lse: Option<Vec<f64>> = numbers.d_lse.as_deref().map(widen);
            let exact = oracle::backward(problem, inputs, &exact, &d_o, d_lse.as_deref(), mask)?;
            let rough = plain::backward(problem, inputs, &rough, &d_o, d_lse.as_deref(), numbers.dtype, mask);
            let found = device.backward(self, &mut prepared, &o, &lse)?;
            outputs.push(OutputError::measure("dq", &found.dq, &exact.dq, &rough.dq, FACTOR));
            outputs.push(OutputError::measure("dk", &found.dk, &exact.dk, &rough.dk, FACTOR));
            outputs.push(OutputError::measure("dv", &found.dv, &exact.dv, &rough.dv, FACTOR));
            if let (Some(found), Some(exact), Some(rough)) = (&found.d_sink, &exact.d_sink, &rough.d_sink) {
                outputs.push(OutputError::measure("d_sink", found, exact, rough, FACTOR_F32));
            }
        }
        Ok(CheckReport { outputs })
    }
}

impl GpuAttention {
    /// Checks all loaded kernels on two small problems: documents of odd lengths, and a decode step. To be called once
    /// before the first use; takes a fraction of a second.
    ///
    /// # Errors
    /// [`GpuAttentionError::Wrong`] when a number is out of bounds, or the error of a launch.
    pub fn self_check(&self) -> Result<(), GpuAttentionError> {
        let prefill = Sequences::new(vec![0, 150, 150, 217], vec![0, 150, 150, 251], None)?;
        let step = Sequences::new(vec![0, 1, 2], vec![0, 301, 365], None)?;
        for (sequences, seed) in [(prefill, 1), (step, 2)] {
            let shape = HeadShape::new(4, 2, self.shape.head_dim as usize)?;
            let problem = AttentionProblem::new(shape, sequences);
            let problem = if self.shape.softcap { problem.with_softcap(SELF_CHECK_CAP)? } else { problem };
            let report = self.check(&problem, seed)?;
            if !report.holds() {
                return Err(GpuAttentionError::Wrong(report));
            }
        }
        Ok(())
    }
}

/// A softcap that bends scores of a few units.
const SELF_CHECK_CAP: f32 = 5.0;

/// The inputs in device memory.
struct OnDevice {
    dtype: Dtype,
    q: DeviceTensor,
    k: DeviceTensor,
    v: DeviceTensor,
    d_o: DeviceTensor,
    sink_logit: Option<Buffer>,
    d_lse: Option<Buffer>,
}

impl OnDevice {
    fn upload(
        attention: &GpuAttention,
        problem: &AttentionProblem,
        numbers: &Numbers,
    ) -> Result<Self, GpuAttentionError> {
        let stream = &attention.stream;
        let floats = |values: &Option<Vec<f32>>| {
            values.as_ref().map(|values| Buffer::from_slice(stream, values)).transpose()
        };
        debug_assert_eq!(numbers.q.shape().heads, problem.shape.heads());
        Ok(OnDevice {
            dtype: attention.shape.dtype,
            q: DeviceTensor::upload(stream, &numbers.q)?,
            k: DeviceTensor::upload(stream, &numbers.k)?,
            v: DeviceTensor::upload(stream, &numbers.v)?,
            d_o: DeviceTensor::upload(stream, &numbers.d_o)?,
            sink_logit: floats(&numbers.sink_logit)?,
            d_lse: floats(&numbers.d_lse)?,
        })
    }

    fn poisoned(
        &self,
        attention: &GpuAttention,
        shape: TensorShape,
    ) -> Result<DeviceTensor, GpuAttentionError> {
        DeviceTensor::filled(&attention.stream, self.dtype, Layout::contiguous(shape), POISON)
    }

    fn forward<'a>(&'a self, o: &'a mut DeviceTensor, lse: &'a mut Buffer) -> ForwardTensors<'a> {
        let sink_logit = self.sink_logit.as_ref();
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        ForwardTensors { q, k, v, sink_logit, o: o.view_mut(), lse }
    }

    fn backward(
        &self,
        attention: &GpuAttention,
        prepared: &mut super::Prepared,
        o: &DeviceTensor,
        lse: &Buffer,
    ) -> Result<oracle::Gradients, GpuAttentionError> {
        let mut dq = self.poisoned(attention, self.q.view().layout.shape)?;
        let mut dk = self.poisoned(attention, self.k.view().layout.shape)?;
        let mut dv = self.poisoned(attention, self.v.view().layout.shape)?;
        let heads = self.q.view().layout.shape.heads;
        let mut d_sink = match self.sink_logit {
            Some(_) => Some(Buffer::filled(&attention.stream, heads * 4, POISON)?),
            None => None,
        };
        let tensors = BackwardTensors {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sink_logit: self.sink_logit.as_ref(),
            o: o.view(),
            lse,
            d_o: self.d_o.view(),
            d_lse: self.d_lse.as_ref(),
            dq: dq.view_mut(),
            dk: dk.view_mut(),
            dv: dv.view_mut(),
            d_sink: d_sink.as_mut(),
        };
        if let Some(sums) = &mut prepared.fused {
            sums.poison(POISON)?;
        }
        attention.backward(prepared, tensors)?;
        let d_sink = d_sink.map(|buffer| buffer.to_vec::<f32>()).transpose()?;
        Ok(oracle::Gradients {
            dq: dq.download()?.to_f64(),
            dk: dk.download()?.to_f64(),
            dv: dv.download()?.to_f64(),
            d_sink: d_sink.as_deref().map(widen),
        })
    }
}

impl Numbers {
    fn random(
        attention: &GpuAttention,
        problem: &AttentionProblem,
        seed: u64,
    ) -> Result<Self, GpuAttentionError> {
        let dtype = match attention.shape.dtype {
            Dtype::Bf16 => DType::Bf16,
            Dtype::Fp16 => DType::F16,
        };
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let shape = |tokens, heads| TensorShape { tokens, heads, head_dim: problem.shape.head_dim() };
        let queries = shape(problem.sequences.total_q(), problem.shape.heads());
        let keys = shape(problem.sequences.total_k(), problem.shape.kv_heads());
        // Scores of a few units: each row has keys that matter, and missing one of those shows.
        let mut tensor = |shape: TensorShape, size: f32| {
            let count = shape.tokens * shape.heads * shape.head_dim;
            let values: Vec<f32> = (0..count).map(|_| noise.next() * size).collect();
            HostTensor::from_f32(dtype, shape, &values)
        };
        let (q, k) = (tensor(queries, 2.0)?, tensor(keys, 1.0)?);
        let (v, d_o) = (tensor(keys, 1.0)?, tensor(queries, 1.0)?);
        let mut floats = |count: usize| -> Vec<f32> { (0..count).map(|_| noise.next()).collect() };
        let sink_logit = attention.shape.sink_logit.then(|| floats(problem.shape.heads()));
        let d_lse = (seed % 2 == 1).then(|| floats(problem.lse_elements()));
        Ok(Numbers { dtype, q, k, v, d_o, sink_logit, d_lse })
    }
}

/// Nearly normal numbers of unit variance, the same on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        // Four uniform numbers of variance 1/12 each.
        (0..4).map(|_| uniform()).sum::<f32>() * 3f32.sqrt()
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
