//! What is to be tuned, read from the command line.

use std::fmt;
use std::time::Duration;

use longgen_codegen::analysis::model::ModelShape;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::model::PassGroup;
use longgen_codegen::pattern::Softmax;
use longgen_runtime::problem::{DType, HeadShape};
use thiserror::Error;

use super::Args;
use crate::cli::device::DeviceArg;
use crate::cli::kernel_args::unique;
use crate::cli::{CliError, model_arg, number};

/// Lengths in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(pub Vec<u32>);

/// Parses `8192..131072` (three lengths: both ends and their geometric middle) or `4k,64k`.
pub fn lengths(text: &str) -> Result<Lengths, String> {
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (number::tokens(from)?, number::tokens(to)?);
        if from >= to {
            return Err("the range must ascend, like 8k..128k".to_owned());
        }
        let middle = (f64::from(from) * f64::from(to)).sqrt().round() as u32;
        let mut all = vec![from, middle, to];
        all.dedup();
        return Ok(Lengths(all));
    }
    let all = text.split(',').map(number::tokens).collect::<Result<_, _>>()?;
    Ok(Lengths(all))
}

/// Parses a pass.
pub fn pass(text: &str) -> Result<PassGroup, String> {
    let found = PassGroup::ALL.into_iter().find(|pass| pass.name() == text);
    found.ok_or_else(|| "forward, backward or decode".to_owned())
}

/// Parses an element type.
pub fn dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        "fp16" => Ok(DType::F16),
        _ => Err("f32, bf16 or fp16".to_owned()),
    }
}

/// Parses `90s`, `5m` or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds =
        digits.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| (1..=86_400).contains(n));
    seconds.map(|n| Duration::from_secs(n.into())).ok_or_else(|| "1s to 1440m, like 90s or 5m".to_owned())
}

/// One pass at one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The pass.
    pub pass: PassGroup,
    /// Tokens.
    pub tokens: u32,
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} tokens", self.pass, number::grouped(self.tokens.into()))
    }
}

/// Everything that was asked for.
pub struct Request {
    /// The pattern.
    pub canonical: String,
    /// Its mask.
    pub ir: MaskIr,
    /// Its softmax.
    pub softmax: Softmax,
    /// Heads.
    pub shape: HeadShape,
    /// Element type.
    pub dtype: DType,
    /// Lengths.
    pub lengths: Vec<u32>,
    /// Passes.
    pub passes: Vec<PassGroup>,
    /// On a GPU, the backward with the same bits in every run.
    pub deterministic: bool,
    /// Take processor time.
    pub cpu_time: bool,
}

#[derive(Debug, Error)]
enum RequestError {
    #[error("GPU kernels take bf16 and fp16, not f32")]
    Single,
}

impl Request {
    /// Reads the pattern and the model.
    ///
    /// # Errors
    /// A wrong pattern or model; f32 on a GPU.
    pub fn new(args: &Args) -> Result<Request, CliError> {
        let subject = args.mask.subject()?;
        let ModelShape { heads, kv_heads, head_dim, .. } = model_arg::resolve(&args.model)?;
        let shape = HeadShape::new(heads as usize, kv_heads as usize, head_dim as usize);
        let (default_dtype, default_lengths) = match args.device {
            DeviceArg::Cpu => (DType::F32, vec![1 << 10, 1 << 12, 1 << 14]),
            DeviceArg::Cuda => (DType::Bf16, vec![1 << 13, 1 << 15, 1 << 17]),
        };
        let dtype = args.dtype.unwrap_or(default_dtype);
        if args.device == DeviceArg::Cuda && dtype == DType::F32 {
            return Err(CliError::usage(RequestError::Single));
        }
        Ok(Request {
            canonical: subject.pattern.to_string(),
            softmax: subject.pattern.softmax(),
            ir: subject.ir,
            shape: shape.map_err(CliError::usage)?,
            dtype,
            lengths: args.length.as_ref().map_or(default_lengths, |lengths| unique(&lengths.0)),
            passes: unique(&args.pass),
            deterministic: args.deterministic,
            cpu_time: args.cpu_time,
        })
    }

    /// Every pass at every length, the passes one after the other.
    pub fn searches(&self) -> Vec<Search> {
        let of_pass = |&pass| self.lengths.iter().map(move |&tokens| Search { pass, tokens });
        self.passes.iter().flat_map(of_pass).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_a_middle() {
        assert_eq!(lengths("8192..131072"), Ok(Lengths(vec![8192, 32768, 131_072])));
        assert_eq!(lengths("4k,64k"), Ok(Lengths(vec![4096, 65536])));
        assert!(lengths("8k..8k").is_err() && lengths("").is_err() && lengths("1..").is_err());
    }

    #[test]
    fn budgets() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "s", "0s", "-1s", "1h", "999999999m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
