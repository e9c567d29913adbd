use longgen::sparse_pattern;

#[sparse_pattern(window = 64; softcap = 0.0; layer = 3)]
struct Softmax;

#[sparse_pattern(window = 64; layers = 4; full_layers = [1, 2..=4])]
struct PastTheLastLayer;

#[sparse_pattern(window = 64; heads [3..=1]: full; heads 5000: full)]
struct Heads;

#[sparse_pattern(window = 64; heads 0..4: full)]
struct OpenRange;

#[sparse_pattern(preset = "mistrel")]
struct Preset;

#[sparse_pattern(preset = "mistral", window = 8)]
struct ChangedPreset;

#[sparse_pattern(window = 64; name = "line\nbreak"; sink_logit = false)]
struct Name;

fn main() {}
