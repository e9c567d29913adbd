//! Tuning on the CPU.

use longgen_codegen::model::Ranked;
use longgen_runtime::store::TuneKey;
use longgen_runtime::tune::{Bench, CpuBench, CpuClock, CpuSubject, TuneReport, cpu_problem};

use super::Session;
use super::request::{Request, Search};
use crate::cli::CliError;

/// Searches every pass at every length.
///
/// # Errors
/// Kernels that cannot be compiled or run.
pub fn search(request: &Request, session: &Session<'_>) -> Result<Vec<TuneReport>, CliError> {
    let searches = request.searches();
    let mut reports = Vec::with_capacity(searches.len());
    for (n, &search) in searches.iter().enumerate() {
        if session.is_stopped() {
            break;
        }
        let mut bench = bench(request, search)?;
        let threads = rayon::current_num_threads();
        let of = (request.shape, request.dtype, request.softmax.softcap.is_some());
        let problem = cpu_problem(&request.ir, search.pass, of, (bench.isa(), threads));
        let key = TuneKey::new(problem, search.tokens.into());
        reports.push(session.search(search, searches.len() - n - 1, &key, &mut bench)?);
    }
    Ok(reports)
}

/// What the model proposes.
///
/// # Errors
/// A head dimension without kernels.
pub fn candidates(request: &Request, search: Search) -> Result<Vec<Ranked<String>>, CliError> {
    Ok(bench(request, search)?.candidates().to_vec())
}

fn bench(request: &Request, search: Search) -> Result<CpuBench, CliError> {
    let subject = CpuSubject {
        ir: &request.ir,
        pass: search.pass,
        shape: request.shape,
        dtype: request.dtype,
        tokens: search.tokens,
        softcap: request.softmax.softcap,
        clock: if request.cpu_time { CpuClock::Processor } else { CpuClock::Wall },
        pool: None,
    };
    CpuBench::new(&subject).map_err(CliError::failure)
}
