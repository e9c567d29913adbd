//! The device tensors that candidates run on.

use half::{bf16, f16};
use longgen_codegen::spec::Dtype;

use super::{GpuBenchError, GpuTuner};
use crate::driver::{Buffer, Stream};
use crate::gpu::{Layout, View, ViewMut};
use crate::random::Random;
use crate::tensor::TensorShape;

/// A 16-bit tensor on the device.
pub(super) struct Tensor {
    pub buffer: Buffer,
    pub layout: Layout,
}

impl Tensor {
    pub fn view(&self) -> View<'_> {
        View { buffer: &self.buffer, layout: self.layout }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut self.buffer, layout: self.layout }
    }
}

/// The tensors of one length, for all its passes.
pub struct GpuTensors {
    pub(super) tokens: u32,
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) d_o: Tensor,
    pub(super) o: Tensor,
    pub(super) dq: Tensor,
    pub(super) dk: Tensor,
    pub(super) dv: Tensor,
    pub(super) lse: Buffer,
    pub(super) sink_logit: Option<Buffer>,
    pub(super) d_sink: Option<Buffer>,
}

impl GpuTensors {
    /// Random inputs of one sequence, poisoned outputs; those of a backward only where one is wanted.
    ///
    /// # Errors
    /// Memory that runs out.
    pub fn new(tuner: &GpuTuner, tokens: u32, backward: bool) -> Result<GpuTensors, GpuBenchError> {
        let heads = tuner.heads;
        let shape = |heads: usize, wanted: bool| TensorShape {
            tokens: if wanted { tokens as usize } else { 0 },
            heads,
            head_dim: heads_dim(tuner),
        };
        let noise = |shape: TensorShape, seed: u64| noise(&tuner.stream, tuner.shape.dtype, shape, seed);
        let poisoned = |shape: TensorShape| -> Result<Tensor, GpuBenchError> {
            let bytes = shape.tokens * shape.heads * shape.head_dim * 2;
            Ok(Tensor {
                buffer: Buffer::filled(&tuner.stream, bytes, 0xff)?,
                layout: Layout::contiguous(shape),
            })
        };
        let (h, g) = (heads.heads(), heads.kv_heads());
        let floats = |count: usize| Buffer::zeros(&tuner.stream, count * 4);
        let sink = |wanted: bool| wanted.then(|| floats(h)).transpose();
        Ok(GpuTensors {
            tokens,
            q: noise(shape(h, true), 1)?,
            k: noise(shape(g, true), 2)?,
            v: noise(shape(g, true), 3)?,
            d_o: noise(shape(h, backward), 4)?,
            o: poisoned(shape(h, true))?,
            dq: poisoned(shape(h, backward))?,
            dk: poisoned(shape(g, backward))?,
            dv: poisoned(shape(g, backward))?,
            lse: floats(h * tokens as usize)?,
            sink_logit: sink(tuner.shape.sink_logit)?,
            d_sink: sink(tuner.shape.sink_logit && backward)?,
        })
    }
}

fn heads_dim(tuner: &GpuTuner) -> usize {
    tuner.shape.head_dim as usize
}

/// A tensor of noise of variance 1. It repeats after a prime number of elements, so no two rows are equal.
fn noise(stream: &Stream, dtype: Dtype, shape: TensorShape, seed: u64) -> Result<Tensor, GpuBenchError> {
    const PERIOD: usize = 4_194_301;
    let mut random = Random::new(seed);
    let count = shape.tokens * shape.heads * shape.head_dim;
    let bits = |x: f32| match dtype {
        Dtype::Bf16 => bf16::from_f32(x).to_bits(),
        Dtype::Fp16 => f16::from_f32(x).to_bits(),
    };
    // The sum of four uniform numbers is as good as normal here, and much quicker.
    let mut normal = || ((0..4).map(|_| random.uniform()).sum::<f64>() - 2.0) as f32 * 3f32.sqrt();
    let period: Vec<u16> = (0..PERIOD.min(count)).map(|_| bits(normal())).collect();
    let mut values: Vec<u16> = Vec::with_capacity(count);
    while values.len() < count {
        values.extend_from_slice(&period[..PERIOD.min(count - values.len())]);
    }
    Ok(Tensor { buffer: Buffer::from_slice(stream, &values)?, layout: Layout::contiguous(shape) })
}
