//! Weights from safetensors files, single or sharded, memory-mapped and converted tensor by tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::mapped::map;
use super::memory::check_memory;
use super::params::ParamTable;
use super::{LlamaConfig, ModelError, Params};

/// The file of an unsharded model.
pub const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Loads the weights of a model from its directory. `progress` gets the number of elements loaded and of all.
///
/// # Errors
/// Files missing, damaged, or not those of this configuration; each names the file or the tensor.
pub fn load_weights(
    directory: &Path,
    config: &LlamaConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Params, ModelError> {
    check_memory("the weights", 4 * ParamTable::new(config).len() as u128)?;
    let mut params = Params::zeros(Arc::new(ParamTable::new(config)));
    let mut wanted: BTreeSet<String> = params.table().entries().iter().map(|e| e.name.clone()).collect();
    let total = params.table().len();
    let mut done = 0;
    for path in files(directory)? {
        let mapped = map(&path).map_err(ModelError::io(&path))?;
        let damaged = |problem: String| ModelError::Safetensors { path: path.clone(), problem };
        let file = SafeTensors::deserialize(&mapped).map_err(|error| damaged(error.to_string()))?;
        let mut names = file.names();
        names.sort_unstable();
        for name in names {
            if is_ignored(name, config.tied) {
                continue;
            }
            let tensor = file.tensor(name).map_err(|error| damaged(error.to_string()))?;
            done += load_tensor(&mut params, name, &tensor)?;
            wanted.remove(name);
            progress(done, total);
        }
    }
    match wanted.first() {
        None => Ok(params),
        Some(name) => Err(missing(&params, name)),
    }
}

fn missing(params: &Params, name: &str) -> ModelError {
    let shape = params.table().entries().iter().find(|e| e.name == name).map(|e| e.shape.clone());
    ModelError::MissingTensor { name: name.into(), shape: shape.unwrap_or_default() }
}

/// Tensors some files hold that carry nothing: frequencies, and a copy of a tied head.
fn is_ignored(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}

/// The files of the directory that hold weights.
fn files(directory: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index = directory.join(INDEX_FILE);
    let single = directory.join(SINGLE_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    if !index.is_file() {
        return Err(ModelError::NoWeights { directory: directory.to_path_buf() });
    }
    let text = std::fs::read_to_string(&index).map_err(ModelError::io(&index))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| ModelError::Config { path: index.clone(), problem: error.to_string() })?;
    let no_map = || ModelError::Config { path: index.clone(), problem: "`weight_map` is missing".into() };
    let weight_map = json.get("weight_map").and_then(|map| map.as_object()).ok_or_else(no_map)?;
    let mut shards: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (tensor, file) in weight_map {
        // A shard lies beside its index; a path that leads elsewhere is damage or mischief.
        let name = file.as_str().map(Path::new).and_then(Path::file_name).ok_or_else(no_map)?;
        shards.entry(directory.join(name)).or_insert(tensor);
    }
    for (path, tensor) in &shards {
        if !path.is_file() {
            return Err(ModelError::MissingShard { path: path.clone(), tensor: (*tensor).into() });
        }
    }
    Ok(shards.into_keys().collect())
}

/// Copies one tensor into its place, widened to f32, and returns its number of elements.
fn load_tensor(params: &mut Params, name: &str, tensor: &TensorView<'_>) -> Result<usize, ModelError> {
    let entry = params.table().entries().iter().find(|e| e.name == name).cloned();
    let entry = entry.ok_or_else(|| ModelError::UnexpectedTensor { name: name.into() })?;
    if tensor.shape() != entry.shape {
        let (found, expected) = (tensor.shape().to_vec(), entry.shape);
        return Err(ModelError::TensorShape { name: name.into(), found, expected });
    }
    let target = &mut params.data_mut()[entry.range()];
    let (pairs, _) = tensor.data().as_chunks::<2>();
    let (quads, _) = tensor.data().as_chunks::<4>();
    match tensor.dtype() {
        Dtype::F32 => target.iter_mut().zip(quads).for_each(|(t, &b)| *t = f32::from_le_bytes(b)),
        Dtype::BF16 => target.iter_mut().zip(pairs).for_each(|(t, &b)| *t = bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => target.iter_mut().zip(pairs).for_each(|(t, &b)| *t = f16::from_le_bytes(b).to_f32()),
        other => {
            return Err(ModelError::TensorType { name: name.into(), found: format!("{other:?}") });
        }
    }
    Ok(target.len())
}
