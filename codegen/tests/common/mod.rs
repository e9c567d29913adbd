//! Random patterns: every clause, nested set algebra, rules for heads, layer plans.

use longgen_codegen::pattern::{Clause, HeadRule, IndexSet, Mask, Pattern, Predicate, Span};
use proptest::prelude::*;

/// Powers of two, small and large.
fn block() -> impl Strategy<Value = u32> {
    (0..=12u32).prop_map(|exponent| 1 << exponent)
}

/// Small numbers mostly, the extremes sometimes.
fn tokens() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1..300u32, 1 => Just(1 << 30), 1 => 1..=(1u32 << 30)]
}

pub fn clause() -> impl Strategy<Value = Clause> {
    let blocks = || (1..=1u32 << 18, block());
    prop_oneof![
        tokens().prop_map(|tokens| Clause::Sink { tokens }),
        blocks().prop_map(|(blocks, block)| Clause::SinkBlocks { blocks, block }),
        tokens().prop_map(|tokens| Clause::Window { tokens }),
        blocks().prop_map(|(blocks, block)| Clause::WindowBlocks { blocks, block }),
        (1..=1u32 << 18, block(), 0..9u32, 0..9u32).prop_map(|(every, block, step, offset)| Clause::Stride {
            every,
            block,
            step,
            offset
        }),
        (1..=1u32 << 29, any::<bool>()).prop_map(|(half, shifted)| Clause::Group { size: 2 * half, shifted }),
        Just(Clause::Full),
        condition(3).prop_map(|text| Clause::Where(Predicate::parse(&text).expect("a legal predicate"))),
    ]
}

pub fn mask() -> impl Strategy<Value = Mask> {
    clause().prop_map(Mask::Clause).prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Mask::Union),
            1 => prop::collection::vec(inner.clone(), 1..4).prop_map(Mask::Intersection),
            1 => (inner.clone(), inner).prop_map(|(kept, removed)| kept - removed),
        ]
    })
}

pub fn index_set(most: u32) -> impl Strategy<Value = IndexSet> {
    let span = (0..most, 0..most).prop_map(|(a, b)| Span { first: a.min(b), last: a.max(b) });
    prop_oneof![
        2 => Just(IndexSet::All),
        4 => prop::collection::vec(span, 0..4).prop_map(IndexSet::List),
        1 => (1..9u32, 0..most).prop_map(|(every, from)| IndexSet::Every { every, from }),
    ]
}

pub fn pattern() -> impl Strategy<Value = Pattern> {
    let rule = (index_set(1024), index_set(24), mask()).prop_map(|(heads, layers, mask)| HeadRule {
        heads,
        layers,
        mask,
    });
    let plan = (prop::option::of(24..=1024u32), index_set(24));
    let cap = prop::option::of(0.001f32..=1e6);
    let name = prop::option::of("[a-zA-Z0-9._ -]{1,64}");
    (mask(), prop::collection::vec(rule, 0..4), plan, cap, any::<bool>(), name).prop_map(
        |(mask, rules, (count, full), cap, sink_logit, name)| {
            let mut builder = Pattern::builder(mask).full_layers(full);
            for rule in rules {
                builder = builder.rule(rule);
            }
            if let Some(count) = count {
                builder = builder.layers(count);
            }
            if let Some(cap) = cap {
                builder = builder.softcap(cap);
            }
            if sink_logit {
                builder = builder.sink_logit();
            }
            if let Some(name) = name {
                builder = builder.name(name);
            }
            builder.build().expect("within the rules")
        },
    )
}

/// The text of a number.
pub fn number(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("q".to_string()),
        Just("k".to_string()),
        Just("head".to_string()),
        (-9..100i64).prop_map(|value| value.to_string()),
        any::<i64>()
            .prop_filter("no literal for the smallest", |x| *x != i64::MIN)
            .prop_map(|x| format!("({x})")),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let (of, of2) = (number(depth - 1), number(depth - 1));
    let operator = prop::sample::select(vec!["+", "-", "*"]);
    let by = prop::sample::select(vec!["/ 7", "% 7", "/ (2 * 8)", "% 64_i64"]);
    prop_oneof![
        2 => leaf,
        2 => (of.clone(), operator, of2.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
        1 => (of.clone(), by).prop_map(|(a, by)| format!("({a}) {by}")),
        1 => (of.clone(), of2.clone()).prop_map(|(a, b)| format!("({a}).min({b})")),
        1 => (of.clone(), of2.clone()).prop_map(|(a, b)| format!("std::cmp::max({a}, {b})")),
        1 => of.clone().prop_map(|a| format!("-({a})")),
        1 => of.clone().prop_map(|a| format!("({a}).abs()")),
        1 => (condition(depth - 1), of.clone(), of2.clone())
            .prop_map(|(c, a, b)| format!("if {c} {{ {a} }} else {{ {b} }}")),
        1 => (of, of2).prop_map(|(a, b)| format!("{{ let k = {a}; let x: i64 = k + 1; x * ({b}) - k }}")),
    ]
    .boxed()
}

/// The text of a condition.
pub fn condition(depth: u32) -> BoxedStrategy<String> {
    let comparison = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!="]);
    let leaf = (number(depth.min(1)), comparison, number(depth.min(1)))
        .prop_map(|(a, op, b)| format!("({a}) {op} ({b})"));
    if depth == 0 {
        return prop_oneof![3 => leaf, 1 => any::<bool>().prop_map(|value| value.to_string())].boxed();
    }
    let (of, of2) = (condition(depth - 1), condition(depth - 1));
    let logic = prop::sample::select(vec!["&&", "||", "==", "!="]);
    prop_oneof![
        2 => leaf,
        2 => (of.clone(), logic, of2.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
        1 => of.clone().prop_map(|a| format!("!({a})")),
        1 => (of.clone(), of2.clone(), condition(depth - 1))
            .prop_map(|(c, a, b)| format!("if {c} {{ {a} }} else {{ {b} }}")),
        1 => (number(depth - 1), of, of2).prop_map(|(n, a, b)| format!("{{ let y = {n}; let c = {a}; c || y < 3 && ({b}) }}")),
    ]
    .boxed()
}
