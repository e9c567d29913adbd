//! A flat list of keys, as in `sink=4, window=4096, block=16`: the piece that the text form, a TOML table, the
//! attribute and the presets have in common. Knows which options belong to which clauses, and their defaults.

use std::collections::BTreeMap;

use super::{Clause, DEFAULT_BLOCK, Mask, Pattern, Predicate, Problem, rules};

/// The keys of a flat list, in canonical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Sink,
    SinkBlocks,
    Window,
    WindowBlocks,
    Stride,
    Block,
    Step,
    Offset,
    Group,
    Shifted,
    Full,
    Where,
}

impl Pattern {
    /// The keys that a mask is made of, in canonical order; the same in every way in.
    pub const KEYS: [&'static str; Key::ALL.len()] = {
        let mut names = [""; Key::ALL.len()];
        let mut n = 0;
        while n < names.len() {
            names[n] = Key::ALL[n].name();
            n += 1;
        }
        names
    };
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Count,
    Flag,
    Predicate,
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Count(u32),
    Flag,
    Predicate(Predicate),
}

impl Key {
    pub(super) const ALL: [Self; 12] = [
        Self::Sink,
        Self::SinkBlocks,
        Self::Window,
        Self::WindowBlocks,
        Self::Stride,
        Self::Block,
        Self::Step,
        Self::Offset,
        Self::Group,
        Self::Shifted,
        Self::Full,
        Self::Where,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::SinkBlocks => "sink_blocks",
            Self::Window => "window",
            Self::WindowBlocks => "window_blocks",
            Self::Stride => "stride",
            Self::Block => "block",
            Self::Step => "step",
            Self::Offset => "offset",
            Self::Group => "group",
            Self::Shifted => "shifted",
            Self::Full => "full",
            Self::Where => "where",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    pub(super) const fn takes(self) -> Takes {
        match self {
            Self::Full | Self::Shifted => Takes::Flag,
            Self::Where => Takes::Predicate,
            _ => Takes::Count,
        }
    }

    /// Whether the key makes a clause; else it is an option of clauses.
    pub(super) const fn is_clause(self) -> bool {
        !matches!(self, Self::Block | Self::Step | Self::Offset | Self::Shifted)
    }

    pub(super) fn rule(self, value: u64) -> rules::Checked {
        match self {
            Self::Sink => rules::sink(value),
            Self::SinkBlocks => rules::sink_blocks(value),
            Self::Window => rules::window(value),
            Self::WindowBlocks => rules::window_blocks(value),
            Self::Stride => rules::stride(value),
            Self::Block => rules::block(value),
            Self::Step => rules::step(value),
            Self::Offset => rules::offset(value),
            Self::Group => rules::group(value),
            Self::Shifted | Self::Full | Self::Where => Ok(()),
        }
    }

    /// The value as its field's type, if the key's rule allows it; `shown` is the value as it was written.
    pub(super) fn check(self, value: u64, shown: &str) -> Result<u32, Problem> {
        self.rule(value).map_err(|allowed| Problem::value(self.name(), shown, allowed))?;
        u32::try_from(value).map_err(|_| Problem::value(self.name(), shown, "must fit 32 bits"))
    }
}

/// A flat list: each key at most once.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Flat(BTreeMap<Key, Value>);

impl Flat {
    /// Adds a key; a key that is already there is replaced and its old value returned.
    pub(super) fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        self.0.insert(key, value)
    }

    /// Lays `other` over this list: its keys win.
    pub(super) fn overlay(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keys and values in canonical order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Key, &Value)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    fn count(&self, key: Key) -> Option<u32> {
        match self.0.get(&key) {
            Some(Value::Count(count)) => Some(*count),
            _ => None,
        }
    }

    /// The clauses of the list.
    ///
    /// # Errors
    /// An option without its clause, or blocks that span too much: the problem and the key at fault.
    pub(super) fn clauses(&self) -> Result<Vec<Clause>, (Key, Problem)> {
        let block = self.count(Key::Block).unwrap_or(DEFAULT_BLOCK);
        let (step, offset) = (self.count(Key::Step).unwrap_or(1), self.count(Key::Offset).unwrap_or(0));
        let shifted = self.0.contains_key(&Key::Shifted);
        self.check_options(block)?;
        let clause = |(key, value): (&Key, &Value)| {
            Some(match (key, value) {
                (Key::Sink, &Value::Count(tokens)) => Clause::Sink { tokens },
                (Key::SinkBlocks, &Value::Count(blocks)) => Clause::SinkBlocks { blocks, block },
                (Key::Window, &Value::Count(tokens)) => Clause::Window { tokens },
                (Key::WindowBlocks, &Value::Count(blocks)) => Clause::WindowBlocks { blocks, block },
                (Key::Stride, &Value::Count(every)) => Clause::Stride { every, block, step, offset },
                (Key::Group, &Value::Count(size)) => Clause::Group { size, shifted },
                (Key::Full, _) => Clause::Full,
                (Key::Where, Value::Predicate(predicate)) => Clause::Where(predicate.clone()),
                _ => return None,
            })
        };
        Ok(self.0.iter().filter_map(clause).collect())
    }

    fn check_options(&self, block: u32) -> Result<(), (Key, Problem)> {
        let blocked = [Key::SinkBlocks, Key::WindowBlocks, Key::Stride];
        let owners: [(Key, &[Key], &'static str); 4] = [
            (Key::Block, &blocked, "`stride`, `sink_blocks` and `window_blocks`"),
            (Key::Step, &[Key::Stride], "`stride`"),
            (Key::Offset, &[Key::Stride], "`stride`"),
            (Key::Shifted, &[Key::Group], "`group`"),
        ];
        for (option, clauses, owner) in owners {
            if self.0.contains_key(&option) && !clauses.iter().any(|clause| self.0.contains_key(clause)) {
                return Err((option, Problem::Option { option: option.name(), owner }));
            }
        }
        for key in blocked {
            if let Some(blocks) = self.count(key)
                && let Err(allowed) = rules::span(u64::from(blocks), u64::from(block))
            {
                return Err((key, Problem::value(key.name(), blocks, allowed)));
            }
        }
        Ok(())
    }

    /// The list that makes this one clause, defaults left out.
    pub(super) fn of(clause: &Clause) -> Self {
        let mut flat = Self::default();
        let mut count = |key: Key, value: u32, default: Option<u32>| {
            if default != Some(value) {
                flat.insert(key, Value::Count(value));
            }
        };
        match *clause {
            Clause::Sink { tokens } => count(Key::Sink, tokens, None),
            Clause::Window { tokens } => count(Key::Window, tokens, None),
            Clause::SinkBlocks { blocks, block } => {
                count(Key::SinkBlocks, blocks, None);
                count(Key::Block, block, Some(DEFAULT_BLOCK));
            }
            Clause::WindowBlocks { blocks, block } => {
                count(Key::WindowBlocks, blocks, None);
                count(Key::Block, block, Some(DEFAULT_BLOCK));
            }
            Clause::Stride { every, block, step, offset } => {
                count(Key::Stride, every, None);
                count(Key::Block, block, Some(DEFAULT_BLOCK));
                count(Key::Step, step, Some(1));
                count(Key::Offset, offset, Some(0));
            }
            Clause::Group { size, shifted } => {
                count(Key::Group, size, None);
                if shifted {
                    flat.insert(Key::Shifted, Value::Flag);
                }
            }
            Clause::Full => drop(flat.insert(Key::Full, Value::Flag)),
            Clause::Where(ref predicate) => {
                flat.insert(Key::Where, Value::Predicate(predicate.clone()));
            }
        }
        flat
    }

    /// The fewest lists whose union is the union of `masks`, and the members that are no clauses.
    /// Keeps the order; a clause joins the list before it where its options agree.
    pub(super) fn split(masks: &[Mask]) -> Vec<Result<Self, &Mask>> {
        let mut parts: Vec<Result<Self, &Mask>> = Vec::new();
        for mask in masks {
            let Mask::Clause(clause) = mask else {
                parts.push(Err(mask));
                continue;
            };
            let joined = match parts.last_mut() {
                Some(Ok(list)) => list.join(clause),
                _ => false,
            };
            if !joined {
                parts.push(Ok(Self::of(clause)));
            }
        }
        parts
    }

    /// Adds a clause if that leaves the meaning of the clauses already there as it is.
    fn join(&mut self, clause: &Clause) -> bool {
        let Ok(mut clauses) = self.clauses() else { return false };
        let mut joined = self.clone();
        let added = Self::of(clause);
        if added.entries().any(|(key, _)| key.is_clause() && self.0.contains_key(&key)) {
            return false;
        }
        joined.overlay(added);
        clauses.push(clause.clone());
        clauses.sort();
        let same = joined.clauses().is_ok_and(|mut meant| {
            meant.sort();
            meant == clauses
        });
        if same {
            *self = joined;
        }
        same
    }
}
