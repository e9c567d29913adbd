//! The runtime: kernels on the CPU and on the GPU.
