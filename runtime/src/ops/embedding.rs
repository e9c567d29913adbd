//! Token embedding: rows of a table.

/// x (T, C) = table (V, C) at the rows `tokens` (T). Tokens are below V: [`crate::model::Batch`] checks that once.
pub fn embedding_forward(table: &[f32], width: usize, tokens: &[u32], x: &mut [f32]) {
    for (x, &token) in x.chunks_exact_mut(width).zip(tokens) {
        x.copy_from_slice(&table[token as usize * width..][..width]);
    }
}

/// d_table (V, C) += d_x (T, C), row by row and in token order, so that repeated tokens add up the same way each time.
pub fn embedding_backward(d_x: &[f32], width: usize, tokens: &[u32], d_table: &mut [f32]) {
    for (d_x, &token) in d_x.chunks_exact(width).zip(tokens) {
        let row = &mut d_table[token as usize * width..][..width];
        row.iter_mut().zip(d_x).for_each(|(row, d)| *row += d);
    }
}
