//! Numbers as people write and read them.

/// Parses a number of tokens: `131072`, `131_072`, `128k` (times 1024) or `1M`; 1 to 2^30.
pub fn tokens(text: &str) -> Result<u32, String> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let (digits, factor) = match digits.char_indices().last() {
        Some((at, 'k' | 'K')) => (&digits[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&digits[..at], 1 << 20),
        _ => (digits.as_str(), 1),
    };
    let allowed = || "a number of tokens from 1 to 1073741824, like 131072 or 128k".to_string();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(allowed());
    }
    let tokens = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    match tokens {
        Some(n @ 1..=0x4000_0000) => Ok(n as u32),
        _ => Err(allowed()),
    }
}

/// Parses a count of at least 1; as a number of tokens may be written.
pub fn count(text: &str) -> Result<usize, String> {
    tokens(text).map(|n| n as usize).map_err(|_| "a whole number from 1 on, like 512 or 8k".to_string())
}

/// Parses a tile shape, `QUERIESxKEYS` or one number for both sides; powers of two from 1 to 4096.
pub fn tile(text: &str) -> Result<(u32, u32), String> {
    let side = |text: &str| text.parse::<u32>().ok().filter(|n| n.is_power_of_two() && *n <= 4096);
    let (queries, keys) = text.split_once('x').unwrap_or((text, text));
    match (side(queries), side(keys)) {
        (Some(queries), Some(keys)) => Ok((queries, keys)),
        _ => Err("a tile like 128x64: two powers of two up to 4096".to_string()),
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with a decimal prefix, four significant digits: `3.512 T`. The unit is the caller's.
pub fn scaled(number: u128) -> String {
    const PREFIXES: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut value = number as f64;
    let mut prefix = 0;
    while value >= 999.95 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let places = if prefix == 0 { 0 } else { 2 };
    format!("{value:.places$} {}", PREFIXES[prefix])
}

/// Bytes in decimal units, as disks and papers count: `26.46 GB`.
pub fn bytes(number: u128) -> String {
    format!("{}B", scaled(number))
}

/// Seconds in milliseconds, four significant digits: `12.34`.
pub fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let places = if ms >= 1000.0 {
        0
    } else if ms >= 100.0 {
        1
    } else if ms >= 10.0 {
        2
    } else {
        3
    };
    format!("{ms:.places$}")
}

/// A time with its unit: `25.00 us`, `12.34 ms`.
pub fn time(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.2} us", seconds * 1e6) } else { format!("{} ms", milliseconds(seconds)) }
}

/// A share as a percentage: `3.1 %`, with more digits where it is small.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent != 0.0 && percent.abs() < 0.1 { format!("{percent:.4} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(tokens("131_072"), Ok(131_072));
        assert_eq!(tokens("128k"), Ok(131_072));
        assert_eq!(tokens("1M"), Ok(1 << 20));
        for wrong in ["", "0", "k", "-1", "1.5k", "1025M", "99999999999999999999", "é", "1kk"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tiles() {
        assert_eq!(tile("128x64"), Ok((128, 64)));
        assert_eq!(tile("64"), Ok((64, 64)));
        assert!(tile("0").is_err() && tile("x").is_err() && tile("96").is_err());
    }

    #[test]
    fn readable() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(7), "7");
        assert_eq!(bytes(26_460_000_000), "26.46 GB");
        assert_eq!(scaled(999_960), "1.00 M");
        assert_eq!(percent(0.0305), "3.0 %");
        assert_eq!([time(2.5e-5), time(0.1119)], ["25.00 us", "111.9 ms"]);
    }
}
