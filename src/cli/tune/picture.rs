//! Time over candidates, drawn.

use std::path::{Path, PathBuf};

use longgen::picture::{Curve, Curves};
use longgen_runtime::tune::TuneReport;

use crate::cli::CliError;
use crate::cli::drawing::Drawing;

/// Writes one picture for each report that timed something: `NAME-forward-8192.png`.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, reports: &[TuneReport]) -> Result<Vec<PathBuf>, CliError> {
    let mut written = Vec::new();
    for report in reports.iter().filter(|report| report.timed() > 0) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}-{}-{}.{extension}", report.pass, report.tokens);
        let path = path.with_file_name(name);
        let drawing = Drawing::of(&path).map_err(CliError::usage)?;
        drawing.write(&curves(report).draw()).map_err(CliError::failure)?;
        written.push(path);
    }
    Ok(written)
}

/// Candidates from the quickest to the slowest; what the model expected of each, the first guess and the floor.
fn curves(report: &TuneReport) -> Curves {
    let mut timed: Vec<(f64, f64)> =
        report.standings.iter().filter_map(|s| Some((s.seconds()?, s.expected_seconds))).collect();
    timed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let numbered = |seconds: &dyn Fn(&(f64, f64)) -> f64| -> Vec<(f64, f64)> {
        (1..).zip(&timed).map(|(n, pair)| (f64::from(n), 1e3 * seconds(pair))).collect()
    };
    let level = |seconds: f64| vec![(1.0, 1e3 * seconds), (timed.len().max(2) as f64, 1e3 * seconds)];
    let mut curves = vec![
        Curve { name: "measured".into(), points: numbered(&|pair| pair.0) },
        Curve { name: "expected by the model".into(), points: numbered(&|pair| pair.1) },
    ];
    if let Some(guess) = report.first_guess().and_then(|guess| guess.seconds()) {
        curves.push(Curve { name: "the model's first guess".into(), points: level(guess) });
    }
    curves.push(Curve { name: "floor".into(), points: level(report.floor_seconds) });
    Curves {
        title: format!("{} at {} tokens", report.pass, report.tokens),
        x_label: "candidate, the quickest first".into(),
        y_label: "ms".into(),
        curves,
    }
}
