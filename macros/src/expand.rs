//! The expansion: the item as it was, errors and assertions, and the implementation.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::{ParseStream, Parser};
use syn::{Error, FnArg, Item, ItemFn, ItemStruct, Pat, ReturnType, Visibility};

use crate::args::args;
use crate::out::Out;
use crate::predicate;

/// The whole attribute.
pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Struct(of)) => on_struct(attribute, &of),
        Ok(Item::Fn(of)) => on_function(&attribute, &of),
        Ok(_) | Err(_) => {
            let message = "`#[sparse_pattern]` goes on a unit struct or on a function";
            let error = Error::new_spanned(&item, message).to_compile_error();
            quote!(#item #error)
        }
    }
}

fn on_struct(attribute: TokenStream, item: &ItemStruct) -> TokenStream {
    let mut out = Out::default();
    if !matches!(item.fields, syn::Fields::Unit) {
        out.push(Error::new_spanned(
            &item.fields,
            "the struct stands for a pattern and has no fields: write `struct Name;`",
        ));
    }
    generics(&item.generics, &mut out);
    let text = attribute.to_string();
    let checked = (|input: ParseStream<'_>| args(input, &mut out)).parse2(attribute);
    if let Err(error) = checked {
        out.push(error);
    }
    let body = quote!(::longgen::__private::from_text(#text));
    // Without its parameters the implementation would be a second error.
    let implementation = item.generics.params.is_empty().then(|| implementation(&item.ident, &body, &out));
    let notes = out.tokens();
    quote!(#item #notes #implementation)
}

fn on_function(attribute: &TokenStream, item: &ItemFn) -> TokenStream {
    let mut out = Out::default();
    if !attribute.is_empty() {
        let message = "on a function the attribute stands alone: the body is the whole mask";
        out.push(Error::new_spanned(attribute, message));
    }
    let params = signature(item, &mut out);
    predicate::check_body(&params, &item.block, &mut out);
    let statements = &item.block.stmts;
    let text = quote!(#(#statements)*).to_string();
    let [q, k, head] = params;
    let body = quote!(::longgen::__private::from_function([#q, #k, #head], #text));
    let (name, visibility) = (&item.sig.ident, &item.vis);
    let implementation = implementation(name, &body, &out);
    let marker = marker(name, visibility);
    let notes = out.tokens();
    // The function counts as used, also where only its pattern is.
    let uses = out.is_ok().then(|| quote!(const _: fn(i64, i64, i64) -> bool = #name;));
    quote!(#item #notes #marker #implementation #uses)
}

/// A type without values and with the function's name, which leaves the name free for the function.
fn marker(name: &Ident, visibility: &Visibility) -> TokenStream {
    let doc = format!("The pattern whose mask is the function [`{name}`](fn@{name}).");
    quote! {
        #[doc = #doc]
        #[allow(non_camel_case_types)]
        #visibility enum #name {}
    }
}

/// After an error the implementation is still there and well-typed, so that no other error hides the first.
fn implementation(name: &Ident, body: &TokenStream, out: &Out) -> TokenStream {
    let body = if out.is_ok() { body.clone() } else { quote!(::core::unreachable!()) };
    quote! {
        impl ::longgen::SparsePattern for #name {
            fn pattern() -> ::longgen::Pattern {
                #body
            }
        }
    }
}

fn generics(generics: &syn::Generics, out: &mut Out) {
    if !generics.params.is_empty() {
        out.push(Error::new_spanned(generics, "a pattern has no generic parameters"));
    }
    if let Some(clause) = &generics.where_clause {
        out.push(Error::new_spanned(clause, "a pattern has no `where` clause here"));
    }
}

/// Checks `fn name(q: i64, k: i64, head: i64) -> bool`; the names of the parameters are free.
fn signature(item: &ItemFn, out: &mut Out) -> [String; 3] {
    let signature = &item.sig;
    generics(&signature.generics, out);
    let mut names: Vec<String> = Vec::new();
    for input in &signature.inputs {
        match name(input) {
            Ok(name) => names.push(name),
            Err(error) => {
                out.push(error);
                names.push(String::new());
            }
        }
    }
    let returns_bool = matches!(&signature.output, ReturnType::Type(_, ty) if is(ty, "bool"));
    if !returns_bool {
        let span: &dyn ToTokens = match &signature.output {
            ReturnType::Default => &signature.ident,
            output => output,
        };
        out.push(Error::new_spanned(span, "the function must return `bool`: whether the query sees the key"));
    }
    if let Some(word) = &signature.asyncness {
        out.push(Error::new_spanned(word, "the function must not be `async`"));
    }
    <[String; 3]>::try_from(names).unwrap_or_else(|_| {
        let message = "the function takes three parameters: `q: i64, k: i64, head: i64`";
        let span =
            if signature.inputs.is_empty() { signature.ident.span() } else { span_of(&signature.inputs) };
        out.error(span, message);
        ["q", "k", "head"].map(str::to_string)
    })
}

fn span_of(tokens: &impl ToTokens) -> Span {
    Error::new_spanned(tokens, "").span()
}

fn name(input: &FnArg) -> Result<String, Error> {
    if let FnArg::Typed(typed) = input
        && is(&typed.ty, "i64")
    {
        match &*typed.pat {
            Pat::Ident(ident)
                if ident.by_ref.is_none() && ident.mutability.is_none() && ident.subpat.is_none() =>
            {
                return Ok(ident.ident.to_string());
            }
            Pat::Wild(_) => return Ok("_".to_string()),
            _ => {}
        }
    }
    Err(Error::new_spanned(input, "a parameter must be a plain name of type `i64`"))
}

fn is(ty: &syn::Type, name: &str) -> bool {
    matches!(ty, syn::Type::Path(path) if path.path.is_ident(name))
}
