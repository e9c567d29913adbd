//! Bytes to a bundle. Every number is checked before it is used: the bytes may be anything.

use super::layout::{HEADER, HEADER_SUMMED, MAGIC, RECORD, VERSION, header, record};
use super::{Bundle, BundleError, BundleInfo, BundledKernel, ImageKind, LABEL_BYTES, params_sum};
use crate::artifact::{CompiledKernel, Manifest};

impl Bundle {
    /// Reads a file, and checks every sum in it.
    ///
    /// # Errors
    /// [`BundleError`]: what the file is instead, or which part of it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle, BundleError> {
        let index = check_header(bytes)?;
        let info = part(bytes, header::INFO, "the description")?;
        part(bytes, header::C_HEADER, "the C header")?;
        let info: BundleInfo = serde_json::from_slice(info).map_err(malformed)?;
        if number_at(bytes, header::PARAMS_SUM) != params_sum() {
            return Err(BundleError::Parameters { generator: info.generator });
        }
        let mut kernels: Vec<BundledKernel> = Vec::new();
        // A source's further entry points share its image and manifest.
        let mut further = 0..0;
        for (number, position) in index.enumerate() {
            let step = number_at(bytes, position + record::STEP);
            if step != further.next().unwrap_or(0) {
                return Err(malformed(format!("kernel {number} is out of order")));
            }
            if step == 0 {
                let kernel = kernel(bytes, number, position)?;
                further = 1..kernel.compiled.manifest.kernels.len() as u32;
                kernels.push(kernel);
            }
        }
        if !further.is_empty() {
            return Err(malformed("the last kernel is incomplete"));
        }
        Ok(Bundle { info, kernels })
    }
}

/// Checks the header and the index; returns where the records begin.
fn check_header(bytes: &[u8]) -> Result<impl Iterator<Item = usize> + use<>, BundleError> {
    let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if start != MAGIC {
        // What is left of the first bytes when line ends were changed.
        let text = start.starts_with(b"\x89LGK\n") || start.starts_with(b"\x89LGK\r\r");
        let cut = MAGIC.starts_with(start) && !start.is_empty();
        return Err(match (text, cut) {
            (true, _) => BundleError::CopiedAsText,
            (_, true) => BundleError::Size { expected: HEADER as u64, found: bytes.len() as u64 },
            _ => BundleError::NotABundle,
        });
    }
    if bytes.len() < HEADER {
        return Err(BundleError::Size { expected: HEADER as u64, found: bytes.len() as u64 });
    }
    // The version first: another version may sum another header.
    let version = number_at(bytes, header::VERSION);
    if version != VERSION {
        return Err(BundleError::Version { found: version });
    }
    if crc32fast::hash(&bytes[..HEADER_SUMMED]) != number_at(bytes, header::HEADER_SUM) {
        return Err(BundleError::Damaged { part: "the header".to_owned() });
    }
    let (expected, found) = (long_at(bytes, header::FILE_BYTES), bytes.len() as u64);
    if expected != found {
        return Err(BundleError::Size { expected, found });
    }
    let count = number_at(bytes, header::RECORDS) as usize;
    let end = count.checked_mul(RECORD).and_then(|size| size.checked_add(HEADER));
    let index = end.and_then(|end| bytes.get(HEADER..end));
    let index = index.ok_or_else(|| malformed("the index reaches past the end of the file"))?;
    if crc32fast::hash(index) != number_at(bytes, header::INDEX_SUM) {
        return Err(BundleError::Damaged { part: "the index".to_owned() });
    }
    Ok((0..count).map(|number| HEADER + number * RECORD))
}

fn kernel(bytes: &[u8], number: usize, position: usize) -> Result<BundledKernel, BundleError> {
    let name = format!("kernel {number}");
    let image = part(bytes, position + record::IMAGE, &format!("{name}'s image"))?;
    let manifest = part(bytes, position + record::MANIFEST, &format!("{name}'s manifest"))?;
    let manifest = std::str::from_utf8(manifest).map_err(malformed)?;
    let manifest = Manifest::from_json(manifest).map_err(malformed)?;
    let label = &bytes[position + record::PATTERN..][..LABEL_BYTES];
    let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
    let pattern = std::str::from_utf8(label).map_err(malformed)?.to_owned();
    let kind = match number_at(bytes, position + record::IS_PTX) {
        0 => ImageKind::Cubin,
        _ if image.last() == Some(&0) => ImageKind::Ptx,
        _ => return Err(malformed(format!("{name}'s PTX has no end"))),
    };
    Ok(BundledKernel { pattern, kind, compiled: CompiledKernel { image: image.to_vec(), manifest } })
}

/// The part that a span points at, if it lies in the file and matches its sum.
fn part<'a>(bytes: &'a [u8], span: usize, name: &str) -> Result<&'a [u8], BundleError> {
    let (offset, length) = (long_at(bytes, span), long_at(bytes, span + 8));
    let range = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
    let part = range.and_then(|(offset, length)| bytes.get(offset..)?.get(..length));
    let part = part.ok_or_else(|| malformed(format!("{name} lies outside the file")))?;
    if crc32fast::hash(part) != number_at(bytes, span + 16) {
        return Err(BundleError::Damaged { part: name.to_owned() });
    }
    Ok(part)
}

fn malformed(reason: impl ToString) -> BundleError {
    BundleError::Malformed { reason: reason.to_string() }
}

/// The caller has made sure that the bytes are there: positions are below the end of the index.
fn number_at(bytes: &[u8], position: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[position..position + 4]);
    u32::from_le_bytes(number)
}

fn long_at(bytes: &[u8], position: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[position..position + 8]);
    u64::from_le_bytes(number)
}
