//! The CUDA templates, as text.
