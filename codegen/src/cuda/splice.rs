//! One CUDA file out of many: quoted includes are resolved by name, each file once, with `#line` seams so that a
//! compiler's message names the template and its line. Knows nothing of what the files contain.

use std::collections::BTreeSet;

/// Why a source could not be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// A template includes a file that is not there.
    #[error("template `{from}` line {line} includes `{name}`, which does not exist")]
    MissingInclude {
        /// The including template.
        from: String,
        /// Its line, from 1.
        line: usize,
        /// The name it asks for.
        name: String,
    },
    /// There is no such template.
    #[error("there is no template `{0}`")]
    MissingTemplate(String),
    /// A conditional of the offline example is not closed.
    #[error("template `{from}` line {line}: `#ifndef {OFFLINE}` without `#endif`")]
    OpenConditional {
        /// The template.
        from: String,
        /// Line of the condition, from 1.
        line: usize,
    },
}

/// What a template tests before it includes the hand-written example of the generated region. Generated sources define
/// it; the conditional and its body are left out of them.
pub const OFFLINE: &str = "LONGGEN_GENERATED";

/// The text of `root` with its includes in place, at their first mention.
///
/// # Errors
/// [`SpliceError`] when a file is missing or malformed, which is a mistake in the templates.
pub fn splice(root: &str, lookup: &dyn Fn(&str) -> Option<&'static str>) -> Result<String, SpliceError> {
    let text = lookup(root).ok_or_else(|| SpliceError::MissingTemplate(root.to_owned()))?;
    let mut state = Splice { lookup, seen: BTreeSet::new(), out: String::new() };
    state.append(root, text)?;
    Ok(state.out)
}

struct Splice<'a> {
    lookup: &'a dyn Fn(&str) -> Option<&'static str>,
    seen: BTreeSet<String>,
    out: String,
}

impl Splice<'_> {
    fn append(&mut self, name: &str, text: &str) -> Result<(), SpliceError> {
        self.seen.insert(name.to_owned());
        self.seam(1, name);
        let mut offline_since = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if offline_since.is_some() {
                if line.starts_with("#endif") {
                    offline_since = None;
                    self.seam(number + 1, name);
                }
            } else if line.trim_end() == format!("#ifndef {OFFLINE}") {
                offline_since = Some(number);
            } else if let Some(included) = quoted_include(line) {
                self.include(name, number, included)?;
            } else if line.trim_end() != "#pragma once" {
                self.out.push_str(line);
                self.out.push('\n');
            } else {
                // The file is here once; the pragma would only draw a warning in a main file.
                self.out.push('\n');
            }
        }
        match offline_since {
            Some(line) => Err(SpliceError::OpenConditional { from: name.to_owned(), line }),
            None => Ok(()),
        }
    }

    fn include(&mut self, from: &str, line: usize, name: &str) -> Result<(), SpliceError> {
        if self.seen.contains(name) {
            self.out.push('\n');
            return Ok(());
        }
        let missing = || SpliceError::MissingInclude { from: from.to_owned(), line, name: name.to_owned() };
        let text = (self.lookup)(name).ok_or_else(missing)?;
        self.append(name, text)?;
        self.seam(line + 1, from);
        Ok(())
    }

    fn seam(&mut self, line: usize, name: &str) {
        self.out.push_str(&format!("#line {line} \"{name}\"\n"));
    }
}

fn quoted_include(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("#include")?.trim_start().strip_prefix('"')?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str) -> Option<&'static str> {
        match name {
            "a.cu" => Some("#include \"b.cuh\"\n#include \"c.cuh\"\nint a;\n"),
            "b.cuh" => Some("#pragma once\n#include \"c.cuh\"\nint b;\n"),
            "c.cuh" => Some("#pragma once\n#ifndef LONGGEN_GENERATED\n#include \"x.cuh\"\n#endif\nint c;\n"),
            "bad.cu" => Some("int x;\n#include \"gone.cuh\"\n"),
            _ => None,
        }
    }

    #[test]
    fn each_file_stands_once_between_seams() {
        let expected = "#line 1 \"a.cu\"\n#line 1 \"b.cuh\"\n\n#line 1 \"c.cuh\"\n\n#line 5 \"c.cuh\"\nint c;\n\
                        #line 3 \"b.cuh\"\nint b;\n#line 2 \"a.cu\"\n\nint a;\n";
        assert_eq!(splice("a.cu", &files).as_deref(), Ok(expected));
    }

    #[test]
    fn a_missing_include_names_both_files() {
        let error = splice("bad.cu", &files).expect_err("missing").to_string();
        assert_eq!(error, "template `bad.cu` line 2 includes `gone.cuh`, which does not exist");
    }
}
