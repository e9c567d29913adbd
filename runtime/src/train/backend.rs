//! Where a training computes: weights, gradients and optimiser in host memory or on a GPU, behind the same few steps.

use std::borrow::Cow;

use crate::gpu_model::{GpuLlama, GpuTrainState};
use crate::model::{Batch, Llama, ModelError, Params, Recompute};
use crate::problem::DType;

use super::optimizer::{NotFinite, Optimizer};
use super::{TrainError, TrainSettings};

/// Where a training is to run.
#[derive(Debug)]
pub enum Placement {
    /// In f32 on the CPU.
    Cpu,
    /// In bf16 on a GPU, with f32 masters. The model there is that of the training.
    Gpu(Box<GpuLlama>),
}

/// Weights and optimiser at one moment.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    pub weights: Cow<'a, Params>,
    pub optimizer: Cow<'a, Optimizer>,
}

/// The numbers of a training.
pub(super) trait Backend: std::fmt::Debug {
    /// Sets the gradients to 0.
    fn clear_gradients(&mut self) -> Result<(), ModelError>;

    /// Adds the gradients of `scale` times the sum of a batch's losses, and returns the sum.
    fn add_gradients(&mut self, batch: &Batch, scale: f32) -> Result<f64, ModelError>;

    /// One update; returns the norm of the gradients before clipping, or the tensor that forbids it.
    fn update(&mut self, learning_rate: f32) -> Result<Result<f64, NotFinite>, ModelError>;

    /// The first tensor that holds an infinity or a NaN, weights before gradients.
    fn first_not_finite(&self) -> Result<Option<String>, ModelError>;

    /// What a checkpoint holds.
    fn snapshot(&self) -> Result<Snapshot<'_>, ModelError>;

    /// Floating-point operations per second that the device is made for, where known.
    fn peak_flops(&self) -> Option<f64>;
}

impl Placement {
    /// Puts a training there.
    pub(super) fn place<'a>(
        self,
        model: &'a Llama,
        settings: &TrainSettings,
        weights: Params,
        optimizer: Optimizer,
    ) -> Result<Box<dyn Backend + 'a>, TrainError> {
        match self {
            Placement::Cpu => {
                let gradients = Params::zeros(weights.table().clone());
                let recompute = settings.kept();
                Ok(Box::new(CpuBackend { model, weights, gradients, optimizer, recompute }))
            }
            Placement::Gpu(on_device) => Ok(Box::new(GpuBackend::new(*on_device, settings, optimizer)?)),
        }
    }
}

#[derive(Debug)]
struct CpuBackend<'a> {
    model: &'a Llama,
    weights: Params,
    gradients: Params,
    optimizer: Optimizer,
    recompute: Recompute,
}

impl Backend for CpuBackend<'_> {
    fn clear_gradients(&mut self) -> Result<(), ModelError> {
        self.gradients.clear();
        Ok(())
    }

    fn add_gradients(&mut self, batch: &Batch, scale: f32) -> Result<f64, ModelError> {
        self.model.loss_and_gradients(&self.weights, batch, scale, self.recompute, &mut self.gradients)
    }

    fn update(&mut self, learning_rate: f32) -> Result<Result<f64, NotFinite>, ModelError> {
        Ok(self.optimizer.update(&mut self.weights, &self.gradients, learning_rate))
    }

    fn first_not_finite(&self) -> Result<Option<String>, ModelError> {
        // Weights that went bad explain gradients that did; those in turn explain the loss.
        let sources = [&self.weights, &self.gradients];
        Ok(sources.iter().find_map(|params| params.first_not_finite()).map(str::to_owned))
    }

    fn snapshot(&self) -> Result<Snapshot<'_>, ModelError> {
        Ok(Snapshot { weights: Cow::Borrowed(&self.weights), optimizer: Cow::Borrowed(&self.optimizer) })
    }

    fn peak_flops(&self) -> Option<f64> {
        None
    }
}

#[derive(Debug)]
struct GpuBackend {
    state: GpuTrainState,
    /// Its constants and count of updates; masters and moments are on the device.
    optimizer: Optimizer,
}

impl GpuBackend {
    fn new(
        model: GpuLlama,
        settings: &TrainSettings,
        optimizer: Optimizer,
    ) -> Result<GpuBackend, TrainError> {
        let wrong = |problem: &str| Err(TrainError::Settings { problem: problem.to_owned() });
        if optimizer.config().weights != DType::Bf16 {
            return wrong("on the GPU the weights of the forward pass are bf16 (masters are f32)");
        }
        if !settings.recompute {
            return wrong("on the GPU activations are always computed again: keeping them is for the CPU");
        }
        let tokens = settings.sequence_tokens * settings.batch_sequences;
        let mut state = GpuTrainState::new(model, tokens)?;
        state.load(&optimizer.masters, &optimizer.mean, &optimizer.square)?;
        Ok(GpuBackend { state, optimizer: optimizer.without_state() })
    }
}

impl Backend for GpuBackend {
    fn clear_gradients(&mut self) -> Result<(), ModelError> {
        self.state.clear_gradients()
    }

    fn add_gradients(&mut self, batch: &Batch, scale: f32) -> Result<f64, ModelError> {
        self.state.add_gradients(batch, scale)
    }

    fn update(&mut self, learning_rate: f32) -> Result<Result<f64, NotFinite>, ModelError> {
        let norm = self.state.gradient_norm()?;
        if !norm.is_finite() {
            let tensor = self.state.first_not_finite()?.unwrap_or_else(|| "all tensors together".to_owned());
            return Ok(Err(NotFinite { tensor }));
        }
        let adam = self.optimizer.next_update(norm, learning_rate);
        self.state.update(&adam, Optimizer::decays)?;
        Ok(Ok(norm))
    }

    fn first_not_finite(&self) -> Result<Option<String>, ModelError> {
        self.state.first_not_finite()
    }

    fn snapshot(&self) -> Result<Snapshot<'_>, ModelError> {
        let [masters, mean, square] = self.state.to_host()?;
        let mut weights = masters.clone();
        let optimizer = self.optimizer.with_state(masters, mean, square);
        optimizer.round_into(&mut weights);
        Ok(Snapshot { weights: Cow::Owned(weights), optimizer: Cow::Owned(optimizer) })
    }

    fn peak_flops(&self) -> Option<f64> {
        peak_bf16_flops(self.state.model().device().name())
    }
}

/// Dense bf16 products with f32 sums, by the vendor's datasheets.
fn peak_bf16_flops(name: &str) -> Option<f64> {
    const KNOWN: [(&str, f64); 6] = [
        ("H100 PCIe", 756e12),
        ("H100 NVL", 835e12),
        ("H100", 989e12),
        ("H200", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
    ];
    KNOWN.iter().find(|(part, _)| name.contains(part)).map(|(_, flops)| *flops)
}

#[cfg(test)]
mod tests {
    use super::peak_bf16_flops;

    #[test]
    fn the_closest_name_counts() {
        assert_eq!(peak_bf16_flops("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(peak_bf16_flops("NVIDIA H100 80GB HBM3"), Some(989e12));
        assert_eq!(peak_bf16_flops("NVIDIA H200"), Some(989e12));
        assert_eq!(peak_bf16_flops("Another"), None);
    }
}
