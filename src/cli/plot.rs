//! `lgc plot`: the loss curves of trainings.

use std::io::Write;
use std::path::{Path, PathBuf};

use longgen::picture::{Curve, Curves};
use longgen_runtime::train::{LOG_FILE, read_log};
use thiserror::Error;

use super::{CliError, drawing};

/// Arguments of `lgc plot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Training directories, or their log.jsonl files
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// The picture: NAME.png or NAME.svg
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Error)]
enum PlotError {
    #[error("there is no log `{}`", .0.display())]
    NoLog(PathBuf),
    #[error("`{}` holds no step yet", .0.display())]
    NoSteps(PathBuf),
}

/// Draws one curve for each run.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), CliError> {
    let picture = drawing::Drawing::of(&args.output).map_err(CliError::usage)?;
    let curves = args.runs.iter().map(|run| curve(run)).collect::<Result<_, _>>()?;
    let curves = Curves { title: "Loss".into(), x_label: "step".into(), y_label: "nats".into(), curves };
    picture.write(&curves.draw()).map_err(CliError::failure)?;
    writeln!(out, "{}", args.output.display())?;
    Ok(())
}

fn curve(run: &Path) -> Result<Curve, CliError> {
    let log = if run.is_dir() { run.join(LOG_FILE) } else { run.to_path_buf() };
    if !log.exists() {
        return Err(CliError::failure(PlotError::NoLog(log)));
    }
    let steps = read_log(&log).map_err(CliError::failure)?;
    if steps.is_empty() {
        return Err(CliError::failure(PlotError::NoSteps(run.into())));
    }
    let points = steps.iter().map(|report| (report.step as f64, report.loss)).collect();
    let name = run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned();
    Ok(Curve { name, points })
}
