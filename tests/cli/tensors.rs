//! Safetensors files for `lgc run`.

use std::path::PathBuf;

use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

/// A file of tensors under construction, in a folder of its own.
pub struct Tensors {
    pub folder: TempDir,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    pub fn new() -> Tensors {
        Tensors { folder: tempfile::tempdir().unwrap(), tensors: Vec::new() }
    }

    /// q, k, v and do of these shapes, filled with small numbers.
    pub fn qkv(tokens: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Tensors {
        let (q, k) = ([tokens, heads, head_dim], [tokens, kv_heads, head_dim]);
        Tensors::new().ramp("q", &q).ramp("k", &k).ramp("v", &k).ramp("do", &q)
    }

    pub fn floats(mut self, name: &str, shape: &[usize], values: &[f32]) -> Tensors {
        self.tensors.retain(|(other, ..)| other != name);
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push((name.to_string(), Dtype::F32, shape.to_vec(), bytes));
        self
    }

    /// Numbers without much structure.
    pub fn ramp(self, name: &str, shape: &[usize]) -> Tensors {
        let count = shape.iter().product::<usize>();
        let seed = name.len() as f32 + 0.37 * f32::from(name.as_bytes()[0]);
        let values: Vec<f32> = (0..count).map(|n| (n as f32 * 0.731 + seed).sin()).collect();
        self.floats(name, shape, &values)
    }

    pub fn integers(mut self, name: &str, values: &[i64]) -> Tensors {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push((name.to_string(), Dtype::I64, vec![values.len()], bytes));
        self
    }

    /// Changes one value of an f32 tensor.
    pub fn set(mut self, name: &str, at: usize, value: f32) -> Tensors {
        let tensor = self.tensors.iter_mut().find(|(other, ..)| other == name).unwrap();
        tensor.3[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Writes the file.
    pub fn write(&self) -> PathBuf {
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let path = self.folder.path().join("in.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        path
    }
}

impl Tensors {
    /// Writes the same tensors, rounded to bf16, to another file.
    pub fn in_bf16(&self) -> PathBuf {
        let half = |bytes: &[u8; 4]| bf16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes();
        let rounded: Vec<(&str, &[usize], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, _, shape, bytes)| {
                (name.as_str(), &shape[..], bytes.as_chunks().0.iter().flat_map(half).collect())
            })
            .collect();
        let views = rounded.iter().map(|(name, shape, bytes)| {
            (*name, TensorView::new(Dtype::BF16, shape.to_vec(), bytes).unwrap())
        });
        let path = self.folder.path().join("bf16.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        path
    }
}

/// Reads an f32 or a bf16 tensor: its shape and values.
pub fn read(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values = match view.dtype() {
        Dtype::F32 => view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::BF16 => {
            view.data().as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()
        }
        other => panic!("{other:?}"),
    };
    (view.shape().to_vec(), values)
}
