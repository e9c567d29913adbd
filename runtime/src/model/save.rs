//! A model back to disk, as transformers reads it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, View};

use crate::problem::DType;

use super::load::SINGLE_FILE;
use super::{LlamaConfig, ModelError, Params};

/// Writes `config.json` and `model.safetensors` into an existing directory, the weights rounded to `dtype`, and waits
/// until both are on the disk.
///
/// # Errors
/// Files that cannot be written.
pub fn save_model(
    directory: &Path,
    config: &LlamaConfig,
    weights: &Params,
    dtype: DType,
) -> Result<(), ModelError> {
    let name = match dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    };
    let path = directory.join("config.json");
    std::fs::write(&path, config.to_json(name)).map_err(ModelError::io(&path))?;
    sync(&path)?;
    save_params(&directory.join(SINGLE_FILE), &[("", weights)], dtype)
}

/// Writes several sets of parameters into one safetensors file, each tensor's name behind the prefix of its set, and
/// waits until the file is on the disk.
///
/// # Errors
/// A file that cannot be written.
pub fn save_params(path: &Path, sets: &[(&str, &Params)], dtype: DType) -> Result<(), ModelError> {
    let tensors = sets.iter().flat_map(|(prefix, params)| {
        params.table().entries().iter().map(move |entry| {
            let data = &params.data()[entry.range()];
            (format!("{prefix}{}", entry.name), Stored { shape: &entry.shape, data, dtype })
        })
    });
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
