//! Polynomials that the generated and the precompiled micro-kernels share, highest power first.

/// `2^f` on [-0.5, 0.5]: interpolation at Chebyshev nodes, relative error 2.6e-9 before rounding; exactly 1 at 0.
pub const EXP2: [f32; 7] = [
    0.00015461444695632573_f64 as f32,
    0.0013400428177416093_f64 as f32,
    0.009618056678532362_f64 as f32,
    0.05550327226670846_f64 as f32,
    0.2402265092228873_f64 as f32,
    0.6931472067028324_f64 as f32,
    1.0,
];

/// `tanh(x) / x` as a polynomial of `x^2`, for |x| < [`TANH_LIMIT`]: relative error 2.6e-9 before rounding.
pub const TANH: [f32; 6] = [
    -0.005849643914579651_f64 as f32,
    0.02075134911024534_f64 as f32,
    -0.053767983509617284_f64 as f32,
    0.13331679634572308_f64 as f32,
    -0.33333282834325767_f64 as f32,
    1.0,
];

/// Beyond this, tanh is `(1 - e^-2x) / (1 + e^-2x)`, which cancels below it.
pub const TANH_LIMIT: f32 = 0.6;

/// Adding 1.5 * 2^23 leaves the nearest integer of a small number in the low bits of its representation.
pub const ROUND: f32 = 12_582_912.0;
