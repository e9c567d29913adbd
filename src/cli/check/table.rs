//! The outcome of all problems, as a table and as JSON.

use std::fmt;

use longgen_runtime::problem::DType;
use serde::Serialize;

use super::Outcome;
use super::problems::Named;
use crate::cli::CliError;
use crate::cli::kernel_args::Subject;

/// One line for each output of each problem.
#[derive(Serialize)]
pub struct Table {
    pattern: String,
    device: String,
    holds: bool,
    problems: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    dtype: String,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Output {
    name: &'static str,
    /// Norm of the difference over norm.
    error: f64,
    /// The same of plain attention.
    plain: f64,
    /// What `error` may be.
    limit: f64,
    holds: bool,
}

impl Table {
    /// An empty table.
    pub fn new(device: String, subject: &Subject) -> Table {
        Table { pattern: subject.pattern.to_string(), device, holds: true, problems: Vec::new() }
    }

    /// Adds a problem.
    pub fn add(&mut self, problem: &Named, dtype: DType, outcome: Outcome) {
        self.holds &= outcome.holds();
        let outputs = outcome.outputs.iter().map(|output| Output {
            name: output.name,
            error: output.error,
            plain: output.plain,
            limit: output.factor * output.plain,
            holds: output.holds(),
        });
        let outputs = outputs.collect();
        self.problems.push(Entry { name: problem.name.clone(), dtype: dtype.to_string(), outputs });
    }

    /// (Outputs out of bounds, all outputs).
    pub fn count(&self) -> (usize, usize) {
        let outputs = self.problems.iter().flat_map(|problem| &problem.outputs);
        (outputs.clone().filter(|output| !output.holds).count(), outputs.count())
    }

    /// Indented JSON.
    ///
    /// # Errors
    /// None in practice: everything in it serialises.
    pub fn to_json(&self) -> Result<String, CliError> {
        serde_json::to_string_pretty(self).map_err(CliError::failure)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: error of each output, norm over norm; `!` breaks its limit\n", self.device)?;
        for problem in &self.problems {
            write!(f, "{:48} {:>5} ", problem.name, problem.dtype)?;
            for output in &problem.outputs {
                let mark = if output.holds { ' ' } else { '!' };
                write!(f, " {} {:.1e}{mark}", output.name, output.error)?;
            }
            writeln!(f)?;
        }
        let (wrong, all) = self.count();
        writeln!(f, "\n{} of {all} outputs within their limits", all - wrong)
    }
}
