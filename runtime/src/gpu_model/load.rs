//! Weights to the device: from files, tensor by tensor, or random ones made there.

use std::path::Path;
use std::sync::Arc;

use half::bf16;

use super::params::DeviceParams;
use super::{DeviceMemory, GpuLlama};
use crate::model::{LlamaConfig, ModelError, ParamTable, read_weights};

/// Loads the weights of a model directory to the device, rounded to bf16. The files are memory-mapped and pass through the
/// host one tensor at a time. `progress` gets the number of elements loaded and of all.
///
/// # Errors
/// As [`crate::model::load_weights`]; too little device memory.
pub fn load_device_weights(
    directory: &Path,
    model: &GpuLlama,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<DeviceParams<bf16>, ModelError> {
    let mut params = empty(model)?;
    read_weights(directory, model.config(), progress, &mut |entry, values| {
        let rounded: Vec<bf16> = values.iter().collect();
        Ok(params.write(entry.range().start, &rounded)?)
    })?;
    Ok(params)
}

/// Random weights made on the device: normal with the configuration's deviation, norms 1. The same seed gives the same
/// weights, other ones than [`crate::model::Params::random`].
///
/// # Errors
/// Too little device memory.
pub fn random_device_weights(model: &GpuLlama, seed: u64) -> Result<DeviceParams<bf16>, ModelError> {
    let params = empty(model)?;
    let deviation = model.config().initializer_range;
    for (n, entry) in params.table().entries().iter().enumerate() {
        let (mean, deviation) = if entry.shape.len() == 1 { (1.0, 0.0) } else { (0.0, deviation) };
        model.ops.fill_normal(params.entry(entry)?, seed.wrapping_add(n as u64), mean, deviation)?;
    }
    Ok(params)
}

fn empty(model: &GpuLlama) -> Result<DeviceParams<bf16>, ModelError> {
    let table = ParamTable::new(model.config());
    DeviceMemory::new("the weights")
        .with("weights in bf16", weight_bytes(model.config()))
        .check(model.device())?;
    Ok(DeviceParams::zeros(model.stream(), Arc::new(table))?)
}

/// Bytes of the weights in bf16.
pub(super) fn weight_bytes(config: &LlamaConfig) -> u128 {
    2 * ParamTable::new(config).len() as u128
}
