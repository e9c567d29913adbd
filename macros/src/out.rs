//! What checking collects: all errors, and the assertions for the compiler's rules.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::Error;

/// Errors and assertions, in the order of the text.
#[derive(Default)]
pub(crate) struct Out {
    errors: Vec<Error>,
    assertions: Vec<TokenStream>,
    #[cfg(test)]
    rules: Vec<(String, String)>,
}

impl Out {
    pub(crate) fn error(&mut self, span: Span, message: impl std::fmt::Display) {
        self.errors.push(Error::new(span, message));
    }

    pub(crate) fn push(&mut self, error: Error) {
        self.errors.push(error);
    }

    /// Asserts `rules::RULE(ARGS)` when the expansion is compiled; a failure points at `span`.
    pub(crate) fn rule(&mut self, span: Span, rule: &str, args: impl ToTokens) {
        #[cfg(test)]
        self.rules.push((rule.to_string(), args.to_token_stream().to_string()));
        let rule = syn::Ident::new(rule, span);
        self.assertions.push(quote_spanned! {span=>
            const _: () = ::longgen::__private::rules::enforce(::longgen::__private::rules::#rule(#args));
        });
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// Every error as a compile error, and every assertion.
    pub(crate) fn tokens(&self) -> TokenStream {
        let errors = self.errors.iter().map(Error::to_compile_error);
        errors.chain(self.assertions.iter().cloned()).collect()
    }

    #[cfg(test)]
    pub(crate) fn messages(&self) -> Vec<String> {
        self.errors.iter().map(ToString::to_string).collect()
    }

    #[cfg(test)]
    pub(crate) fn rules(&self) -> &[(String, String)] {
        &self.rules
    }
}
