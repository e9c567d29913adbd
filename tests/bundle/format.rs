//! What is written is read back, and nothing else is read at all.

use longgen_codegen::bundle::{Bundle, BundleError, C_HEADER, ImageKind};
use longgen_codegen::cuda::abi::Params;
use longgen_codegen::spec::{Dtype, Pass, Shape};
use longgen_codegen::target::Target;

use super::sample;

fn bytes() -> Vec<u8> {
    sample().to_bytes().expect("a legal bundle")
}

fn error_of(bytes: &[u8]) -> BundleError {
    Bundle::from_bytes(bytes).expect_err("no whole bundle")
}

/// The same file with its sums made right again, as only a program would.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let records = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let end = (88 + records.min(1000) * 424).min(bytes.len());
    let index = crc32fast::hash(&bytes[88..end]);
    bytes[72..76].copy_from_slice(&index.to_le_bytes());
    let header = crc32fast::hash(&bytes[..84]);
    bytes[84..88].copy_from_slice(&header.to_le_bytes());
    bytes
}

#[test]
fn what_is_written_is_read() {
    let bytes = bytes();
    let read = Bundle::from_bytes(&bytes).unwrap();
    assert_eq!(read, sample());
    assert_eq!(read.to_bytes().unwrap(), bytes, "to the byte");
    let empty = Bundle::new();
    assert_eq!(Bundle::from_bytes(&empty.to_bytes().unwrap()).unwrap(), empty);
}

#[test]
fn no_beginning_of_a_file_is_a_file() {
    let bytes = bytes();
    for length in 0..bytes.len() {
        let error = error_of(&bytes[..length]);
        let expected = match length {
            0 => matches!(error, BundleError::NotABundle),
            _ => matches!(error, BundleError::Size { found, .. } if found == length as u64),
        };
        assert!(expected, "{length} bytes: {error}");
    }
    assert!(matches!(error_of(&[&bytes[..], b"x"].concat()), BundleError::Size { .. }));
}

#[test]
fn every_changed_byte_is_noticed() {
    let (whole, sample) = (bytes(), sample());
    let mut unnoticed = 0;
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x20;
        match Bundle::from_bytes(&bytes) {
            Err(_) => {}
            // Between the parts lie bytes without a meaning.
            Ok(read) => {
                assert_eq!(read, sample, "byte {position}");
                unnoticed += 1;
            }
        }
    }
    assert!(unnoticed < 16 * 10, "{unnoticed} bytes between 10 parts");
}

#[test]
fn each_error_says_what_to_do() {
    let bytes = bytes();
    let text = |bytes: &[u8]| error_of(bytes).to_string();
    assert!(text(b"").contains("no kernel bundle"));
    assert!(text(b"\x7fELF, for example a cubin, which is no bundle either").contains("no kernel bundle"));
    let copied: Vec<u8> = String::from_utf8_lossy(&bytes).replace("\r\n", "\n").into_bytes();
    assert!(text(&[b"\x89LGK\n\x1a\n", &bytes[8..]].concat()).contains("copied as text"));
    assert!(text(&copied).contains("no kernel bundle"), "recoded as UTF-8");
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(error_of(&newer), BundleError::Version { found: 2 });
    assert!(text(&newer).contains("lgc bundle"));
    for (position, part) in [(13, "the header"), (98, "the index"), (bytes.len() - 3, "kernel 4's manifest")]
    {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1;
        assert!(text(&damaged).contains(part), "{}", text(&damaged));
    }
}

#[test]
fn kernels_of_other_parameters_are_refused() {
    let mut bytes = bytes();
    bytes[76] ^= 1;
    let error = error_of(&summed(bytes));
    assert!(matches!(error, BundleError::Parameters { .. }), "{error}");
}

/// Checksums are no proof of sense: numbers that point anywhere are refused all the same.
#[test]
fn forged_numbers_are_refused() {
    let whole = bytes();
    let images = [88 + 376, 88 + 400, 24, 48];
    for span in images {
        for value in [u64::MAX, u64::MAX - 8, whole.len() as u64, 1 << 40] {
            for field in [span, span + 8] {
                let mut bytes = whole.clone();
                bytes[field..field + 8].copy_from_slice(&value.to_le_bytes());
                let error = error_of(&summed(bytes));
                let told = matches!(error, BundleError::Malformed { .. } | BundleError::Damaged { .. });
                assert!(told, "{value} at {field}: {error}");
            }
        }
    }
    for count in [5u32, 6, 1 << 20, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[12..16].copy_from_slice(&count.to_le_bytes());
        // One record fewer is a legal file, more reach into the parts.
        let read = Bundle::from_bytes(&summed(bytes));
        assert_eq!(read.is_err(), count > 5, "{count} records");
    }
}

#[test]
fn labels() {
    for label in ["", "a\0b", &"x".repeat(64)] {
        let mut bundle = sample();
        bundle.info.patterns[0].label = label.into();
        bundle.kernels.iter_mut().for_each(|kernel| kernel.pattern = label.into());
        assert_eq!(bundle.to_bytes(), Err(BundleError::Label { label: label.into() }));
    }
    let mut twice = sample();
    twice.info.patterns.push(twice.info.patterns[0].clone());
    assert!(matches!(twice.to_bytes(), Err(BundleError::Label { .. })));
    let mut stray = sample();
    stray.kernels[0].pattern = "another".into();
    assert!(stray.to_bytes().unwrap_err().to_string().contains("`another`"));
}

#[test]
fn a_device_gets_the_image_that_suits_it() {
    let bundle = sample();
    let (hash, shape) = ("1f".repeat(32), Shape::plain(128, Dtype::Bf16));
    let target = |capability| bundle.target_for(&hash, &shape, capability).map(|target| target.name());
    assert_eq!(target((9, 0)), Some("sm_90a"));
    assert_eq!(target((8, 6)), Some("sm_80"), "machine code of an earlier minor revision");
    assert_eq!(target((12, 0)), Some("sm_80"), "PTX");
    assert_eq!(target((7, 5)), None);
    assert_eq!(bundle.target_for("another", &shape, (9, 0)), None);
    assert_eq!(bundle.target_for(&hash, &Shape::plain(64, Dtype::Bf16), (9, 0)), None);
    let sm_80: Target = "sm_80".parse().unwrap();
    let kind =
        |capability| bundle.find(&hash, Pass::Forward, &shape, sm_80, capability).map(|found| found.kind);
    assert_eq!(kind((8, 9)), Some(ImageKind::Cubin), "machine code before PTX");
    assert_eq!(kind((9, 0)), Some(ImageKind::Ptx), "which another major revision cannot run");
    assert_eq!(kind((7, 5)), None);
}

/// Fields of `lgk_params`, read as text: a field added on one side only must not pass.
#[test]
fn the_c_header_has_the_same_parameters() {
    let (_, rest) = C_HEADER.split_once("typedef struct lgk_params {").expect("the struct");
    let (body, _) = rest.split_once("} lgk_params;").expect("its end");
    let mut fields = Vec::new();
    for line in body.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        let Some(declaration) = line.strip_suffix(';') else { continue };
        let (kind, names) = declaration.split_once(' ').expect("a type and names");
        fields.extend(names.split(',').map(|name| (kind.to_owned(), name.trim().to_owned())));
    }
    let c_type = |kind: &str| match kind {
        "pointer" => "uint64_t",
        "int64" => "int64_t",
        "int32" => "int32_t",
        "float32" => "float",
        other => panic!("{other}"),
    };
    let expected: Vec<(String, String)> =
        Params::fields().into_iter().map(|field| (c_type(&field.kind).to_owned(), field.name)).collect();
    assert_eq!(fields, expected);
    let declaration =
        C_HEADER.split_once("lgk_params {").and_then(|(_, rest)| rest.split_once("\n} lgk_params;"));
    let (body, _) = declaration.expect("the struct");
    let sum =
        format!("#define LGK_PARAMS_CRC {:#010x}u", crc32fast::hash(format!("{{{body}\n}}").as_bytes()));
    assert!(C_HEADER.contains(&sum), "the header's line must be: {sum}");
}
