//! What a training on the device holds: weights in bf16, and masters, moments and gradients in f32.

use std::sync::Arc;

use half::bf16;

use super::{DeviceMemory, DeviceParams, GpuLlama, GpuPass};
use crate::driver::Buffer;
use crate::gpu_ops::{Moments, NORM_PARTS};
use crate::model::{Batch, ModelError, ParamEntry, ParamTable, Params};
use crate::ops::adamw::AdamW;

/// Bytes of each weight: in bf16, and master, two moments and gradient in f32.
const BYTES_PER_WEIGHT: u128 = 2 + 4 * 4;

/// The state of a training on the device.
#[derive(Debug)]
pub struct GpuTrainState {
    model: GpuLlama,
    pass: GpuPass,
    weights: DeviceParams<bf16>,
    masters: DeviceParams<f32>,
    mean: DeviceParams<f32>,
    square: DeviceParams<f32>,
    gradients: DeviceParams<f32>,
    norm: Buffer,
}

impl GpuTrainState {
    /// A state of zeros for batches of up to `tokens` tokens.
    ///
    /// # Errors
    /// Too little device memory: says what was needed, and how many tokens would fit.
    pub fn new(model: GpuLlama, tokens: usize) -> Result<GpuTrainState, ModelError> {
        let table = Arc::new(ParamTable::new(model.config()));
        let bytes = BYTES_PER_WEIGHT * table.len() as u128;
        DeviceMemory::new("training")
            .with("weights, masters, moments and gradients", bytes)
            .with("activations", GpuPass::bytes(&model, tokens, true))
            .or_else(model.device(), tokens, "tokens in a batch", |n| {
                bytes + GpuPass::bytes(&model, n, true)
            })?
            .check(model.device())?;
        let stream = model.stream().clone();
        let floats = || DeviceParams::zeros(&stream, table.clone());
        Ok(GpuTrainState {
            weights: DeviceParams::zeros(&stream, table.clone())?,
            masters: floats()?,
            mean: floats()?,
            square: floats()?,
            gradients: floats()?,
            norm: model.buffer::<f64>(NORM_PARTS)?,
            pass: GpuPass::new(&model, tokens, true)?,
            model,
        })
    }

    /// Sets masters, moments and with them the weights.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn load(&mut self, masters: &Params, mean: &Params, square: &Params) -> Result<(), ModelError> {
        for (target, source) in
            [(&mut self.masters, masters), (&mut self.mean, mean), (&mut self.square, square)]
        {
            target.write(0, source.data())?;
        }
        Ok(self.model.ops.round_weights(self.masters.all(), self.weights.all())?)
    }

    /// Random weights made on the device, for timings; moments stay.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn randomise(&mut self, seed: u64) -> Result<(), ModelError> {
        let deviation = self.model.config().initializer_range;
        for (n, entry) in self.weights.table().entries().iter().enumerate() {
            let (mean, deviation) = if entry.shape.len() == 1 { (1.0, 0.0) } else { (0.0, deviation) };
            self.model.ops.fill_normal(self.weights.entry(entry)?, seed + n as u64, mean, deviation)?;
        }
        Ok(self.model.ops.widen_weights(self.weights.all(), self.masters.all())?)
    }

    /// The model.
    pub fn model(&self) -> &GpuLlama {
        &self.model
    }

    /// The gradients.
    pub fn gradients(&self) -> &DeviceParams<f32> {
        &self.gradients
    }

    /// Masters, mean and mean square, on the host.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn to_host(&self) -> Result<[Params; 3], ModelError> {
        let copy = |from: &DeviceParams<f32>| -> Result<Params, ModelError> {
            Ok(Params::from_data(from.table().clone(), from.to_vec()?))
        };
        Ok([copy(&self.masters)?, copy(&self.mean)?, copy(&self.square)?])
    }

    /// Sets all gradients to 0.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn clear_gradients(&mut self) -> Result<(), ModelError> {
        Ok(self.gradients.clear()?)
    }

    /// Adds the gradients of `scale` times the sum of a batch's losses, and returns the sum.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, a batch larger than the space, faults of the device.
    pub fn add_gradients(&mut self, batch: &Batch, scale: f32) -> Result<f64, ModelError> {
        self.pass.loss_and_gradients(&self.model, &self.weights, batch, scale, &self.gradients)
    }

    /// Logits (T, V) of a batch: for tests of what was learned, on short batches.
    ///
    /// # Errors
    /// As [`GpuTrainState::add_gradients`].
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        self.pass.logits(&self.model, &self.weights, batch)
    }

    /// The global norm of the gradients.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn gradient_norm(&self) -> Result<f64, ModelError> {
        self.model.ops.squared_norm(self.gradients.all(), self.norm.span())?;
        Ok(self.norm.to_vec::<f64>()?.iter().sum::<f64>().sqrt())
    }

    /// One update with these constants; `decay` says which tensors their weight decay is for.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn update(&mut self, adam: &AdamW, decay: impl Fn(&ParamEntry) -> bool) -> Result<(), ModelError> {
        for entry in self.weights.table().entries() {
            let weight_decay = if decay(entry) { adam.weight_decay } else { 0.0 };
            let moments = Moments {
                master: self.masters.entry(entry)?,
                mean: self.mean.entry(entry)?,
                square: self.square.entry(entry)?,
            };
            let adam = AdamW { weight_decay, ..*adam };
            let (weight, gradient) = (self.weights.entry(entry)?, self.gradients.entry(entry)?);
            self.model.ops.adamw(&adam, moments, weight, gradient)?;
        }
        Ok(())
    }

    /// The first tensor whose masters, or else whose gradient, hold an infinity or a NaN.
    ///
    /// # Errors
    /// Faults of the device.
    pub fn first_not_finite(&self) -> Result<Option<String>, ModelError> {
        for set in [&self.masters, &self.gradients] {
            for entry in set.table().entries() {
                self.model.ops.squared_norm(set.entry(entry)?, self.norm.span())?;
                if !self.norm.to_vec::<f64>()?.iter().sum::<f64>().is_finite() {
                    return Ok(Some(entry.name.clone()));
                }
            }
        }
        Ok(None)
    }
}
