//! Random masks, small enough that an oracle can look at every pair.

use longgen_codegen::pattern::{Clause, HeadRule, IndexSet, Mask, Pattern, Predicate};
use proptest::prelude::*;

/// One clause with small numbers, so that lengths of a hundred tokens cross all its edges.
pub fn clause() -> impl Strategy<Value = Clause> {
    let block = prop::sample::select(vec![1u32, 2, 4, 8, 16]);
    prop_oneof![
        (1u32..40).prop_map(|tokens| Clause::Sink { tokens }),
        (1u32..70).prop_map(|tokens| Clause::Window { tokens }),
        (1u32..7, block.clone(), 0u32..3, 0u32..5).prop_map(|(every, block, step, offset)| Clause::Stride {
            every,
            block,
            step,
            offset
        }),
        (1u32..5, block.clone()).prop_map(|(blocks, block)| Clause::WindowBlocks { blocks, block }),
        (1u32..5, block).prop_map(|(blocks, block)| Clause::SinkBlocks { blocks, block }),
        (1u32..20, any::<bool>()).prop_map(|(half, shifted)| Clause::Group { size: 2 * half, shifted }),
        Just(Clause::Full),
    ]
}

/// Set algebra over clauses, up to three levels deep.
pub fn mask() -> impl Strategy<Value = Mask> {
    clause().prop_map(Mask::Clause).prop_recursive(3, 6, 3, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Mask::Union),
            1 => prop::collection::vec(inner.clone(), 1..3).prop_map(Mask::Intersection),
            1 => (inner.clone(), inner).prop_map(|(a, b)| Mask::Difference(Box::new(a), Box::new(b))),
        ]
    })
}

/// A user predicate: masks without a closed form.
pub fn predicate() -> impl Strategy<Value = Mask> {
    let source = prop_oneof![
        (1u32..40).prop_map(|w| format!("q - k < {w} || k % 7 == head")),
        (1u32..9, 0u32..9).prop_map(|(m, r)| format!("(q + k * 3) % {m} == {r}")),
        (1u32..200).prop_map(|n| format!("q * k < {n} * max(q, 3)")),
        (1u32..20).prop_map(|b| format!(
            "{{ let d = q / {b} - k / {b}; if d % 2 == 0 {{ d < 4 }} else {{ k < 9 }} }}"
        )),
    ];
    source.prop_map(|text| text.parse::<Predicate>().map_or(Mask::full(), Mask::from))
}

/// A user predicate made of comparisons that the compiler reads as bounds and residues, or nearly so.
pub fn affine_predicate() -> impl Strategy<Value = Mask> {
    let condition = prop_oneof![
        (1u32..90).prop_map(|w| format!("(q - k).abs() < {w}")),
        (-9i32..60).prop_map(|b| format!("k - 3 < {b}")),
        (1u32..20, -3i32..5).prop_map(|(b, n)| format!("q / {b} - k / {b} <= {n}")),
        (1u32..20, 0u32..20).prop_map(|(b, s)| format!("k >= (q + {s}) / {b} * {b} - {s}")),
        (1u32..9, 0u32..9).prop_map(|(m, r)| format!("k % {m} == {r}")),
        (1u32..9, 1u32..9, 0u32..3, 0u32..20)
            .prop_map(|(b, m, s, c)| format!("(k / {b} + {s} * head + {c}) % {m} != 0")),
        (1u32..5, 1u32..5, 0u32..3, 0u32..9).prop_map(|(w, n, s, c)| format!(
            "(k + {} * head + {}) % {} < {w}",
            s * w,
            c * w,
            n * w
        )),
        (1u32..5, 1u32..5, 1u32..4).prop_map(|(a, b, m)| format!("k / {a} / {b} % {m} == 1")),
        (1u32..6, 0u32..40).prop_map(|(f, b)| format!("{f} * k >= {f} * q - {b} || 2 * (k % 3) == {b}")),
        (1u32..20, 0u32..20).prop_map(|(b, r)| format!("q - q % {b} == k - k % {b} && max(k + {r}, k) > 1")),
        (0u32..50).prop_map(|c| format!("(min(q, k) < {c}) == (k > {c})")),
    ];
    let source = condition.prop_recursive(3, 6, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("if {a} {{ {b} }} else {{ {c} }}")),
        ]
    });
    source.prop_map(|text| text.parse::<Predicate>().map_or_else(|error| panic!("{error}"), Mask::from))
}

/// A union of clauses, as most patterns are.
pub fn union() -> impl Strategy<Value = Mask> {
    prop::collection::vec(clause().prop_map(Mask::Clause), 1..4).prop_map(Mask::Union)
}

/// A pattern whose heads may differ.
pub fn pattern() -> impl Strategy<Value = Pattern> {
    let heads = prop_oneof![
        Just(IndexSet::range(0..=1)),
        Just(IndexSet::Every { every: 2, from: 1 }),
        Just(IndexSet::of([0, 2])),
    ];
    let rule = (heads, union()).prop_map(|(heads, mask)| HeadRule { heads, layers: IndexSet::All, mask });
    (
        prop_oneof![4 => union(), 4 => mask(), 1 => (union(), predicate()).prop_map(|(a, b)| a | b), 1 => predicate(),
            2 => affine_predicate()],
        prop::option::weighted(0.3, rule),
    ).prop_filter_map(
        "the builder accepts it",
        |(mask, rule)| {
            let builder = Pattern::builder(mask);
            let builder = match rule {
                Some(rule) => builder.rule(rule),
                None => builder,
            };
            builder.build().ok()
        },
    )
}
