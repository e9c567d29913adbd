//! The words of the pattern language, and the closest one to a slip of the fingers. A test holds them to the compiler.

/// A key of a mask: its name, what it takes, and the clauses it is an option of.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) owners: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Count,
    Flag,
    Predicate,
}

const BLOCKED: &[&str] = &["stride", "sink_blocks", "window_blocks"];

pub(crate) const KEYS: [Key; 12] = [
    Key { name: "sink", takes: Takes::Count, owners: &[] },
    Key { name: "sink_blocks", takes: Takes::Count, owners: &[] },
    Key { name: "window", takes: Takes::Count, owners: &[] },
    Key { name: "window_blocks", takes: Takes::Count, owners: &[] },
    Key { name: "stride", takes: Takes::Count, owners: &[] },
    Key { name: "block", takes: Takes::Count, owners: BLOCKED },
    Key { name: "step", takes: Takes::Count, owners: &["stride"] },
    Key { name: "offset", takes: Takes::Count, owners: &["stride"] },
    Key { name: "group", takes: Takes::Count, owners: &[] },
    Key { name: "shifted", takes: Takes::Flag, owners: &["group"] },
    Key { name: "full", takes: Takes::Flag, owners: &[] },
    Key { name: "where", takes: Takes::Predicate, owners: &[] },
];

/// The sections after `;`.
pub(crate) const SECTIONS: [&str; 6] = ["heads", "layers", "full_layers", "softcap", "sink_logit", "name"];

/// `block` when it is not given, in tokens.
pub(crate) const DEFAULT_BLOCK: u64 = 64;

/// "unknown key" with the closest allowed word and all allowed words.
pub(crate) fn unknown(word: &str, allowed: &[&str]) -> String {
    let close = |candidate: &&&str| distance(word, candidate) <= 1 + candidate.len() / 4;
    let nearest = allowed.iter().filter(close).min_by_key(|candidate| distance(word, candidate));
    let hint = nearest.map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default();
    format!("unknown key `{word}`{hint}; allowed here: {}", allowed.join(", "))
}

/// Levenshtein distance, case and the difference between `-` and `_` aside.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, x) in a.chars().map(fold).enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
