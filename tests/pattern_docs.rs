//! Keeps `docs/patterns.md` true: its pictures are drawn by the code, its examples are read by it, its tables name
//! every key and preset. `LGC_BLESS=1 cargo test --test pattern_docs` redraws the pictures.

use std::fmt::Write;
use std::path::PathBuf;

use longgen::pattern::{PRESETS, Pattern};

/// Queries and keys in a picture.
const SIDE: u32 = 16;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/patterns.md")
}

fn page() -> String {
    std::fs::read_to_string(path()).expect("docs/patterns.md")
}

/// The mask of KV heads 0 and on, side by side: a row per query, `#` for a key it sees, `.` for one it does not.
fn picture(pattern: &Pattern, heads: u32) -> String {
    let mut lines = vec![(0..heads).map(|g| format!("{:<33}", format!("KV head {g}"))).collect::<String>()];
    for i in 0..SIDE {
        let row = |g| {
            (0..=i).map(move |j| if pattern.sees(None, g, i, j) { "# " } else { ". " }).collect::<String>()
        };
        lines.push((0..heads).map(|g| format!("{:<33}", row(g))).collect());
    }
    lines.iter().fold(String::new(), |mut text, line| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

/// The page with every block after `<!-- picture HEADS: TEXT -->` drawn anew.
fn redrawn(page: &str) -> String {
    let mut parts = page.split("<!-- picture ");
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (head, rest) = part.split_once(" -->\n```text\n").expect("a picture's block");
        let (_, rest) = rest.split_once("```").expect("the end of the block");
        let (heads, text) = head.split_once(": ").expect("heads and text");
        let pattern: Pattern = text.parse().unwrap_or_else(|error| panic!("{error}"));
        let drawn = picture(&pattern, heads.parse().expect("a number of heads"));
        result += &format!("<!-- picture {head} -->\n```text\n{drawn}```{rest}");
    }
    result
}

#[test]
fn pictures_are_drawn_by_the_code() {
    let page = page();
    let drawn = redrawn(&page);
    if std::env::var_os("LGC_BLESS").is_some() {
        std::fs::write(path(), &drawn).expect("docs/patterns.md is writable");
        return;
    }
    assert!(page.matches("<!-- picture ").count() >= 8);
    assert!(page == drawn, "docs/patterns.md holds an old picture; LGC_BLESS=1 redraws them");
}

/// The blocks of the page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block.to_string()))
        .collect()
}

#[test]
fn examples_are_legal() {
    let page = page();
    let toml = blocks(&page, "toml");
    assert!(toml.len() >= 3);
    for text in toml {
        Pattern::from_toml_str("docs/patterns.md", &text).unwrap_or_else(|error| panic!("{error}"));
    }
    for line in blocks(&page, "pattern").iter().flat_map(|block| block.lines()) {
        line.parse::<Pattern>().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn every_word_is_there() {
    let page = page();
    for word in Pattern::KEYS.iter().chain(&PRESETS) {
        assert!(page.contains(&format!("`{word}")), "docs/patterns.md does not tell of `{word}`");
    }
}
