//! The host's mirror of `params.cuh`: the one argument struct of every kernel, same fields, same order.

use serde::{Deserialize, Serialize};

/// A device address; 0 is null.
pub type Address = u64;

/// One field of [`Params`], as the manifest tells other hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Name in the C++ struct.
    pub name: String,
    /// C type: `pointer`, `int64`, `int32` or `float32`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// What it is, with its shape.
    pub meaning: String,
}

macro_rules! params {
    ($($name:ident : $ty:ty, $kind:literal, $meaning:literal;)*) => {
        /// The parameters of a launch. Shapes: B batch, T and S query and key tokens packed over the batch, H query heads,
        /// G KV heads, D head dimension. Strides count elements.
        // A shape of one letter in brackets is not a link.
        #[allow(rustdoc::broken_intra_doc_links)]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct Params {
            $(#[doc = $meaning] pub $name: $ty,)*
        }

        impl Params {
            /// The layout, for the manifest.
            pub fn fields() -> Vec<Field> {
                vec![$(Field {
                    name: stringify!($name).to_owned(),
                    kind: $kind.to_owned(),
                    offset: std::mem::offset_of!(Params, $name),
                    meaning: $meaning.to_owned(),
                }),*]
            }
        }
    };
}

params! {
    q: Address, "pointer", "Q [total_q, H, D], 16-bit";
    k: Address, "pointer", "K [total_k, G, D], 16-bit";
    v: Address, "pointer", "V [total_k, G, D], 16-bit";
    o: Address, "pointer", "O [total_q, H, D], 16-bit";
    lse: Address, "pointer", "natural log-sum-exp [H, total_q], float";
    d_o: Address, "pointer", "dO [total_q, H, D], 16-bit";
    d_lse: Address, "pointer", "gradient of lse [H, total_q], float, or null";
    dq: Address, "pointer", "dQ [total_q, H, D], 16-bit";
    dk: Address, "pointer", "dK [total_k, G, D], 16-bit";
    dv: Address, "pointer", "dV [total_k, G, D], 16-bit";
    d_sink: Address, "pointer", "gradient of sink_logit [H], float";
    delta: Address, "pointer", "workspace [H, total_q], float";
    dq_accum: Address, "pointer", "workspace [H, query tiles, tile_m, D], float, of the fused backward; sm_80 family: zeroed by the caller";
    dq_turn: Address, "pointer", "workspace [H, query tiles], int, of the fused backward; zeroed by the caller";
    dkv_sums: Address, "pointer", "workspace [slots, 2, 64 D], float, of the fused backward; zeroed by the caller";
    dkv_shares: Address, "pointer", "workspace [slots], int, of the fused backward; zeroed by the caller";
    far_slot: Address, "pointer", "fused backward: slots of a KV head in earlier sequences [B + 1], int";
    sink_logit: Address, "pointer", "learned sink logits [H], float, or null";
    cu_q: Address, "pointer", "first query row of each sequence [B + 1], int";
    cu_k: Address, "pointer", "first key row of each sequence [B + 1], int";
    q_offset: Address, "pointer", "index of each sequence's first query token [B], int";
    list_row: Address, "pointer", "listed patterns: start of each row of tiles [B * G * list_rows + 1], int";
    list_tile: Address, "pointer", "listed patterns: tile * 4 + kind (0 full, 1 causal edge, 2 general), int";
    split_o: Address, "pointer", "decode workspace [B, H, splits, D], float";
    split_lse: Address, "pointer", "decode workspace [B, H, splits], float";
    split_arrivals: Address, "pointer", "decode workspace [B, head tiles], int; zero before the first launch, left zero";
    slot_key: Address, "pointer", "decode on a compact cache: key of each slot [G, total_k], -1 empty, int; or null";
    q_t: i64, "int64", "token stride of q"; q_h: i64, "int64", "head stride of q";
    k_t: i64, "int64", "token stride of k"; k_h: i64, "int64", "head stride of k";
    v_t: i64, "int64", "token stride of v"; v_h: i64, "int64", "head stride of v";
    o_t: i64, "int64", "token stride of o"; o_h: i64, "int64", "head stride of o";
    do_t: i64, "int64", "token stride of d_o"; do_h: i64, "int64", "head stride of d_o";
    dq_t: i64, "int64", "token stride of dq"; dq_h: i64, "int64", "head stride of dq";
    dk_t: i64, "int64", "token stride of dk"; dk_h: i64, "int64", "head stride of dk";
    dv_t: i64, "int64", "token stride of dv"; dv_h: i64, "int64", "head stride of dv";
    batch: i32, "int32", "B, sequences";
    heads: i32, "int32", "H, query heads";
    kv_heads: i32, "int32", "G, KV heads; divides H";
    max_q: i32, "int32", "query tokens of the longest sequence";
    max_k: i32, "int32", "keys of the longest sequence";
    total_q: i32, "int32", "query tokens of all sequences";
    total_k: i32, "int32", "keys of all sequences";
    splits: i32, "int32", "decode: pieces of the keys";
    list_rows: i32, "int32", "listed patterns: rows of the list per sequence and KV head";
    far_pairs: i32, "int32", "fused backward: pairs of far pieces, the most of any sequence and KV head";
    scale: f32, "float32", "softmax scale";
    softcap: f32, "float32", "cap of the scores; read only by kernels with softcap";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template's struct, read as text: a field added on one side only must not pass.
    fn template_fields() -> Vec<String> {
        let text = longgen_templates::text("params.cuh").expect("in the table");
        let (_, rest) = text.split_once("struct Params {").expect("the struct");
        let (body, _) = rest.split_once("};").expect("its end");
        let mut names = Vec::new();
        for line in body.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
            let Some(declaration) = line.strip_suffix(';') else { continue };
            for (index, part) in declaration.split(',').enumerate() {
                let word = part.split_whitespace().last().unwrap_or_default();
                assert!(!word.is_empty(), "declaration {index} of `{line}`");
                names.push(word.trim_start_matches('*').to_owned());
            }
        }
        names
    }

    #[test]
    fn both_sides_have_the_same_fields_in_the_same_order() {
        let host: Vec<String> = Params::fields().into_iter().map(|field| field.name).collect();
        assert_eq!(host, template_fields());
    }

    #[test]
    fn offsets_follow_the_c_layout() {
        let mut expected = 0;
        for field in Params::fields() {
            assert_eq!(field.offset, expected, "{}", field.name);
            expected += if matches!(field.kind.as_str(), "pointer" | "int64") { 8 } else { 4 };
        }
        assert_eq!(std::mem::size_of::<Params>(), expected);
        // The static assertion of params.cuh.
        assert_eq!(std::mem::size_of::<Params>(), 27 * 8 + 16 * 8 + 12 * 4);
    }
}
