//! A model that learns, on the CPU or on a GPU.

use longgen_codegen::cuda::locate::ToolSearch;
use longgen_runtime::blas::BlasSearch;
use longgen_runtime::driver::Device;
use longgen_runtime::gpu::KernelCache;
use longgen_runtime::gpu_model::{GpuLlama, GpuTrainState, GpuUse};
use longgen_runtime::model::{Batch, Llama, ModelError, Params, Recompute};
use longgen_runtime::ops::adamw::AdamW;
use longgen_runtime::train::{Optimizer, OptimizerConfig};

use crate::Failure;

/// What a training needs of a model.
pub trait Learner {
    /// One update from a batch; returns the mean loss before it.
    fn learn(&mut self, batch: &Batch, learning_rate: f32) -> Result<f64, Failure>;
    /// Logits (T, V).
    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError>;
    /// The weights.
    fn weights(&self) -> Result<Params, ModelError>;
}

/// Where models learn.
pub enum Place {
    Cpu,
    Gpu(Box<Gpu>),
}

/// A GPU and where its libraries are.
pub struct Gpu {
    device: Device,
    cache: KernelCache,
    blas: BlasSearch,
}

impl Place {
    /// The first GPU.
    pub fn gpu() -> Result<Place, Failure> {
        let path = |name: &str| std::env::var_os(name).map(Into::into);
        let python = Some("python3".to_owned());
        let tools = ToolSearch { variable: path("LONGGEN_NVRTC"), python, ..ToolSearch::default() };
        let blas = BlasSearch { option: None, variable: path("LONGGEN_CUBLASLT"), tools: tools.clone() };
        let (device, cache) = (Device::open(0)?, KernelCache::in_memory(tools));
        Ok(Place::Gpu(Box::new(Gpu { device, cache, blas })))
    }

    /// Puts a model there, for batches of up to `tokens` tokens.
    pub fn learner<'a>(
        &self,
        model: &'a Llama,
        weights: Params,
        tokens: usize,
    ) -> Result<Box<dyn Learner + 'a>, Failure> {
        let zeros = Params::zeros(weights.table().clone());
        match self {
            Place::Cpu => {
                let optimizer = Optimizer::new(OptimizerConfig::default(), &weights);
                Ok(Box::new(OnCpu { model, weights, gradients: zeros, optimizer }))
            }
            Place::Gpu(gpu) => {
                let on_device = GpuLlama::new(&gpu.device, &gpu.cache, &gpu.blas, model, GpuUse::Train)?;
                let mut state = GpuTrainState::new(on_device, tokens)?;
                state.load(&weights, &zeros, &zeros)?;
                Ok(Box::new(OnGpu { state, updates: 0 }))
            }
        }
    }
}

struct OnCpu<'a> {
    model: &'a Llama,
    weights: Params,
    gradients: Params,
    optimizer: Optimizer,
}

impl Learner for OnCpu<'_> {
    fn learn(&mut self, batch: &Batch, learning_rate: f32) -> Result<f64, Failure> {
        self.gradients.clear();
        let targets = batch.target_count();
        let OnCpu { model, weights, gradients, optimizer } = self;
        let scale = 1.0 / targets as f32;
        let loss = model.loss_and_gradients(weights, batch, scale, Recompute::Nothing, gradients)?;
        optimizer.update(weights, gradients, learning_rate)?;
        Ok(loss / targets as f64)
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.model.logits(&self.weights, batch)
    }

    fn weights(&self) -> Result<Params, ModelError> {
        Ok(self.weights.clone())
    }
}

struct OnGpu {
    state: GpuTrainState,
    updates: u64,
}

impl Learner for OnGpu {
    fn learn(&mut self, batch: &Batch, learning_rate: f32) -> Result<f64, Failure> {
        let (targets, constants) = (batch.target_count(), OptimizerConfig::default());
        self.state.clear_gradients()?;
        let loss = self.state.add_gradients(batch, 1.0 / targets as f32)?;
        self.updates += 1;
        let adam = AdamW {
            learning_rate,
            beta1: constants.beta1,
            beta2: constants.beta2,
            eps: constants.eps,
            weight_decay: constants.weight_decay,
            step: self.updates,
            gradient_scale: (1.0 / self.state.gradient_norm()?).min(1.0) as f32,
        };
        self.state.update(&adam, |entry| entry.shape.len() > 1)?;
        Ok(loss / targets as f64)
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.state.logits(batch)
    }

    fn weights(&self) -> Result<Params, ModelError> {
        let [masters, ..] = self.state.to_host()?;
        Ok(masters)
    }
}
