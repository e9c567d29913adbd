//! Prints masks and patterns so that they parse back to the same.

use std::fmt::{self, Display, Write};

use crate::pattern::flat::{Flat, Value};
use crate::pattern::{IndexSet, Mask, Pattern};

/// The canonical text: a flat list where the mask is one, set algebra in parentheses elsewhere.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clause(clause) => Flat::of(clause).fmt(f),
            Self::Union(masks) => {
                let mut separator = "";
                for part in Flat::split(masks) {
                    f.write_str(separator)?;
                    match part {
                        Ok(list) => list.fmt(f)?,
                        Err(mask) => operand(mask, f)?,
                    }
                    separator = " | ";
                }
                Ok(())
            }
            Self::Intersection(masks) => {
                let mut separator = "";
                for mask in masks {
                    f.write_str(separator)?;
                    operand(mask, f)?;
                    separator = " & ";
                }
                Ok(())
            }
            Self::Difference(kept, removed) => {
                operand(kept, f)?;
                f.write_str(" - ")?;
                operand(removed, f)
            }
        }
    }
}

/// An operand stands bare when it is one clause without options, and in parentheses otherwise.
fn operand(mask: &Mask, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match mask {
        Mask::Clause(clause) if Flat::of(clause).entries().count() == 1 => mask.fmt(f),
        _ => write!(f, "({mask})"),
    }
}

impl fmt::Display for Flat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (key, value) in self.entries() {
            f.write_str(separator)?;
            match value {
                Value::Count(count) => write!(f, "{}={count}", key.name())?,
                Value::Flag => f.write_str(key.name())?,
                Value::Predicate(predicate) => write!(f, "{}({})", key.name(), predicate.source())?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// The canonical text: the mask, then one section for each thing that is not at its default.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mask().fmt(f)?;
        for rule in self.rules() {
            f.write_str("; heads ")?;
            bracketed(&rule.heads, f)?;
            if rule.layers != IndexSet::All {
                f.write_str(" in layers ")?;
                bracketed(&rule.layers, f)?;
            }
            write!(f, ": {}", rule.mask)?;
        }
        if let Some(count) = self.layers().count {
            write!(f, "; layers = {count}")?;
        }
        if !self.layers().full.is_empty() {
            f.write_str("; full_layers = ")?;
            bracketed(&self.layers().full, f)?;
        }
        if let Some(cap) = self.softmax().softcap {
            write!(f, "; softcap = {cap:?}")?;
        }
        if self.softmax().sink_logit {
            f.write_str("; sink_logit")?;
        }
        match self.name() {
            Some(name) => write!(f, "; name = \"{name}\""),
            None => Ok(()),
        }
    }
}

/// A set of indices; in brackets where it is several ranges.
fn bracketed(set: &IndexSet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match set {
        IndexSet::List(spans) if spans.len() > 1 => {
            f.write_char('[')?;
            set.fmt(f)?;
            f.write_char(']')
        }
        _ => set.fmt(f),
    }
}
