//! The tensors that `lgc run` writes.

use std::collections::HashMap;

use longgen_runtime::problem::DType;
use longgen_runtime::tensor::HostTensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};

use super::input::Input;
use crate::cli::kernel_args::Subject;

/// Results of one run.
pub struct Results {
    /// (total_q, H, D).
    pub o: HostTensor,
    /// (H, total_q).
    pub lse: Vec<f32>,
    /// Of the backward.
    pub gradients: Option<Gradients>,
    /// The schedules in use, a line each.
    pub schedules: Vec<String>,
}

/// Gradients of the inputs.
pub struct Gradients {
    /// (total_q, H, D).
    pub dq: HostTensor,
    /// (total_k, G, D).
    pub dk: HostTensor,
    /// (total_k, G, D).
    pub dv: HostTensor,
    /// (H), where the pattern has sink logits.
    pub d_sink: Option<Vec<f32>>,
}

/// A tensor as the file holds it.
struct Stored {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Results {
    /// Names of the tensors.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = vec!["o", "lse"];
        if let Some(gradients) = &self.gradients {
            names.extend(["dq", "dk", "dv"]);
            names.extend(gradients.d_sink.as_ref().map(|_| "dsink_logit"));
        }
        names
    }

    /// The safetensors file, with the pattern and the version in its metadata.
    ///
    /// # Errors
    /// Only what the format's writer refuses.
    pub fn serialize(&self, subject: &Subject, input: &Input) -> Result<Vec<u8>, SafeTensorError> {
        let heads = input.problem.shape.heads();
        let tokens = input.problem.sequences.total_q();
        let mut stored = vec![tensor("o", &self.o), floats("lse", vec![heads, tokens], &self.lse)];
        if let Some(gradients) = &self.gradients {
            let Gradients { dq, dk, dv, d_sink } = gradients;
            stored.extend([tensor("dq", dq), tensor("dk", dk), tensor("dv", dv)]);
            stored.extend(d_sink.iter().map(|values| floats("dsink_logit", vec![heads], values)));
        }
        let views = stored
            .iter()
            .map(|s| Ok((s.name, TensorView::new(s.dtype, s.shape.clone(), &s.bytes)?)))
            .collect::<Result<Vec<_>, SafeTensorError>>()?;
        let metadata = HashMap::from([
            ("generator".to_string(), concat!("lgc ", env!("CARGO_PKG_VERSION")).to_string()),
            ("pattern".to_string(), subject.pattern.to_string()),
        ]);
        safetensors::serialize(views, Some(metadata))
    }
}

fn tensor(name: &'static str, tensor: &HostTensor) -> Stored {
    let dtype = match tensor.dtype() {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
    };
    let shape = tensor.shape();
    let shape = vec![shape.tokens, shape.heads, shape.head_dim];
    Stored { name, dtype, shape, bytes: tensor.to_le_bytes() }
}

fn floats(name: &'static str, shape: Vec<usize>, values: &[f32]) -> Stored {
    Stored { name, dtype: Dtype::F32, shape, bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect() }
}
