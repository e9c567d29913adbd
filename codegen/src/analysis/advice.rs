//! Advice on alignment: a window or a stride that is no multiple of the tile makes kernels compute pairs they hide.

use crate::ir::{Bound, MaskIr};
use crate::plan::TileShape;

/// One thing to change, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice(pub String);

/// What rounding to the tile would gain.
pub fn alignment(ir: &MaskIr, shape: TileShape) -> Vec<Advice> {
    let keys = i64::from(shape.keys);
    let mut advice = Vec::new();
    for term in ir.classes.iter().flat_map(|class| &class.terms) {
        for bound in &term.lower {
            let Bound::Step { shift: 0, step: 1, offset } = *bound else { continue };
            let window = 1 - offset;
            if window % keys != 0 && window < 64 * keys {
                let (down, up) = (window / keys * keys, (window / keys + 1) * keys);
                advice.push(Advice(format!(
                    "window = {window} is no multiple of the key tile ({keys}): {} wastes less",
                    if down == 0 { up.to_string() } else { format!("{down} or {up}") }
                )));
            }
        }
        for residue in term.residues.iter().filter(|r| r.block % keys != 0) {
            let share = 100 * residue.block / keys.max(residue.block);
            if share < 100 {
                advice.push(Advice(format!(
                    "a stride over blocks of {} keys fills {share} % of each tile of {keys} keys: \
                     blocks of {keys} would fill it",
                    residue.block
                )));
            }
        }
    }
    advice.dedup();
    advice
}
