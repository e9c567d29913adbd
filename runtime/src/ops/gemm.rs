//! Dense products: a safe face for the GEMM crate, split over the threads by output rows.

use rayon::prelude::*;

/// A matrix in a slice, seen through strides.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Products below this many multiplications stay on one thread.
const PARALLEL_FROM: usize = 1 << 16;

impl<'a> Matrix<'a> {
    /// A row-major (rows, cols) matrix.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        assert_eq!(data.len(), rows * cols, "the slice of a ({rows}, {cols}) matrix has another length");
        Matrix { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same numbers, read as (cols, rows).
    pub(super) fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows from `first` on, `count` of them.
    fn row_block(self, first: usize, count: usize) -> Matrix<'a> {
        debug_assert!(first + count <= self.rows);
        Matrix { data: &self.data[first * self.row_stride..], rows: count, ..self }
    }
}

/// `c = beta * c + a * b`, c row-major (a.rows, b.cols).
pub(super) fn multiply(a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: &mut [f32]) {
    assert_eq!(a.cols, b.rows, "inner dimensions of a product differ");
    assert_eq!(c.len(), a.rows * b.cols, "the output of a product has another length");
    if c.is_empty() {
        return;
    }
    if a.rows == 1 && beta == 0.0 && a.col_stride == 1 && b.row_stride == 1 && b.col_stride == b.rows {
        return matrix_vector(a.data, b, c);
    }
    let threads = rayon::current_num_threads();
    if threads == 1 || a.rows < 2 * threads || a.rows * a.cols * b.cols < PARALLEL_FROM {
        return block(a, b, beta, c);
    }
    let rows = a.rows.div_ceil(threads);
    c.par_chunks_mut(rows * b.cols).enumerate().for_each(|(part, c)| {
        block(a.row_block(part * rows, c.len() / b.cols), b, beta, c);
    });
}

/// One token: each output is a dot product with a row of the weights, which are read once.
fn matrix_vector(x: &[f32], weights: Matrix<'_>, y: &mut [f32]) {
    let width = weights.rows;
    let x = &x[..width];
    let rows = weights.data.par_chunks_exact(width).with_min_len(PARALLEL_FROM.div_ceil(width));
    y.par_iter_mut().zip(rows).for_each(|(y, row)| *y = dot(row, x));
}

/// A dot product in sixteen partial sums, which the compiler keeps in vectors.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[allow(unsafe_code)]
fn block(a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: &mut [f32]) {
    let last = |m: &Matrix<'_>| (m.rows - 1) * m.row_stride + (m.cols - 1) * m.col_stride;
    if a.cols == 0 {
        return c.iter_mut().for_each(|c| *c *= beta);
    }
    assert!(last(&a) < a.data.len() && last(&b) < b.data.len() && c.len() == a.rows * b.cols);
    // SAFETY: the assertion above bounds the last element that the strides reach in `a` and `b`; `c` is row-major with
    // exactly a.rows * b.cols elements and, being a unique borrow, overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.cols,
            b.cols,
            1.0,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            beta,
            c.as_mut_ptr(),
            b.cols as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn products_of_every_orientation_match_the_definition() {
        for (m, k, n) in [(1, 5, 3), (1, 40, 9), (7, 16, 5), (33, 20, 70), (64, 64, 64)] {
            let (a, b) = (filled(m * k, 1), filled(n * k, 2));
            let expected: Vec<f32> =
                (0..m * n).map(|at| (0..k).map(|x| a[at / n * k + x] * b[at % n * k + x]).sum()).collect();
            let mut c = vec![1.0; m * n];
            multiply(Matrix::new(&a, m, k), Matrix::new(&b, n, k).transposed(), 0.0, &mut c);
            assert_eq!(c, expected, "({m}, {k}, {n})");
            multiply(Matrix::new(&a, m, k), Matrix::new(&b, n, k).transposed(), 1.0, &mut c);
            assert!(c.iter().zip(&expected).all(|(c, e)| *c == 2.0 * e));
        }
    }
}
