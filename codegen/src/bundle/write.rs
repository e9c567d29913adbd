//! A bundle to bytes. The same bundle gives the same bytes.

use super::layout::{ALIGNMENT, ARGUMENTS, HEADER, HEADER_SUMMED, MAGIC, RECORD, SPAN, VERSION};
use super::{Bundle, BundleError, BundledKernel, C_HEADER, ImageKind, LABEL_BYTES, params_sum};
use crate::artifact::{Argument, KernelEntry, Manifest};
use crate::cuda::kernels::{GridAxis, MapTensor};
use crate::target::Target;

/// A part of the file: offset, length, checksum.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    bytes: u64,
    sum: u32,
}

/// Fields one after another, little-endian.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    /// A text, filled up with NUL bytes. What does not fit is cut, and at least one NUL stays.
    fn text(&mut self, text: &str, room: usize) {
        let length = text.len().min(room - 1);
        self.0.extend_from_slice(&text.as_bytes()[..length]);
        self.0.resize(self.0.len() + room - length, 0);
    }

    fn numbers(&mut self, numbers: &[u32]) {
        numbers.iter().for_each(|number| self.0.extend_from_slice(&number.to_le_bytes()));
    }

    fn span(&mut self, span: Span) {
        self.0.extend_from_slice(&span.offset.to_le_bytes());
        self.0.extend_from_slice(&span.bytes.to_le_bytes());
        self.numbers(&[span.sum, 0]);
    }
}

/// The parts after the index.
struct Parts {
    start: usize,
    bytes: Vec<u8>,
}

impl Parts {
    fn add(&mut self, part: &[u8]) -> Span {
        let position = (self.start + self.bytes.len()).next_multiple_of(ALIGNMENT);
        self.bytes.resize(position - self.start, 0);
        self.bytes.extend_from_slice(part);
        Span { offset: position as u64, bytes: part.len() as u64, sum: crc32fast::hash(part) }
    }
}

impl Bundle {
    /// The file.
    ///
    /// # Errors
    /// [`BundleError::Label`] for a name that is too long, empty or not unique; [`BundleError::Malformed`] for a kernel
    /// that no record can describe.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        self.check_labels()?;
        let entries = self.kernels.iter().map(|kernel| kernel.compiled.manifest.kernels.len()).sum::<usize>();
        let start = HEADER + entries * RECORD;
        let mut parts = Parts { start, bytes: Vec::new() };
        let info = parts.add(serde_json::to_string(&self.info).map_err(malformed)?.as_bytes());
        let c_header = parts.add(C_HEADER.as_bytes());
        let mut index = Fields::default();
        for kernel in &self.kernels {
            let image = parts.add(&kernel.compiled.image);
            let manifest = parts.add(kernel.compiled.manifest.to_json().as_bytes());
            for step in 0..kernel.compiled.manifest.kernels.len() {
                record(kernel, step, &mut index)?;
                index.span(image);
                index.span(manifest);
            }
        }
        let mut file = Fields(MAGIC.to_vec());
        file.numbers(&[VERSION, entries as u32]);
        file.0.extend_from_slice(&((start + parts.bytes.len()) as u64).to_le_bytes());
        file.span(info);
        file.span(c_header);
        file.numbers(&[crc32fast::hash(&index.0), params_sum(), 0]);
        debug_assert_eq!(file.0.len(), HEADER_SUMMED);
        file.numbers(&[crc32fast::hash(&file.0)]);
        Ok([file.0, index.0, parts.bytes].concat())
    }

    fn check_labels(&self) -> Result<(), BundleError> {
        let labels = || self.info.patterns.iter().map(|pattern| &pattern.label);
        for label in labels() {
            let fits = (1..LABEL_BYTES).contains(&label.len()) && !label.contains('\0');
            if !fits || labels().filter(|other| *other == label).count() > 1 {
                return Err(BundleError::Label { label: label.clone() });
            }
        }
        let unknown = self.kernels.iter().find(|kernel| !labels().any(|label| *label == kernel.pattern));
        unknown.map_or(Ok(()), |kernel| {
            Err(malformed(format!(
                "a kernel belongs to `{}`, which is no pattern of the bundle",
                kernel.pattern
            )))
        })
    }
}

fn malformed(reason: impl ToString) -> BundleError {
    BundleError::Malformed { reason: reason.to_string() }
}

/// A record but for its two spans: the fields of `lgk_kernel` in `templates/c/longgen.h`, in order.
fn record(kernel: &BundledKernel, step: usize, index: &mut Fields) -> Result<(), BundleError> {
    let start = index.0.len();
    let manifest = &kernel.compiled.manifest;
    let entry = &manifest.kernels[step];
    let target: Target = manifest.target.parse().map_err(malformed)?;
    let arguments = arguments(entry)?;
    let Manifest { shape, tile_m, tile_n, list_n, .. } = *manifest;
    let (major, minor) = target.compute_capability();
    index.text(&entry.name, 64);
    index.text(&kernel.pattern, LABEL_BYTES);
    index.text(manifest.pass.name(), 24);
    index.text(target.name(), 16);
    index.text(shape.dtype.name(), 8);
    index.numbers(&[major, minor, target.is_exact().into(), (kernel.kind == ImageKind::Ptx).into()]);
    index.numbers(&[shape.head_dim, shape.softcap.into(), shape.sink_logit.into(), manifest.listed.into()]);
    index.numbers(&[step as u32, manifest.kernels.len() as u32, entry.needs_sink_logit.into()]);
    index.numbers(&[tile_m, tile_n, list_n]);
    index.numbers(&entry.grid.map(grid_axis));
    index.numbers(&[entry.block, entry.dynamic_smem_bytes, entry.arguments.len() as u32]);
    arguments.iter().for_each(|argument| index.numbers(argument));
    debug_assert_eq!(index.0.len() - start, RECORD - 2 * SPAN);
    Ok(())
}

/// Kind, tensor, box of each argument; zeros after the last.
fn arguments(entry: &KernelEntry) -> Result<[[u32; 5]; ARGUMENTS], BundleError> {
    let mut table = [[0; 5]; ARGUMENTS];
    if entry.arguments.len() > ARGUMENTS {
        return Err(malformed(format!("`{}` takes more than {ARGUMENTS} arguments", entry.name)));
    }
    for (row, argument) in table.iter_mut().zip(&entry.arguments) {
        *row = match *argument {
            Argument::Params => [0; 5],
            Argument::TensorMap { tensor, box_extent: [d, head, token] } => {
                [1, map_tensor(tensor), d, head, token]
            }
            Argument::WorkCounter => [2, 0, 0, 0, 0],
        };
    }
    Ok(table)
}

fn map_tensor(tensor: MapTensor) -> u32 {
    match tensor {
        MapTensor::Q => 0,
        MapTensor::K => 1,
        MapTensor::V => 2,
        MapTensor::DO => 3,
    }
}

fn grid_axis(axis: GridAxis) -> u32 {
    match axis {
        GridAxis::One => 0,
        GridAxis::QueryTiles => 1,
        GridAxis::KeyTiles => 2,
        GridAxis::QueryWork => 3,
        GridAxis::Heads => 4,
        GridAxis::KvHeads => 5,
        GridAxis::Batch => 6,
        GridAxis::Splits => 7,
        GridAxis::KeyWork => 8,
        GridAxis::HeadTiles => 9,
    }
}
