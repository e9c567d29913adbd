//! Checks what stands around the mask: presets, rules for heads, the layer plan, the softmax.

use proc_macro2::Span;
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Result};
use syn::{Error, Ident, Lit, LitStr, Token, bracketed};

use crate::args::{at_mark, eat_mark, flag, integer, mask, skip};
use crate::names::{SECTIONS, unknown};
use crate::out::Out;

/// `preset = "name"`. What a preset allows beside it is not known here, so little is.
pub(crate) fn preset(input: ParseStream<'_>, out: &mut Out) -> Result<()> {
    input.call(Ident::parse_any)?;
    input.parse::<Token![=]>()?;
    let name = text(input)?;
    out.rule(name.span(), "preset", &name);
    if at_mark(input, ',') {
        out.push(input.error("in the attribute a preset stands alone: write its clauses out to change one"));
        skip(input, |input| at_mark(input, ';'));
    }
    Ok(())
}

/// `; section; section ...` up to the end.
pub(crate) fn sections(input: ParseStream<'_>, out: &mut Out, preset: bool) -> Result<()> {
    let mut layers = Layers::default();
    let mut seen: Vec<String> = Vec::new();
    let mut rules = 0_u64;
    loop {
        if !input.is_empty() && !at_mark(input, ';') {
            out.push(input.error("expected `,`, `|`, `&`, `-`, `;` or the end"));
            skip(input, |input| at_mark(input, ';'));
        }
        eat_mark(input, ';');
        if input.is_empty() {
            break;
        }
        let name = input.call(Ident::parse_any)?;
        let word = name.to_string();
        if word == "heads" {
            rules += 1;
        } else if seen.contains(&word) {
            out.error(name.span(), format!("`{word}` is given twice"));
        }
        if preset && ["heads", "layers", "full_layers"].contains(&word.as_str()) {
            out.error(name.span(), "in the attribute a preset keeps its own heads and layers");
        }
        if let Err(error) = section(&name, input, out, &mut layers) {
            out.push(error);
            skip(input, |input| at_mark(input, ';'));
        }
        seen.push(word);
    }
    out.rule(Span::call_site(), "rules", rules);
    layers.check(out);
    Ok(())
}

/// The layers named, to be held to the number of layers once that is known.
#[derive(Default)]
struct Layers {
    count: Option<u64>,
    named: Vec<(u64, Span)>,
}

impl Layers {
    fn check(&self, out: &mut Out) {
        let Some(count) = self.count else { return };
        for (last, span) in &self.named {
            out.rule(*span, "layer_in_plan", quote!(#last, #count));
        }
    }
}

fn section(name: &Ident, input: ParseStream<'_>, out: &mut Out, layers: &mut Layers) -> Result<()> {
    match name.to_string().as_str() {
        "heads" => head_rule(input, out, layers),
        "sink_logit" => flag(input),
        "layers" => {
            input.parse::<Token![=]>()?;
            let (count, span) = integer(input)?;
            out.rule(span, "layer_count", count);
            layers.count = Some(count);
            Ok(())
        }
        "full_layers" => {
            input.parse::<Token![=]>()?;
            indices(input, out, "layer", &mut layers.named)
        }
        "softcap" => {
            input.parse::<Token![=]>()?;
            softcap(input, out)
        }
        "name" => {
            input.parse::<Token![=]>()?;
            let name = text(input)?;
            out.rule(name.span(), "name", &name);
            Ok(())
        }
        word => {
            skip(input, |input| at_mark(input, ';'));
            Err(Error::new(name.span(), unknown(word, &SECTIONS)))
        }
    }
}

/// `heads SET: MASK` or `heads SET in layers SET: MASK`.
fn head_rule(input: ParseStream<'_>, out: &mut Out, layers: &mut Layers) -> Result<()> {
    indices(input, out, "head", &mut Vec::new())?;
    if input.peek(Token![in]) {
        input.parse::<Token![in]>()?;
        word(input, "layers")?;
        indices(input, out, "layer", &mut layers.named)?;
    }
    input.parse::<Token![:]>()?;
    mask(input, out, 0);
    Ok(())
}

/// `all`, `none`, `3`, `0..=3`, `[0, 4..=7]`, `every 6 from 5`. The last index of each range goes to `last`.
fn indices(input: ParseStream<'_>, out: &mut Out, rule: &str, last: &mut Vec<(u64, Span)>) -> Result<()> {
    if input.peek(syn::token::Bracket) {
        let content;
        bracketed!(content in input);
        while !content.is_empty() {
            span(&content, out, rule, last)?;
            if !content.is_empty() {
                content.parse::<Token![,]>()?;
            }
        }
        return Ok(());
    }
    if input.peek(Lit) {
        return span(input, out, rule, last);
    }
    let expected = "expected indices like `3`, `0..=3`, `[0, 4..=7]`, `every 6 from 5`, `all` or `none`";
    let word = input.call(Ident::parse_any).map_err(|error| Error::new(error.span(), expected))?;
    match word.to_string().as_str() {
        "all" | "none" => Ok(()),
        "every" => {
            let (every, place) = integer(input)?;
            out.rule(place, "every", every);
            if input.peek(Ident) {
                self::word(input, "from")?;
                let (from, place) = integer(input)?;
                out.rule(place, rule, from);
                last.push((from, place));
            } else {
                last.push((0, place));
            }
            Ok(())
        }
        _ => Err(Error::new(word.span(), expected)),
    }
}

fn span(input: ParseStream<'_>, out: &mut Out, rule: &str, named: &mut Vec<(u64, Span)>) -> Result<()> {
    let (first, place) = integer(input)?;
    let (mut last, mut last_place) = (first, place);
    if input.peek(Token![..=]) {
        input.parse::<Token![..=]>()?;
        (last, last_place) = integer(input)?;
        out.rule(place, "range", quote!(#first, #last));
    } else if input.peek(Token![..]) {
        return Err(input.error("write `..=`: both ends are included"));
    }
    out.rule(last_place, rule, last);
    named.push((last, last_place));
    Ok(())
}

fn softcap(input: ParseStream<'_>, out: &mut Out) -> Result<()> {
    let literal: Lit = input.parse().map_err(|error| Error::new(error.span(), "expected a number"))?;
    let text = literal.to_token_string();
    let plain = matches!(literal, Lit::Int(_) | Lit::Float(_)) && !text.contains('_');
    match text.parse::<f32>() {
        Ok(cap) if plain && cap.is_finite() => {
            out.rule(literal.span(), "softcap", quote!(#cap));
            Ok(())
        }
        _ => Err(Error::new(literal.span(), "expected a plain number like `50.0`")),
    }
}

fn text(input: ParseStream<'_>) -> Result<LitStr> {
    let text: LitStr =
        input.parse().map_err(|error| Error::new(error.span(), "expected a text in double quotes"))?;
    // Raw strings and escapes read differently in the text form.
    if text.token().to_string() == format!("\"{}\"", text.value()) {
        Ok(text)
    } else {
        Err(Error::new(text.span(), "write a plain string, without escapes"))
    }
}

fn word(input: ParseStream<'_>, expected: &str) -> Result<()> {
    let word = input.call(Ident::parse_any)?;
    if word == expected { Ok(()) } else { Err(Error::new(word.span(), format!("expected `{expected}`"))) }
}

/// The source text of a literal.
trait TokenString {
    fn to_token_string(&self) -> String;
}

impl TokenString for Lit {
    fn to_token_string(&self) -> String {
        quote!(#self).to_string()
    }
}
