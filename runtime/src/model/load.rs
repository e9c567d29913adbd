//! Weights from safetensors files, single or sharded, memory-mapped and converted tensor by tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::read::{CONFIG_LIMIT, read_limited};

use super::mapped::map;
use super::memory::check_memory;
use super::params::{ParamEntry, ParamTable};
use super::{LlamaConfig, ModelError, Params};

/// The file of an unsharded model.
pub const SINGLE_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The numbers of one tensor in a file.
#[derive(Clone, Copy, Debug)]
pub enum StoredValues<'a> {
    /// Single precision.
    F32(&'a [[u8; 4]]),
    /// bfloat16.
    Bf16(&'a [[u8; 2]]),
    /// Half precision.
    F16(&'a [[u8; 2]]),
}

impl<'a> StoredValues<'a> {
    /// Rounded to bf16.
    pub fn iter(self) -> impl Iterator<Item = bf16> + 'a {
        let (quads, pairs, half): (&[[u8; 4]], &[[u8; 2]], bool) = match self {
            StoredValues::F32(quads) => (quads, &[], false),
            StoredValues::Bf16(pairs) => (&[], pairs, false),
            StoredValues::F16(pairs) => (&[], pairs, true),
        };
        let narrow = move |&b: &[u8; 2]| match half {
            true => bf16::from_f32(f16::from_le_bytes(b).to_f32()),
            false => bf16::from_le_bytes(b),
        };
        quads.iter().map(|&b| bf16::from_f32(f32::from_le_bytes(b))).chain(pairs.iter().map(narrow))
    }

    /// Widened to f32, into a slice of as many numbers.
    fn widen_into(self, target: &mut [f32]) {
        match self {
            StoredValues::F32(x) => target.iter_mut().zip(x).for_each(|(t, &b)| *t = f32::from_le_bytes(b)),
            StoredValues::Bf16(x) => {
                target.iter_mut().zip(x).for_each(|(t, &b)| *t = bf16::from_le_bytes(b).to_f32());
            }
            StoredValues::F16(x) => {
                target.iter_mut().zip(x).for_each(|(t, &b)| *t = f16::from_le_bytes(b).to_f32());
            }
        }
    }
}

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
    read_weights(directory, config, progress, &mut |entry, values| {
        values.widen_into(&mut params.data_mut()[entry.range()]);
        Ok(())
    })?;
    Ok(params)
}

/// Reads every tensor of a model once, in the order of its files, and hands it to `put`, which keeps it: so weights can go
/// elsewhere than into host memory.
///
/// # Errors
/// As [`load_weights`], and those of `put`.
pub fn read_weights(
    directory: &Path,
    config: &LlamaConfig,
    progress: &mut dyn FnMut(usize, usize),
    put: &mut dyn FnMut(&ParamEntry, StoredValues<'_>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let table = ParamTable::new(config);
    let mut wanted: BTreeMap<&str, &ParamEntry> =
        table.entries().iter().map(|entry| (entry.name.as_str(), entry)).collect();
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
            let entry = table.entries().iter().find(|entry| entry.name == name);
            let entry = entry
                .ok_or_else(|| ModelError::UnexpectedTensor { path: path.clone(), name: name.into() })?;
            put(entry, stored_values(&path, entry, &tensor)?)?;
            wanted.remove(name);
            done += entry.range().len();
            progress(done, table.len());
        }
    }
    match wanted.into_values().next() {
        None => Ok(()),
        Some(entry) => {
            let (name, shape) = (entry.name.clone(), entry.shape.clone());
            Err(ModelError::MissingTensor { directory: directory.into(), name, shape })
        }
    }
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
    let json: serde_json::Value =
        serde_json::from_slice(&read_limited(&index, "index of shards", CONFIG_LIMIT)?)
            .map_err(|error| ModelError::Config { path: index.clone(), problem: error.to_string() })?;
    let wrong = |problem: String| ModelError::Config { path: index.clone(), problem };
    let weight_map = json.get("weight_map").and_then(|map| map.as_object());
    let weight_map = weight_map.ok_or_else(|| wrong("`weight_map` is missing".into()))?;
    let mut shards: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (tensor, file) in weight_map {
        // A shard lies beside its index; a path that leads elsewhere is damage or mischief.
        let name = file.as_str().map(Path::new).and_then(Path::file_name);
        let name = name.ok_or_else(|| wrong(format!("`weight_map` has no file for tensor `{tensor}`")))?;
        shards.entry(directory.join(name)).or_insert(tensor);
    }
    for (path, tensor) in &shards {
        if !path.is_file() {
            return Err(ModelError::MissingShard { path: path.clone(), tensor: (*tensor).into() });
        }
    }
    Ok(shards.into_keys().collect())
}

/// The numbers of a tensor, if it is what the table expects.
fn stored_values<'a>(
    path: &Path,
    entry: &ParamEntry,
    tensor: &TensorView<'a>,
) -> Result<StoredValues<'a>, ModelError> {
    let (path, name) = (path.to_path_buf(), entry.name.clone());
    if tensor.shape() != entry.shape {
        let (found, expected) = (tensor.shape().to_vec(), entry.shape.clone());
        return Err(ModelError::TensorShape { path, name, found, expected });
    }
    let (pairs, _) = tensor.data().as_chunks::<2>();
    let (quads, _) = tensor.data().as_chunks::<4>();
    match tensor.dtype() {
        Dtype::F32 => Ok(StoredValues::F32(quads)),
        Dtype::BF16 => Ok(StoredValues::Bf16(pairs)),
        Dtype::F16 => Ok(StoredValues::F16(pairs)),
        other => Err(ModelError::TensorType { path, name, found: format!("{other:?}") }),
    }
}
