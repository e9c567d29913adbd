//! The sections of a pattern's text: the mask, then `;` and heads, layers, softmax, name.

use std::ops::Range;

use super::lex::Kind;
use super::parse::Parser;
use crate::pattern::check::Part;
use crate::pattern::error::Fault;
use crate::pattern::{HeadRule, IndexSet, Pattern, Problem, presets, rules};

const SECTIONS: [&str; 6] = ["heads", "layers", "full_layers", "softcap", "sink_logit", "name"];

/// A whole pattern.
pub(super) fn pattern(text: &str) -> Result<Pattern, Fault> {
    let mut parser = Parser::new(text)?;
    if parser.peek().kind == Kind::End {
        let how = "for example `sink=4, window=4096`";
        return Err(Fault::new(Problem::Missing { what: "the pattern", how }, 0..text.len()));
    }
    let mut sections = Sections::start(&mut parser)?;
    while parser.take(";") {
        if parser.peek().kind == Kind::End {
            break;
        }
        sections.read(&mut parser)?;
    }
    parser.end("`,`, `|`, `&`, `-`, `;` or the end")?;
    let Sections { pattern, places, mask, .. } = sections;
    let place = |part: Part| places.iter().find(|(other, _)| *other == part).map(|(_, bytes)| bytes.clone());
    pattern.checked().map_err(|(part, problem)| Fault::new(problem, place(part).unwrap_or(mask)))
}

/// A pattern under construction, and where its parts stand.
struct Sections {
    pattern: Pattern,
    places: Vec<(Part, Range<usize>)>,
    mask: Range<usize>,
    seen: Vec<&'static str>,
    rules: usize,
}

impl Sections {
    /// Reads the first section: a mask, or a preset and the keys that replace its own.
    fn start(parser: &mut Parser<'_>) -> Result<Self, Fault> {
        let start = parser.peek().bytes.clone();
        let mut pattern;
        if parser.take("preset") {
            parser.expect("=")?;
            let (name, bytes) = quoted(parser, "preset")?;
            pattern = presets::preset(name).map_err(|problem| Fault::new(problem, bytes))?;
            if parser.take(",") {
                pattern.mask = parser.list(presets::flat(&pattern))?;
            }
        } else {
            pattern = Pattern::unchecked(parser.mask()?);
        }
        let mask = start.start..parser.peek().bytes.start.max(start.end);
        Ok(Self { pattern, places: Vec::new(), mask, seen: Vec::new(), rules: 0 })
    }

    fn read(&mut self, parser: &mut Parser<'_>) -> Result<(), Fault> {
        let name = parser.next();
        let Some(section) =
            SECTIONS.into_iter().find(|section| name.kind == Kind::Word && *section == name.text)
        else {
            return Err(Fault::new(Problem::unknown_key(name.text, &SECTIONS), name.bytes));
        };
        if section == "heads" {
            return self.head_rule(parser, name.bytes);
        }
        if self.seen.contains(&section) {
            return Err(Fault::new(Problem::Duplicate { key: section.to_string() }, name.bytes));
        }
        self.seen.push(section);
        if section == "sink_logit" {
            self.pattern.softmax.sink_logit = true;
            return parser.flag();
        }
        parser.expect("=")?;
        let bytes = parser.peek().bytes.clone();
        let part = match section {
            "layers" => {
                let (count, bytes) = parser.integer(section)?;
                rules::layer_count(count)
                    .map_err(|allowed| Fault::new(Problem::value(section, count, allowed), bytes))?;
                self.pattern.layers.count = u32::try_from(count).ok();
                Part::LayerCount
            }
            "full_layers" => {
                self.pattern.layers.full = parser.index_set()?;
                Part::FullLayers
            }
            "softcap" => {
                self.pattern.softmax.softcap = Some(softcap(parser)?);
                Part::Softcap
            }
            _ => {
                self.pattern.name = Some(quoted(parser, section)?.0.to_string());
                Part::Name
            }
        };
        self.places.push((part, bytes));
        Ok(())
    }

    /// `heads SET: MASK` or `heads SET in layers SET: MASK`. The first one drops a preset's own rules.
    fn head_rule(&mut self, parser: &mut Parser<'_>, bytes: Range<usize>) -> Result<(), Fault> {
        let n = self.rules;
        rules::rules(n as u64 + 1)
            .map_err(|allowed| Fault::new(Problem::value("rules", n + 1, allowed), bytes.clone()))?;
        if n == 0 {
            self.pattern.rules.clear();
        }
        self.places.push((Part::RuleHeads(n), parser.peek().bytes.clone()));
        let heads = parser.index_set()?;
        let mut layers = IndexSet::All;
        if parser.take("in") {
            parser.expect("layers")?;
            self.places.push((Part::RuleLayers(n), parser.peek().bytes.clone()));
            layers = parser.index_set()?;
        }
        parser.expect(":")?;
        self.places.push((Part::RuleMask(n), parser.peek().bytes.clone()));
        let mask = parser.mask()?;
        self.places.push((Part::Rules, bytes));
        self.pattern.rules.push(HeadRule { heads, layers, mask });
        self.rules += 1;
        Ok(())
    }
}

fn quoted<'a>(parser: &mut Parser<'a>, key: &str) -> Result<(&'a str, Range<usize>), Fault> {
    let token = parser.next();
    match token.kind {
        Kind::Quoted => Ok((&token.text[1..token.text.len() - 1], token.bytes)),
        _ => {
            let expected = "a text in double quotes";
            Err(Fault::new(
                Problem::Kind { key: key.to_string(), expected, found: token.named() },
                token.bytes,
            ))
        }
    }
}

fn softcap(parser: &mut Parser<'_>) -> Result<f32, Fault> {
    let token = parser.next();
    match token.text.parse() {
        Ok(cap) if token.kind == Kind::Number => Ok(cap),
        _ => {
            let key = "softcap".to_string();
            Err(Fault::new(Problem::Kind { key, expected: "a number", found: token.named() }, token.bytes))
        }
    }
}
