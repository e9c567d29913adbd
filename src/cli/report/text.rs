//! A report for people.

use std::fmt;

use super::facts::{Layers, Report, ratio};
use crate::cli::number::{bytes, grouped, percent, scaled};
use longgen_codegen::pattern::IndexSet;

/// Width of the first column.
const LABEL: usize = 24;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        line(f, "pattern", &self.pattern)?;
        let shape = format!(
            "{}: {} layers, {} query heads, {} KV heads, D {}, weights {}",
            model.name,
            model.layers,
            model.heads,
            model.kv_heads,
            model.head_dim,
            bytes(model.weight_bytes)
        );
        line(f, "model", &shape)?;
        line(f, "length", &format!("{} tokens", grouped(self.length.into())))?;
        writeln!(f)?;
        self.by_kind(f)?;
        writeln!(f)?;
        self.totals(f)?;
        self.findings(f)
    }
}

impl Report {
    /// One column for each different mask.
    fn by_kind(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row(f, "one layer of each kind", |l| l.kind.clone())?;
        self.row(f, "  layers", |l| grouped(l.layers.len() as u128))?;
        self.row(f, "  from 0", |l| layer_list(&l.layers))?;
        self.row(f, "  visible pairs", |l| grouped(l.visible_pairs))?;
        self.row(f, "  share of dense", |l| percent(l.density()))?;
        self.row(f, "  kept keys per head", kept_keys)?;
        self.row(f, "  KV cache", |l| bytes(l.kv_bytes))?;
        let label = format!("  efficiency {}x{}", self.tile.queries, self.tile.keys);
        self.row(f, &label, |l| l.tile_efficiency().map_or("not counted".into(), percent))?;
        self.row(f, "  tiles", |l| if l.closed_form { "closed form".into() } else { "listed".into() })?;
        if self.layers.iter().any(|l| !l.coverage.is_empty()) {
            self.row(f, "  stride blocks reached", |l| {
                let reached = l.coverage.iter().map(|c| format!("{} of {}", c.reached, c.stride));
                let reached: Vec<String> = reached.collect();
                if reached.is_empty() { "-".into() } else { reached.join(", ") }
            })?;
        }
        Ok(())
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, label: &str, cell: impl Fn(&Layers) -> String) -> fmt::Result {
        let cells: Vec<String> = self.layers.iter().map(|l| format!("{:>24}", cell(l))).collect();
        writeln!(f, "{label:LABEL$}{}", cells.concat())
    }

    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(
            f,
            "visible pairs",
            &format!(
                "{} of {} ({})",
                grouped(self.visible_pairs),
                grouped(self.dense_pairs),
                percent(ratio(self.visible_pairs, self.dense_pairs))
            ),
        )?;
        let flops = format!(
            "{}FLOP forward, {}FLOP backward",
            scaled(self.flops_forward),
            scaled(self.flops_backward)
        );
        line(f, "attention", &flops)?;
        let saved = ratio(self.kv_bytes_kept, self.kv_bytes_dense) - 1.0;
        line(
            f,
            "KV cache",
            &format!(
                "{} kept of {} ({:+.1} %)",
                bytes(self.kv_bytes_kept),
                bytes(self.kv_bytes_dense),
                100.0 * saved
            ),
        )?;
        if let Some(efficiency) = self.tile_efficiency {
            let text = format!(
                "{} of the pairs in {}x{} tiles",
                percent(efficiency),
                self.tile.queries,
                self.tile.keys
            );
            line(f, "tile efficiency", &text)?;
        }
        let speedup = &self.ideal_speedup;
        let text = format!(
            "prefill {:.2}x, train {:.2}x, decode {:.2}x",
            speedup.prefill, speedup.train, speedup.decode
        );
        line(f, "ideal speed-up", &text)
    }

    fn findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = if self.monotone {
            "can be freed: a key that stops being seen is never seen again"
        } else {
            "cannot all be freed: a key may come back into view, or nothing is proven about it"
        };
        line(f, "KV slots", slots)?;
        let empty = match self.empty_rows {
            Some(false) => "none",
            Some(true) => "some: their output is 0 and their log-sum-exp is -inf",
            None => "not established at this length",
        };
        line(f, "rows without a key", empty)?;
        let narrow = self.layers.iter().flat_map(|l| &l.coverage).filter(|c| c.reached < c.stride);
        for c in narrow {
            let text = format!(
                "the heads of a layer reach {} of {} blocks of {} keys; a larger `step` may reach more",
                c.reached, c.stride, c.block
            );
            line(f, "coverage", &text)?;
        }
        for advice in &self.advice {
            line(f, "advice", advice)?;
        }
        for note in &self.notes {
            line(f, "note", note)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{label:LABEL$}{text}")
}

/// `10..=21`, `1, 3, ..., 31`, or the first few where there is no order in them.
fn layer_list(layers: &[u32]) -> String {
    let text = IndexSet::of(layers.iter().copied()).to_string();
    match layers {
        _ if text.len() <= 22 => text,
        [first, second, .., last] if layers.windows(2).all(|pair| pair[1] - pair[0] == second - first) => {
            format!("{first}, {second}, ..., {last}")
        }
        [first, second, third, ..] => format!("{first}, {second}, {third}, ..."),
        _ => text,
    }
}

/// One number where all heads agree, else the range.
fn kept_keys(layers: &Layers) -> String {
    let (least, most) = (layers.kept_keys.iter().min(), layers.kept_keys.iter().max());
    match (least, most) {
        (Some(&least), Some(&most)) if least == most => grouped(least.into()),
        (Some(&least), Some(&most)) => format!("{} to {}", grouped(least.into()), grouped(most.into())),
        _ => "-".into(),
    }
}
