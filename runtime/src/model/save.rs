//! A model back to disk, as transformers reads it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, View};

use crate::problem::DType;

use super::load::{INDEX_FILE, SINGLE_FILE};
use super::params::ParamEntry;
use super::{LlamaConfig, ModelError, Params};

/// Bytes of weights in one file, as on Hugging Face: a larger model is cut between tensors.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// Writes `config.json` and the weights, rounded to `dtype`, into an existing directory, and waits until all is on the disk.
/// Up to `shard_bytes` ([`SHARD_BYTES`] is customary) they go into `model.safetensors`; more go into
/// `model-00001-of-00003.safetensors` and so on, with the index that says which tensor lies where.
///
/// # Errors
/// Files that cannot be written.
pub fn save_model(
    directory: &Path,
    config: &LlamaConfig,
    weights: &Params,
    dtype: DType,
    shard_bytes: usize,
) -> Result<(), ModelError> {
    let name = match dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    };
    write(&directory.join("config.json"), config.to_json(name))?;
    let entries = weights.table().entries();
    let shards = shards(entries, dtype, shard_bytes);
    if let [_] = shards[..] {
        return save_tensors(&directory.join(SINGLE_FILE), tensors("", entries, weights, dtype));
    }
    let mut weight_map = serde_json::Map::new();
    for (number, range) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        let entries = &entries[range.clone()];
        save_tensors(&directory.join(&file), tensors("", entries, weights, dtype))?;
        weight_map.extend(entries.iter().map(|entry| (entry.name.clone(), file.clone().into())));
    }
    let total_size = weights.table().len() * dtype.bytes();
    let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    write(&directory.join(INDEX_FILE), format!("{index:#}\n"))
}

/// Entries of each shard: as many as fit, and at least one.
fn shards(entries: &[ParamEntry], dtype: DType, shard_bytes: usize) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        let more = entry.range().len() * dtype.bytes();
        if at > start && bytes + more > shard_bytes {
            shards.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    shards.push(start..entries.len());
    shards
}

fn write(path: &Path, text: String) -> Result<(), ModelError> {
    std::fs::write(path, text).map_err(ModelError::io(path))?;
    sync(path)
}

/// Writes several sets of parameters into one safetensors file, each tensor's name behind the prefix of its set, and
/// waits until the file is on the disk.
///
/// # Errors
/// A file that cannot be written.
pub fn save_params(path: &Path, sets: &[(&str, &Params)], dtype: DType) -> Result<(), ModelError> {
    let tensors =
        sets.iter().flat_map(|(prefix, params)| tensors(prefix, params.table().entries(), params, dtype));
    save_tensors(path, tensors)
}

fn tensors<'a>(
    prefix: &'a str,
    entries: &'a [ParamEntry],
    params: &'a Params,
    dtype: DType,
) -> impl Iterator<Item = (String, Stored<'a>)> {
    entries.iter().map(move |entry| {
        let data = &params.data()[entry.range()];
        (format!("{prefix}{}", entry.name), Stored { shape: &entry.shape, data, dtype })
    })
}

fn save_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, Stored<'a>)>,
) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|error| {
        let source = match error {
            safetensors::SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other.to_string()),
        };
        ModelError::Io { path: path.to_path_buf(), source }
    })?;
    sync(path)
}

/// Waits until a file, or the names in a directory, are on the disk.
pub(crate) fn sync(path: &Path) -> Result<(), ModelError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(ModelError::io(path))
}

/// A tensor on its way to a file; rounded only while it is written.
struct Stored<'a> {
    shape: &'a [usize],
    data: &'a [f32],
    dtype: DType,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.data.iter();
        Cow::Owned(match self.dtype {
            DType::F32 => data.flat_map(|x| x.to_le_bytes()).collect(),
            DType::Bf16 => data.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            DType::F16 => data.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.data.len() * self.dtype.bytes()
    }
}
