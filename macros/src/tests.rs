//! Holds the attribute's checks to the compiler: the same keys, and what the attribute accepts the compiler lowers.

use longgen_codegen::pattern::{DEFAULT_BLOCK, Pattern, Predicate, rules};
use proptest::prelude::*;
use syn::parse::{ParseStream, Parser};

use crate::out::Out;
use crate::{args, names, predicate};

/// Errors of the attribute's text, and the rules it would have the compiler check.
fn check_args(text: &str) -> Result<Out, String> {
    let mut out = Out::default();
    let parsed = (|input: ParseStream<'_>| args::args(input, &mut out)).parse_str(text);
    parsed.map_err(|error| error.to_string())?;
    Ok(out)
}

fn check_condition(text: &str) -> Vec<String> {
    let mut out = Out::default();
    match (|input: ParseStream<'_>| predicate::check_condition(input, &mut out)).parse_str(text) {
        Ok(()) => out.messages(),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn keys_are_the_compilers() {
    assert_eq!(names::KEYS.map(|key| key.name), Pattern::KEYS);
    assert_eq!(names::DEFAULT_BLOCK, u64::from(DEFAULT_BLOCK));
    for key in names::KEYS {
        assert_eq!(key.owners.is_empty(), !["block", "step", "offset", "shifted"].contains(&key.name));
    }
}

/// Words to make conditions of, legal and not.
const WORDS: [&str; 44] = [
    "q",
    "k",
    "head",
    "x",
    "0",
    "1",
    "7",
    "64",
    "1_000",
    "2i64",
    "-",
    "+",
    "*",
    "/",
    "%",
    "<",
    "<=",
    "==",
    "!=",
    "&&",
    "||",
    "!",
    "(",
    ")",
    "{",
    "}",
    "if",
    "else",
    "let x = 3;",
    "let x: bool = true;",
    "true",
    "false",
    ".min(3)",
    ".abs()",
    "min(q, k)",
    "std::cmp::max(1, k)",
    "/ 8",
    "% (2 * 3)",
    "&",
    "as i64",
    "5.0",
    ".pow(2)",
    "max(1)",
    "return",
];

/// A legal condition with a few words replaced, added or removed.
fn mutated() -> impl Strategy<Value = String> {
    let legal = prop::sample::select(vec![
        "q - k < 8",
        "let x = q - k ; x < 8 && x % 2 == 0 || k < 4",
        "if head == 0 { true } else { q / 64 == k / 64 }",
        "let x = { let y = q ; y + 1 } ; ! ( x . min ( k ) < 3 )",
        "min ( q , k ) . abs ( ) < - 7 * head",
        "( q < k ) == ( k < 3 )",
        "let b = 2 * 8 ; k / b % ( b - 3 ) == head % 4",
    ]);
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), prop::sample::select(WORDS.to_vec()), 0..3u8),
        0..4,
    );
    (legal, edits).prop_map(|(legal, edits)| {
        let mut words: Vec<&str> = legal.split(' ').collect();
        for (at, word, edit) in edits {
            let at = at.index(words.len());
            match edit {
                0 => words[at] = word,
                1 => words.insert(at, word),
                _ if words.len() > 1 => drop(words.remove(at)),
                _ => {}
            }
        }
        words.join(" ")
    })
}

/// Texts of patterns, legal and not.
fn attribute() -> impl Strategy<Value = String> {
    let number = prop::sample::select(vec!["0", "1", "4", "7", "64", "48", "5000", "1048576", "2000000000"]);
    let key = prop::sample::select(Pattern::KEYS.to_vec());
    let item = (key, number).prop_map(|(key, number)| match key {
        "full" | "shifted" => key.to_string(),
        "where" => format!("where(q - k < {number})"),
        _ => format!("{key} = {number}"),
    });
    let list = prop::collection::vec(item, 1..4).prop_map(|items| items.join(", "));
    let mask = list.prop_recursive(6, 24, 3, |inner| {
        let operators = prop::sample::select(vec![" | ", " & ", " - "]);
        (prop::collection::vec(inner, 1..4), operators, 0..4u8).prop_map(
            |(members, operator, parentheses)| {
                let wrap =
                    |member: &String| if parentheses == 0 { member.clone() } else { format!("({member})") };
                members.iter().map(wrap).collect::<Vec<_>>().join(operator)
            },
        )
    });
    let sections = prop::sample::subsequence(
        vec![
            "; heads [0, 4..=7]: full",
            "; heads all in layers every 2 from 1: sink = 4",
            "; heads 3..=1: full",
            "; layers = 12",
            "; full_layers = 10..=11",
            "; full_layers = [1, 12]",
            "; softcap = 50.0",
            "; softcap = 0",
            "; sink_logit",
            "; name = \"a b\"",
            "; nonsense",
        ],
        0..4,
    );
    (mask, sections).prop_map(|(mask, sections)| mask + &sections.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn conditions_are_judged_alike(text in mutated()) {
        let (errors, lowered) = (check_condition(&text), Predicate::parse(&text));
        prop_assert_eq!(errors.is_empty(), lowered.is_ok(), "{}\n{:?}\n{:?}", text, errors, lowered);
    }

    #[test]
    fn attributes_are_judged_alike(text in attribute()) {
        let errors = check_args(&text).map_or_else(|error| vec![error], |out| {
            let mut messages = out.messages();
            messages.extend(out.broken_rules());
            messages
        });
        let parsed = text.parse::<Pattern>();
        prop_assert_eq!(errors.is_empty(), parsed.is_ok(), "{}\n{:?}\n{:?}", text, errors, parsed);
    }
}

impl Out {
    /// Runs the assertions here, where the expansion would run them in the user's crate.
    fn broken_rules(&self) -> Vec<String> {
        self.rules()
            .iter()
            .filter_map(|(rule, args)| holds(rule, args).err().map(|e| format!("{rule}: {e}")))
            .collect()
    }
}

fn holds(rule: &str, args: &str) -> rules::Checked {
    let numbers: Vec<u64> =
        args.split(',').filter_map(|arg| arg.trim().trim_end_matches("u64").parse().ok()).collect();
    match (rule, numbers.as_slice()) {
        ("sink", [n]) => rules::sink(*n),
        ("sink_blocks", [n]) => rules::sink_blocks(*n),
        ("window", [n]) => rules::window(*n),
        ("window_blocks", [n]) => rules::window_blocks(*n),
        ("stride", [n]) => rules::stride(*n),
        ("block", [n]) => rules::block(*n),
        ("step", [n]) => rules::step(*n),
        ("offset", [n]) => rules::offset(*n),
        ("group", [n]) => rules::group(*n),
        ("span", [blocks, block]) => rules::span(*blocks, *block),
        ("range", [first, last]) => rules::range(*first, *last),
        ("head", [n]) => rules::head(*n),
        ("layer", [n]) => rules::layer(*n),
        ("every", [n]) => rules::every(*n),
        ("layer_count", [n]) => rules::layer_count(*n),
        ("layer_in_plan", [n, count]) => rules::layer_in_plan(*n, *count),
        ("clauses", [n]) => rules::clauses(*n),
        ("depth", [n]) => rules::depth(*n),
        ("rules", [n]) => rules::rules(*n),
        ("softcap", []) => rules::softcap(args.trim_end_matches("f32").trim().parse().unwrap_or(f32::NAN)),
        ("name", []) => rules::name(args.trim_matches('"')),
        other => panic!("no rule {other:?}"),
    }
}
