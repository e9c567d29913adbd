//! A mutation fuzzer for the readers of patterns: bounded and deterministic in the tests, timed in the example.

use longgen_codegen::ir::MaskIr;
use longgen_codegen::pattern::{Pattern, Predicate};

/// Starting points for TOML.
pub const TOML_SEEDS: [&str; 12] = [
    "sink = 4\nwindow = 4096\nstride = 8\nblock = 16\nstep = 2\noffset = 1\n",
    "name = \"a\"\nfull = true\n[layers]\ncount = 32\nfull = \"10..=21\"\n[softmax]\nsoftcap = 50.0\nsink_logit = true\n",
    "window = 1\n[[heads]]\nheads = [0, \"4..=7\"]\nlayers = { every = 2, from = 1 }\nsink_blocks = 1\nblock = 32\n",
    "union = [{ sink = 4 }, { difference = [{ window = 8 }, { where = \"k % 2 == 1\" }] }]\n",
    "intersection = [{ group = 64, shifted = true }, { stride = 2 }]\n",
    "preset = \"phi3-small\"\nstride = 16\n[layers]\nfull = \"every 6 from 5\"\n",
    "where = '''\nlet d = q - k;\nif d < 8 { true } else { head == 0 }\n'''\n",
    "layers.count = 3\nlayers.full = 2\nwindow = 0x10\nsoftmax = { softcap = 1e3 }\n",
    "a = 1979-05-27T07:32:00Z\nwindow = 18446744073709551615\n",
    "window = -9223372036854775808\nsink = +7\nstride = 1_000\n",
    "[[heads]]\nfull = true\n[[heads]]\nfull = true\n[layers]\nfull = [[1]]\n",
    "\"win\\u0064ow\" = 5\n'sink' = 5 # comment\r\n\t\n",
];

/// Pieces to insert into TOML.
pub const TOML_WORDS: [&str; 40] = [
    "sink",
    "window",
    "stride",
    "block",
    "window_blocks",
    "sink_blocks",
    "step",
    "offset",
    "group",
    "shifted",
    "full",
    "where",
    "union",
    "intersection",
    "difference",
    "heads",
    "layers",
    "softmax",
    "name",
    "preset",
    " = ",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    ",",
    "\"",
    "'''",
    "\"\"\"",
    ".",
    "true",
    "1e999",
    "nan",
    "-inf",
    "\\u0000",
    "\"0..=3\"",
    "4294967296",
];

/// Starting points for predicates.
pub const PREDICATE_SEEDS: [&str; 12] = [
    "q - k < 8",
    "let x = q - k; x < 8 && x % 2 == 0 || k < 4",
    "if head == 0 { true } else { q / 64 == k / 64 }",
    "{ let x = { let y = q; y + 1 }; !(x.min(k) < 3) }",
    "min(q, k).abs() < -7 * head",
    "(q < k) == (k < 3) != false",
    "let b = 2 * 8; k / b % (b - 3) == head % 4",
    "let q = k; let k = q; let head: i64 = q - k; head == 0",
    "std::cmp::max(q, 9223372036854775807) - 1_000i64 >= 0x10",
    "if q < k { if k < 3 { q } else if k < 4 { 2 } else { 3 } } else { 4 } == 1",
    "match q { 0 => true, _ => false }",
    "|| q.pow(2) as f64 > 3.0 && \"s\" == 'c' /* comment */ // end",
];

/// Pieces to insert into predicates.
pub const PREDICATE_WORDS: [&str; 48] = [
    "q",
    "k",
    "head",
    "x",
    "0",
    "1",
    "64",
    "9223372036854775807",
    "9223372036854775808",
    "-",
    "+",
    "*",
    "/",
    "%",
    "<",
    "<=",
    "==",
    "!=",
    "&&",
    "||",
    "!",
    "(",
    ")",
    "{",
    "}",
    "if ",
    " else ",
    "let x = ",
    ";",
    "true",
    "false",
    ".min(",
    ".abs()",
    "max(",
    "&",
    " as ",
    "5.0",
    "::",
    "<",
    ">",
    "return ",
    "|",
    "..",
    "r#",
    "#[a]",
    "'a: ",
    "/*",
    "\u{3b1}",
];

/// xorshift64*: a small generator that gives the same inputs on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// A seed with a few bytes or words changed; not always UTF-8.
    pub fn mutated(&mut self, seeds: &[&str], words: &[&str]) -> Vec<u8> {
        let mut bytes = self.pick(seeds).as_bytes().to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let most = if self.below(8) == 0 { bytes.len() } else { 6 };
            let to = (at + self.below(most + 1)).min(bytes.len());
            let word = self.pick(words).as_bytes();
            match self.below(12) {
                0 => drop(bytes.splice(at..at, word.iter().copied())),
                1 => drop(bytes.splice(at..to, word.iter().copied())),
                2 => drop(bytes.drain(at..to)),
                3 => {
                    let copy = bytes[at..to].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                4 => {
                    let other = self.pick(seeds).as_bytes();
                    let from = self.below(other.len());
                    drop(bytes.splice(at..to, other[from..].iter().copied()));
                }
                5 => {
                    let many = word.repeat(1 << self.below(11));
                    drop(bytes.splice(at..at, many));
                }
                6 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                7 => bytes.insert(at, self.below(128) as u8),
                _ => self.change_digit(&mut bytes),
            }
        }
        bytes
    }

    /// Keeps most inputs legal, so that what lies behind the reader is reached as well.
    fn change_digit(&mut self, bytes: &mut [u8]) {
        let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
        if let Some(at) = digits.get(self.below(digits.len())) {
            bytes[*at] = b'0' + self.below(10) as u8;
        }
    }
}

/// Reads the bytes as TOML: an error must print, a pattern must survive both round trips.
pub fn check_toml(bytes: &[u8]) -> bool {
    match Pattern::from_toml_bytes("fuzz.toml", bytes) {
        Err(error) => {
            assert!(error.to_string().len() < 4096, "a message too long for a terminal");
            false
        }
        Ok(pattern) => {
            let toml = Pattern::from_toml_str("again", &pattern.to_toml());
            assert_eq!(toml.as_ref(), Ok(&pattern), "TOML round trip");
            assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern), "text round trip");
            true
        }
    }
}

/// Reads the bytes as a predicate and as a pattern's text; what is accepted must mean the same all the way down.
pub fn check_predicate(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(predicate) = Predicate::parse(&text).map_err(|error| assert!(error.to_string().len() < 4096))
    else {
        return false;
    };
    let again = Predicate::parse(predicate.source()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, predicate, "canonical text");
    let pattern = Pattern::builder(predicate.clone()).build().unwrap_or_else(|error| panic!("{error}"));
    let ir = MaskIr::lower(&pattern, None).ok();
    for (i, j, g) in [(0, 0, 0), (9, 3, 1), (100, 99, 2), ((1 << 30) - 1, 64, 1023)] {
        let held = predicate.holds(i, j, g);
        assert_eq!(predicate.program().eval::<1>(&[i, j, g]), [i64::from(held)], "program at {i} {j} {g}");
        if let Some(ir) = &ir {
            assert_eq!(ir.sees(g as u32, i as u32, j as u32), held, "mask IR at {i} {j} {g}");
        }
    }
    true
}

/// Reads the bytes as the text form of a pattern.
pub fn check_text(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Pattern>() {
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            false
        }
        Ok(pattern) => {
            assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern), "text round trip");
            true
        }
    }
}

/// Starting points for the text form.
pub const TEXT_SEEDS: [&str; 6] = [
    "sink=4, window=4096, stride=8",
    "(sink=4, window=8) & (stride=2, block=16) - where(k % 2 == 1) | group=64, shifted",
    "window=128; heads [0, 4..=7] in layers every 2 from 1: full; layers = 24; full_layers = 10..=21",
    "full; softcap = 5e1; sink_logit; name = \"a\"",
    "preset = \"duo\", sink=5; heads all: full",
    "((((full))))",
];

/// Pieces to insert into the text form.
pub const TEXT_WORDS: [&str; 26] = [
    "sink=",
    "window=1",
    "stride=2",
    "block=16",
    "where(",
    "full",
    "shifted",
    ",",
    ";",
    "|",
    "&",
    "-",
    "(",
    ")",
    "[",
    "]",
    "..=",
    "heads ",
    "in layers ",
    "layers = ",
    "every ",
    "from ",
    "preset = ",
    "\"",
    "4294967296",
    " ",
];
