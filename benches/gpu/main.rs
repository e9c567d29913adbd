//! Times our GPU kernels and checks what was timed. One JSON item a line on standard input, one JSON result a line on
//! standard output, so that a script can take turns between us and the peers (`benches/peers_gpu.py`):
//!
//! ```text
//! {"pattern": "sink=4, window=4096", "pass": "forward", "tokens": 65536, "heads": 32, "kv_heads": 32, "head_dim": 128}
//! ```
//! `batch` (1), `dtype` ("bf16"), `target` (the best) and `repeats` (20) may be left out; passes are `forward`, `backward`,
//! `backward_deterministic`, `decode` and `decode_compact`. A line `again` times the last item once more; a line `quit` or the end of
//! input ends it.
//!
//! Inputs are random, outputs poisoned. Times are medians of CUDA events, after a warm-up. FLOPs count visible pairs only: 4 pairs D
//! forward, 10 pairs D backward. Decode counts the bytes of the visible keys and values, and takes turns with enough caches
//! that none is left in the L2 cache. `build_ms` is what compiling, loading and finding in memory took, whichever was needed;
//! `disk_ms` the same from the cubins on disk, as a new process would.

mod item;
mod sample;
mod work;

use std::io::BufRead;

use longgen_codegen::cuda::locate::ToolSearch;
use longgen_runtime::driver::Device;
use serde_json::Value;

use item::Item;
use work::Kernels;

fn main() {
    // `cargo test --benches` passes no input and has no GPU: then there is nothing to do.
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return println!("{}", serde_json::json!({ "skipped": error.to_string() })),
    };
    let search =
        ToolSearch { variable: std::env::var_os("LONGGEN_NVRTC").map(Into::into), ..ToolSearch::default() };
    let folder = std::env::temp_dir().join(format!("longgen-bench-{}", std::process::id()));
    let kernels = Kernels::new(search, &folder);
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok).map(|line| line.trim().to_owned());
    let mut next = lines.next();
    while let Some(line) = next.take().filter(|line| line != "quit") {
        // The line after this item's: another item, or a wish to time it again.
        let mut ahead = None;
        let answer = |result: Value| {
            println!("{result}");
            ahead = lines.next();
            ahead.as_deref() == Some("again")
        };
        let ran = match serde_json::from_str::<Item>(&line) {
            Ok(item) => work::run(&device, &kernels, &item, answer).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = ran {
            println!("{}", serde_json::json!({ "error": error }));
            ahead = lines.next();
        }
        next = ahead;
    }
    // Soft: what is left lies among the temporary files.
    let _ = std::fs::remove_dir_all(folder);
}
