//! A run on the GPU.

use longgen_codegen::model::PassGroup;
use longgen_codegen::spec::{Dtype, Pass, Shape};
use longgen_runtime::driver::{Buffer, Device, Stream};
use longgen_runtime::gpu::{
    BackwardTensors, CompiledKernel, DeviceTensor, ForwardTensors, GpuAttention, GpuAttentionError,
    GpuOptions, Layout, Prepared,
};
use longgen_runtime::problem::DType;
use longgen_runtime::tensor::TensorShape;
use thiserror::Error;

use super::input::Input;
use super::output::{Gradients, Results};
use crate::cli::CliError;
use crate::cli::kernel_args::{NvrtcArgs, Subject};

/// What GPU kernels do not take.
#[derive(Debug, Error)]
enum CudaError {
    #[error("GPU kernels take bf16 and fp16 tensors, and these are f32: convert them, or use --device cpu")]
    Single,
    #[error(
        "GPU kernels take head dimensions that are multiples of 32 from 32 to 256, not {head_dim}; use --device cpu"
    )]
    HeadDim { head_dim: usize },
}

/// Computes everything that was asked for.
///
/// # Errors
/// [`CliError::Failure`] for a missing GPU or NVRTC, and for tensors that GPU kernels do not take.
pub fn run(subject: &Subject, input: &Input, backward: bool, nvrtc: &NvrtcArgs) -> Result<Results, CliError> {
    let shape = shape(subject, input).map_err(CliError::failure)?;
    let device = Device::open(0).map_err(CliError::failure)?;
    let cache = nvrtc.kernel_cache()?;
    let group = input.problem.shape.group() as u32;
    let options = GpuOptions { target: None, backward, deterministic: true, decode: false, group };
    let canonical = subject.pattern.to_string();
    GpuAttention::new(&device, &cache, &canonical, &subject.ir, shape, options)
        .and_then(|attention| compute(&attention, input, backward))
        .map_err(CliError::failure)
}

fn shape(subject: &Subject, input: &Input) -> Result<Shape, CudaError> {
    let dtype = match input.q.dtype() {
        DType::F32 => return Err(CudaError::Single),
        DType::Bf16 => Dtype::Bf16,
        DType::F16 => Dtype::Fp16,
    };
    let head_dim = input.problem.shape.head_dim();
    if !head_dim.is_multiple_of(32) || !(32..=256).contains(&head_dim) {
        return Err(CudaError::HeadDim { head_dim });
    }
    let softmax = subject.pattern.softmax();
    Ok(Shape {
        head_dim: head_dim as u32,
        dtype,
        softcap: softmax.softcap.is_some(),
        sink_logit: softmax.sink_logit,
    })
}

fn compute(attention: &GpuAttention, input: &Input, backward: bool) -> Result<Results, GpuAttentionError> {
    let stream = attention.stream();
    let (q, k, v) = (
        DeviceTensor::upload(stream, &input.q)?,
        DeviceTensor::upload(stream, &input.k)?,
        DeviceTensor::upload(stream, &input.v)?,
    );
    let sink_logit = floats(stream, &input.sink_logit)?;
    let mut prepared = attention.prepare(&input.problem)?;
    let mut o = empty(attention, input.q.shape())?;
    let mut lse = Buffer::zeros(stream, 4 * input.problem.lse_elements())?;
    let tensors = ForwardTensors {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        sink_logit: sink_logit.as_ref(),
        o: o.view_mut(),
        lse: &mut lse,
    };
    attention.forward(&mut prepared, tensors)?;
    let gradients = match &input.d_o {
        Some(d_o) if backward => {
            let d_o = DeviceTensor::upload(stream, d_o)?;
            let on_device = OnDevice { q, k, v, sink_logit, o: &o, lse: &lse, d_o };
            Some(on_device.backward(attention, &mut prepared, input)?)
        }
        _ => None,
    };
    Ok(Results { o: o.download()?, lse: lse.to_vec()?, gradients, schedules: schedules(attention) })
}

/// A line for each kernel, and one that says why some are not tuned.
fn schedules(attention: &GpuAttention) -> Vec<String> {
    let line = |kernel: &CompiledKernel| {
        let pass = kernel.manifest.pass;
        let by = if attention.is_tuned(pass) { "tuned" } else { "not tuned" };
        format!("{pass}: {} ({by})", kernel.manifest.schedule)
    };
    let mut lines: Vec<String> = attention.kernels().map(line).collect();
    let passes = attention.kernels().map(|kernel| kernel.manifest.pass);
    let untuned: Vec<Pass> = passes.filter(|&pass| !attention.is_tuned(pass)).collect();
    if !untuned.is_empty() {
        let of_backward = untuned.iter().any(|&pass| PassGroup::from(pass) == PassGroup::Backward);
        let option = if of_backward { " --deterministic" } else { "" };
        lines.push(format!(
            "not tuned: `lgc tune --device cuda{option}` did not measure this mask at this D, type and number of query heads of a KV \
             head, with or without a softcap as here, on this GPU with this driver and NVRTC, by this version of longgen"
        ));
    }
    lines
}

/// The inputs of a backward pass.
struct OnDevice<'a> {
    q: DeviceTensor,
    k: DeviceTensor,
    v: DeviceTensor,
    sink_logit: Option<Buffer>,
    o: &'a DeviceTensor,
    lse: &'a Buffer,
    d_o: DeviceTensor,
}

impl OnDevice<'_> {
    fn backward(
        &self,
        attention: &GpuAttention,
        prepared: &mut Prepared,
        input: &Input,
    ) -> Result<Gradients, GpuAttentionError> {
        let stream = attention.stream();
        let d_lse = floats(stream, &input.d_lse)?;
        let mut dq = empty(attention, input.q.shape())?;
        let mut dk = empty(attention, input.k.shape())?;
        let mut dv = empty(attention, input.v.shape())?;
        let heads = input.problem.shape.heads();
        let mut d_sink = self.sink_logit.as_ref().map(|_| Buffer::zeros(stream, 4 * heads)).transpose()?;
        let tensors = BackwardTensors {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            sink_logit: self.sink_logit.as_ref(),
            o: self.o.view(),
            lse: self.lse,
            d_o: self.d_o.view(),
            d_lse: d_lse.as_ref(),
            dq: dq.view_mut(),
            dk: dk.view_mut(),
            dv: dv.view_mut(),
            d_sink: d_sink.as_mut(),
        };
        attention.backward(prepared, tensors)?;
        let d_sink = d_sink.map(|buffer| buffer.to_vec()).transpose()?;
        Ok(Gradients { dq: dq.download()?, dk: dk.download()?, dv: dv.download()?, d_sink })
    }
}

fn empty(attention: &GpuAttention, shape: TensorShape) -> Result<DeviceTensor, GpuAttentionError> {
    DeviceTensor::filled(attention.stream(), attention.shape().dtype, Layout::contiguous(shape), 0)
}

fn floats(stream: &Stream, values: &Option<Vec<f32>>) -> Result<Option<Buffer>, GpuAttentionError> {
    Ok(values.as_ref().map(|values| Buffer::from_slice(stream, values)).transpose()?)
}
