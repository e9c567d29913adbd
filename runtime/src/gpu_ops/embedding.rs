//! Token embedding: rows of a table.

use half::bf16;

use super::{Ops, int, row_threads};
use crate::driver::{Argument, Buffer, GpuError, Span, Stream};

/// The tokens of a batch on the device, with the places of each distinct token side by side: the backward pass adds up the
/// places of a token in their order, whatever runs at the same time.
#[derive(Debug)]
pub struct TokenRuns {
    /// (T)
    tokens: Buffer,
    /// Places in the batch, sorted by token and then by place, (T).
    order: Buffer,
    /// Where each distinct token starts in `order`, and the end.
    runs: Buffer,
    count: usize,
    distinct: usize,
}

impl TokenRuns {
    /// Uploads tokens, all below the vocabulary.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn new(stream: &Stream, tokens: &[u32]) -> Result<TokenRuns, GpuError> {
        let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
        order.sort_by_key(|&place| (tokens[place as usize], place));
        let starts = (0..order.len())
            .filter(|&at| at == 0 || tokens[order[at] as usize] != tokens[order[at - 1] as usize]);
        let mut runs: Vec<u32> = starts.map(|at| at as u32).collect();
        let distinct = runs.len();
        runs.push(order.len() as u32);
        Ok(TokenRuns {
            tokens: Buffer::from_slice(stream, tokens)?,
            order: Buffer::from_slice(stream, &order)?,
            runs: Buffer::from_slice(stream, &runs)?,
            count: tokens.len(),
            distinct,
        })
    }

    /// The tokens (T).
    pub fn tokens(&self) -> Span<'_, u32> {
        self.tokens.span()
    }
}

impl Ops {
    /// x (T, C) = table (V, C) at the rows `tokens` (T), which are below V: the batch was checked.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn embedding_forward(
        &self,
        rows: usize,
        width: usize,
        table: Span<'_, bf16>,
        tokens: Span<'_, u32>,
        x: Span<'_, bf16>,
    ) -> Result<(), GpuError> {
        let arguments = [
            Argument::Address(table.address("table", width, &self.stream)?),
            Argument::Address(tokens.address("tokens", rows, &self.stream)?),
            Argument::Address(x.address("x", rows * width, &self.stream)?),
            int(width),
        ];
        self.launch("embedding_forward", [rows, 1, 1], row_threads(width), &arguments)
    }

    /// d_table (V, C) += d_x (T, C), row by row.
    ///
    /// # Errors
    /// Spans that are too small.
    pub fn embedding_backward(
        &self,
        width: usize,
        d_x: Span<'_, bf16>,
        tokens: &TokenRuns,
        d_table: Span<'_, f32>,
    ) -> Result<(), GpuError> {
        let stream = &self.stream;
        let arguments = [
            Argument::Address(d_x.address("d_x", tokens.count * width, stream)?),
            Argument::Address(tokens.tokens.span::<u32>().address("tokens", tokens.count, stream)?),
            Argument::Address(tokens.order.span::<u32>().address("order", tokens.count, stream)?),
            Argument::Address(tokens.runs.span::<u32>().address("runs", tokens.distinct + 1, stream)?),
            Argument::Address(d_table.address("d_table", width, stream)?),
            int(width),
        ];
        let blocks = [tokens.distinct, (width / 8).div_ceil(64), 1];
        self.launch("embedding_backward", blocks, 64, &arguments)
    }
}
