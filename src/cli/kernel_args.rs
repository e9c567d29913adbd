//! What the commands that make kernels share: the layer whose mask is compiled, shapes, targets, NVRTC.

use std::path::PathBuf;
use std::sync::Arc;

use longgen_codegen::cuda::fetch;
use longgen_codegen::cuda::locate::ToolSearch;
use longgen_codegen::cuda::nvrtc::Nvrtc;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_codegen::spec::{Dtype, PatternCode, Shape};
use longgen_runtime::gpu::KernelCache;
use thiserror::Error;

use super::{CliError, environment, pattern_arg, store};

/// The mask to compile.
#[derive(Debug, clap::Args)]
pub struct MaskArgs {
    /// Preset, TOML file or pattern text
    pub pattern: String,
    /// Layer whose mask is meant, from 0; by default a layer that is not full
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u32).range(..1024))]
    pub layer: Option<u32>,
}

/// A pattern and the mask of one of its layers.
#[derive(Debug)]
pub struct Subject {
    /// The pattern.
    pub pattern: Pattern,
    /// The layer; `None` for one that is not full.
    pub layer: Option<u32>,
    /// The mask.
    pub ir: MaskIr,
}

#[derive(Debug, Error)]
#[error("the pattern has layers 0 to {}, not {layer}", .count - 1)]
struct NoLayer {
    layer: u32,
    count: u32,
}

impl MaskArgs {
    /// Reads the pattern and lowers the mask of the layer.
    ///
    /// # Errors
    /// A wrong pattern, a layer it does not have, a mask that cannot be lowered.
    pub fn subject(&self) -> Result<Subject, CliError> {
        let pattern = pattern_arg::resolve(&self.pattern)?;
        if let (Some(layer), Some(count)) = (self.layer, pattern.layers().count)
            && layer >= count
        {
            return Err(CliError::usage(NoLayer { layer, count }));
        }
        let ir = MaskIr::lower(&pattern, self.layer).map_err(CliError::usage)?;
        Ok(Subject { pattern, layer: self.layer, ir })
    }
}

impl Subject {
    /// The mask as CUDA kernels take it.
    pub fn code(&self) -> Arc<PatternCode> {
        Arc::new(PatternCode::new(self.pattern.to_string(), &self.ir))
    }

    /// What is compiled into CUDA kernels of this size.
    pub fn shape(&self, args: &ShapeArgs) -> Shape {
        let softmax = self.pattern.softmax();
        Shape {
            head_dim: args.head_dim,
            dtype: args.dtype,
            softcap: softmax.softcap.is_some(),
            sink_logit: softmax.sink_logit,
        }
    }
}

/// The compiled-in part of the shapes.
#[derive(Debug, clap::Args)]
pub struct ShapeArgs {
    /// Elements of a head, D: a multiple of 32 from 32 to 256
    #[arg(long, value_name = "D", default_value = "128", value_parser = head_dim)]
    pub head_dim: u32,
    /// Type of Q, K, V and O: bf16 or fp16
    #[arg(long, default_value = "bf16")]
    pub dtype: Dtype,
}

/// Parses a head dimension that GPU kernels take.
///
/// # Errors
/// What is allowed.
pub fn head_dim(text: &str) -> Result<u32, String> {
    let head_dim = text.parse::<u32>().ok().filter(|d| d.is_multiple_of(32) && (32..=256).contains(d));
    head_dim.ok_or_else(|| "a multiple of 32 from 32 to 256, for example 64 or 128".to_string())
}

/// What was asked for, each once, in that order.
pub fn unique<T: PartialEq + Copy>(list: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    list.iter().for_each(|item| {
        if !once.contains(item) {
            once.push(*item)
        }
    });
    once
}

/// Where NVRTC comes from.
#[derive(Debug, clap::Args)]
pub struct NvrtcArgs {
    /// NVRTC to use: the library, its folder or a CUDA toolkit
    #[arg(long, value_name = "PATH")]
    pub nvrtc: Option<PathBuf>,
    /// Fetch NVRTC into the cache where none is found (once, about 120 MB)
    #[arg(long)]
    pub fetch_nvrtc: bool,
}

impl NvrtcArgs {
    /// The places to look.
    pub fn search(&self) -> ToolSearch {
        environment::tool_search(self.nvrtc.clone())
    }

    /// NVRTC if it is there; never fetches.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn load_quietly(&self) -> Result<Nvrtc, String> {
        self.search().nvrtc().map_err(|error| error.to_string())
    }

    /// Compiled kernels, kept in the store. NVRTC is looked for when a kernel is not there yet.
    ///
    /// # Errors
    /// NVRTC that was to be fetched and could not be.
    pub fn kernel_cache(&self) -> Result<KernelCache, CliError> {
        if self.fetch_nvrtc {
            self.load()?;
        }
        Ok(KernelCache::new(self.search(), store::open()))
    }

    /// NVRTC, fetched if that was asked for and none is there.
    ///
    /// # Errors
    /// No NVRTC that loads, or one that could not be fetched.
    pub fn load(&self) -> Result<Nvrtc, CliError> {
        match self.search().nvrtc() {
            Err(_) if self.fetch_nvrtc && self.nvrtc.is_none() => {
                let cache = environment::cache_folder().ok_or_else(|| CliError::failure(NoCache))?;
                fetch::fetch(&cache, &environment::python()).map_err(CliError::failure)?;
                self.search().nvrtc().map_err(CliError::failure)
            }
            found => found.map_err(CliError::failure),
        }
    }
}

/// Nobody said where caches live.
#[derive(Debug, Error)]
#[error("there is no cache folder: set LONGGEN_CACHE to one (neither XDG_CACHE_HOME nor HOME is set)")]
pub struct NoCache;
