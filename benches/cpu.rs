//! CPU attention: time, rate and the share of the theoretical speed-up that sparse patterns keep.
//!
//! `cargo bench --bench cpu -- [--tokens N] [--heads H] [--kv-heads G] [--head-dim D] [--isa NAME] [--backward] [--decode]
//! [--repeat R] [--dtype f32|bf16|fp16] [--pattern TEXT] [--blocking TEXT] [--cpu-time]`. Times are the best of R rounds over all
//! patterns, in each of which a pattern runs for at least a twentieth of a second: a machine that is slower for a while is so for
//! all of them. With --cpu-time (Linux) the processor time of all threads over their number, for machines that are busy
//! otherwise. The theoretical speed-up of a pattern is the number of dense pairs over the number of its visible pairs; the share
//! kept is the measured speed-up over that.

use std::time::Instant;

use longgen_codegen::analysis::visible_pairs;
use longgen_codegen::cpu::Blocking;
use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::Pattern;
use longgen_runtime::cpu::{CpuAttention, CpuGradientInputs, CpuInputs, CpuOutput, Isa};
use longgen_runtime::problem::{AttentionProblem, DType, HeadShape, Sequences};
use longgen_runtime::tensor::{HostTensor, TensorShape};

struct Options {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    isa: Isa,
    repeat: usize,
    backward: bool,
    decode: bool,
    cpu_time: bool,
    pattern: Option<String>,
    blocking: Option<Blocking>,
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(2);
        }
    };
    println!(
        "{} tokens, {} heads, {} KV heads, D {}, {}, {}, {} threads",
        options.tokens,
        options.heads,
        options.kv_heads,
        options.head_dim,
        options.dtype,
        options.isa,
        rayon::current_num_threads()
    );
    println!(
        "{:<34} {:>10} {:>9} {:>9} {:>9} {:>9} {:>6}",
        "pattern", "pairs/head", "ms", "GFLOP/s", "ideal", "measured", "kept"
    );
    let given = options.pattern.iter().map(String::as_str);
    let patterns =
        PATTERNS.into_iter().take(if options.pattern.is_some() { 1 } else { PATTERNS.len() }).chain(given);
    let tensors = Tensors::new(&options);
    let mut cases: Vec<Case> = patterns.map(|name| Case::new(&options, &tensors, name)).collect();
    for _ in 0..options.repeat {
        for case in &mut cases {
            case.round(&options, &tensors);
        }
    }
    let (dense_pairs, dense_seconds) = (cases[0].pairs, cases[0].best);
    for Case { name, pairs, best: seconds, .. } in cases {
        let flops = if options.backward { 10.0 } else { 4.0 } * pairs * options.head_dim as f64;
        let ideal = dense_pairs / pairs;
        let measured = dense_seconds / seconds;
        println!(
            "{name:<34} {:>10.0} {:>9.2} {:>9.1} {ideal:>8.2}x {measured:>8.2}x {:>5.0}%",
            pairs / options.heads as f64,
            seconds * 1e3,
            flops / seconds / 1e9,
            100.0 * measured / ideal
        );
    }
}

/// In the text form of patterns. A stride is in blocks of 64 tokens.
const PATTERNS: [&str; 7] = [
    "full",
    "sink=4, window=2000",
    "window=512",
    "window=1024, stride=8",
    "sink=4, window=1024, stride=8",
    "longgen-sink",
    "longgen-stride",
];

/// What every pattern works on.
struct Tensors {
    problem: AttentionProblem,
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
}

impl Tensors {
    fn new(options: &Options) -> Tensors {
        let shape = HeadShape::new(options.heads, options.kv_heads, options.head_dim).expect("a head shape");
        let queries = if options.decode { 1 } else { options.tokens };
        let sequences =
            Sequences::new(vec![0, queries], vec![0, options.tokens], None).expect("valid sequences");
        let tensor = |tokens, heads, seed| {
            let shape = TensorShape { tokens, heads, head_dim: options.head_dim };
            let values = noise(tokens * heads * options.head_dim, seed);
            HostTensor::from_f32(options.dtype, shape, &values).expect("a tensor")
        };
        Tensors {
            problem: AttentionProblem::new(shape, sequences),
            q: tensor(queries, options.heads, 1),
            k: tensor(options.tokens, options.kv_heads, 2),
            v: tensor(options.tokens, options.kv_heads, 3),
        }
    }

    fn inputs(&self) -> CpuInputs<'_> {
        CpuInputs { q: self.q.view(), k: self.k.view(), v: self.v.view(), sink_logit: None }
    }
}

/// One pattern, with its pairs over all heads and its best time so far.
struct Case<'a> {
    name: &'a str,
    attention: CpuAttention,
    output: CpuOutput,
    pairs: f64,
    best: f64,
}

impl Case<'_> {
    /// Compiles the kernels and runs the forward once.
    fn new<'a>(options: &Options, tensors: &Tensors, name: &'a str) -> Case<'a> {
        let pattern = Pattern::preset(name).or_else(|_| name.parse()).expect("a valid pattern");
        // Layer 0 is a sparse one in every preset.
        let ir = MaskIr::lower(&pattern, Some(0)).expect("a mask that lowers");
        let mut attention = CpuAttention::with_isa(&ir, options.head_dim, options.isa).expect("kernels");
        if let Some(blocking) = options.blocking {
            attention.set_blocking(blocking).expect("a blocking that was parsed");
        }
        let output = attention.forward(&tensors.problem, tensors.inputs()).expect("forward");
        let pairs: u128 = (0..options.kv_heads)
            .map(|g| {
                let pairs =
                    |tokens: usize| visible_pairs(&ir, g as u32, tokens as u32).expect("a pair count");
                let all = pairs(options.tokens);
                if options.decode { all - pairs(options.tokens - 1) } else { all }
            })
            .sum();
        let pairs = (pairs * tensors.problem.shape.group() as u128) as f64;
        Case { name, attention, output, pairs, best: f64::INFINITY }
    }

    /// Runs until a twentieth of a second is over.
    fn round(&mut self, options: &Options, tensors: &Tensors) {
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.05 {
            let clock = Clock::start(options.cpu_time);
            self.run(options, tensors);
            self.best = self.best.min(clock.seconds());
        }
    }

    fn run(&mut self, options: &Options, tensors: &Tensors) {
        let Tensors { problem, q, .. } = tensors;
        if options.backward {
            let CpuOutput { o, lse } = &self.output;
            let gradient = CpuGradientInputs { o: o.view(), lse, d_o: q.view(), d_lse: None };
            let backward = self.attention.backward(problem, tensors.inputs(), gradient);
            std::hint::black_box(backward.expect("backward"));
        } else {
            self.attention.forward_into(problem, tensors.inputs(), &mut self.output).expect("forward");
        }
    }
}

/// Wall time, or processor time of all threads over their number.
struct Clock {
    wall: Instant,
    processor: Option<f64>,
}

impl Clock {
    fn start(cpu_time: bool) -> Clock {
        Clock { wall: Instant::now(), processor: cpu_time.then(processor_seconds) }
    }

    fn seconds(&self) -> f64 {
        match self.processor {
            Some(before) => (processor_seconds() - before) / rayon::current_num_threads() as f64,
            None => self.wall.elapsed().as_secs_f64(),
        }
    }
}

/// Time that the threads of this process have run, as Linux counts it.
fn processor_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() * 1e-9
}

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        })
        .collect()
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        tokens: 16384,
        heads: 2,
        kv_heads: 2,
        head_dim: 128,
        dtype: DType::F32,
        isa: Isa::available()[0],
        repeat: 3,
        backward: false,
        decode: false,
        cpu_time: false,
        pattern: None,
        blocking: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("`{text}` is no number"));
        match arg.as_str() {
            "--tokens" => options.tokens = number(value()?)?,
            "--heads" => options.heads = number(value()?)?,
            "--kv-heads" => options.kv_heads = number(value()?)?,
            "--head-dim" => options.head_dim = number(value()?)?,
            "--repeat" => options.repeat = number(value()?)?,
            "--backward" => options.backward = true,
            "--cpu-time" => options.cpu_time = true,
            "--pattern" => options.pattern = Some(value()?),
            "--decode" => options.decode = true,
            "--blocking" => options.blocking = Some(value()?.parse().map_err(|e| format!("{e}"))?),
            // What `cargo bench` adds.
            "--bench" => {}
            "--isa" => {
                let name = value()?;
                let found = Isa::available().into_iter().find(|isa| isa.name() == name);
                options.isa = found.ok_or(format!("this machine has no `{name}`"))?;
            }
            "--dtype" => {
                options.dtype = match value()?.as_str() {
                    "f32" => DType::F32,
                    "bf16" => DType::Bf16,
                    "fp16" => DType::F16,
                    other => return Err(format!("`{other}` is none of f32, bf16, fp16")),
                }
            }
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    Ok(options)
}
