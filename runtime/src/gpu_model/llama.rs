//! A model on a device: its compiled attention, operations and products, all on one stream. It holds no weights.

use longgen_codegen::analysis::KvLayout;
use longgen_codegen::spec::{Dtype, Shape};

use crate::blas::{Blas, BlasSearch};
use crate::driver::{Buffer, Device, Stopwatch, Stream};
use crate::gpu::{GpuAttention, GpuOptions, KernelCache};
use crate::gpu_ops::{Ops, WIDTH_MULTIPLE};
use crate::model::{Llama, LlamaConfig, ModelError};
use crate::problem::{AttentionProblem, HeadShape, Sequences};

/// What a model on the device will do: which kernels to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuUse {
    /// Prefill and decode.
    Decode,
    /// Forward and backward passes over whole sequences.
    Train,
}

/// The attention of the layers that share a mask.
#[derive(Debug)]
pub(super) struct Kind {
    pub attention: GpuAttention,
    /// Where a cache keeps the keys of each KV head.
    pub layouts: Vec<KvLayout>,
    softcap: Option<f32>,
}

/// A Llama model on a GPU.
#[derive(Debug)]
pub struct GpuLlama {
    config: LlamaConfig,
    shape: HeadShape,
    device: Device,
    stream: Stream,
    pub(super) ops: Ops,
    pub(super) blas: Blas,
    pub(super) kinds: Vec<Kind>,
    /// The kind of each layer.
    pub(super) plan: Vec<usize>,
    /// (D/2)
    pub(super) frequencies: Buffer,
    pub(super) attention_watch: Stopwatch,
}

/// Where the time of some work went, in milliseconds; what is neither is everything else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeSplit {
    /// Attention kernels.
    pub attention_ms: f64,
    /// Dense products.
    pub products_ms: f64,
}

impl GpuLlama {
    /// Compiles and loads everything that `model` needs on `device`.
    ///
    /// # Errors
    /// Widths that are no multiples of 8, head dimensions that kernels do not take, kernels that cannot be made, a
    /// missing cuBLASLt.
    pub fn new(
        device: &Device,
        cache: &KernelCache,
        blas: &BlasSearch,
        model: &Llama,
        used: GpuUse,
    ) -> Result<GpuLlama, ModelError> {
        let config = model.config().clone();
        check_widths(&config)?;
        let stream = device.stream()?;
        let mut kinds: Vec<Kind> = Vec::new();
        let mut plan = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let attention = model.attention(layer);
            let known = (0..layer).find(|&other| model.attention(other).ir() == attention.ir());
            plan.push(match known {
                Some(other) => plan[other],
                None => {
                    let softcap = attention.softcap();
                    let shape = Shape {
                        head_dim: config.head_dim as u32,
                        dtype: Dtype::Bf16,
                        softcap: softcap.is_some(),
                        sink_logit: false,
                    };
                    let training = used == GpuUse::Train;
                    let options = GpuOptions {
                        target: None,
                        backward: training,
                        deterministic: false,
                        decode: !training,
                        group: (config.heads / config.kv_heads.max(1)) as u32,
                    };
                    let (ir, canonical) = (attention.ir(), attention.ir().to_string());
                    let compiled = GpuAttention::new(device, cache, &canonical, ir, shape, options)?;
                    let layouts = (0..config.kv_heads).map(|g| attention.layout(g)).collect();
                    kinds.push(Kind { attention: compiled.on_stream(&stream), layouts, softcap });
                    kinds.len() - 1
                }
            });
        }
        Ok(GpuLlama {
            shape: HeadShape::new(config.heads, config.kv_heads, config.head_dim)?,
            device: device.clone(),
            ops: Ops::new(device, cache, &stream)?,
            blas: Blas::new(blas, &stream)?,
            frequencies: Buffer::from_slice(&stream, &config.rope.frequencies)?,
            attention_watch: Stopwatch::new(&stream),
            stream,
            kinds,
            plan,
            config,
        })
    }

    /// The shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream that all work goes to.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Starts to tell attention and products apart in what follows.
    pub fn start_time_split(&self) {
        self.attention_watch.start();
        self.blas.watch().start();
        self.ops.products().start();
    }

    /// Where the time went since; waits for the work. Captured decode steps are not in it.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn stop_time_split(&self) -> Result<TimeSplit, ModelError> {
        let products_ms = self.blas.watch().stop()? + self.ops.products().stop()?;
        Ok(TimeSplit { attention_ms: self.attention_watch.stop()?, products_ms })
    }

    pub(super) fn heads(&self) -> HeadShape {
        self.shape
    }

    /// Columns of the fused QKV product.
    pub(super) fn qkv_width(&self) -> usize {
        (self.config.heads + 2 * self.config.kv_heads) * self.config.head_dim
    }

    pub(super) fn q_width(&self) -> usize {
        self.config.heads * self.config.head_dim
    }

    /// Attention of a kind over these sequences.
    pub(super) fn problem(&self, kind: usize, sequences: Sequences) -> Result<AttentionProblem, ModelError> {
        let problem = AttentionProblem::new(self.shape, sequences);
        Ok(match self.kinds[kind].softcap {
            Some(cap) => problem.with_softcap(cap)?,
            None => problem,
        })
    }

    /// Uninitialised activations would hide mistakes: buffers start as zeros.
    pub(super) fn buffer<T>(&self, elements: usize) -> Result<Buffer, ModelError> {
        Ok(Buffer::zeros(&self.stream, elements * size_of::<T>())?)
    }
}

fn check_widths(config: &LlamaConfig) -> Result<(), ModelError> {
    let wrong = |problem: String| Err(ModelError::Unsupported { problem });
    for (name, value) in [("hidden_size", config.width), ("intermediate_size", config.hidden)] {
        if !value.is_multiple_of(WIDTH_MULTIPLE) {
            return wrong(format!(
                "`{name}` is {value}; the GPU reads rows 16 bytes at a time and takes multiples of {WIDTH_MULTIPLE}; use \
                 --device cpu"
            ));
        }
    }
    let d = config.head_dim;
    // Rows of the output are held in registers, which have no room for more.
    if !d.is_multiple_of(32) || !(32..=256).contains(&d) {
        return wrong(format!(
            "`head_dim` is {d}; the engine's GPU kernels take multiples of 32 from 32 to 256; use --device cpu"
        ));
    }
    Ok(())
}
