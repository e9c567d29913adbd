//! Asking for memory before it is used: a request the machine can never grant ends in a message, not in an abort or in a process
//! that the system kills.

use super::ModelError;

/// Fails if the machine has fewer bytes left, or refuses them at once.
pub(crate) fn check_memory(what: &'static str, bytes: u128) -> Result<(), ModelError> {
    let granted = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    let available = available();
    if available.is_none_or(|most| bytes <= most) && usize::try_from(bytes).is_ok_and(granted) {
        return Ok(());
    }
    let limit = match available {
        Some(most) => format!("{} are available", gib(most)),
        None => "this machine does not grant that".to_owned(),
    };
    Err(ModelError::Memory { what, needed: gib(bytes), limit })
}

/// Bytes that Linux can still hand out, a container's limit respected; none where it does not say.
fn available() -> Option<u128> {
    let free = free_bytes(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u128>().ok());
    Some(limit.map_or(free, |limit| limit.min(free)))
}

/// Memory and swap of a `/proc/meminfo`.
fn free_bytes(meminfo: &str) -> Option<u128> {
    let bytes = |name: &str| {
        let kib = meminfo.lines().find_map(|line| line.strip_prefix(name))?.strip_suffix("kB")?;
        Some(kib.trim().parse::<u128>().ok()? << 10)
    };
    Some(bytes("MemAvailable:")? + bytes("SwapFree:").unwrap_or(0))
}

/// Bytes as people read them.
pub(crate) fn gib(bytes: u128) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        assert!(check_memory("a byte", 1).is_ok());
        let error = check_memory("all", 1 << 60).unwrap_err().to_string();
        assert!(error.starts_with("all would take 1073741824.00 GiB; "), "{error}");
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       200 kB\nMemFree:        20 kB\nMemAvailable:   100 kB\nSwapFree:          8 kB\n";
        assert_eq!(free_bytes(text), Some(108 << 10));
        assert_eq!(free_bytes("MemTotal: 200 kB\n"), None);
    }
}
