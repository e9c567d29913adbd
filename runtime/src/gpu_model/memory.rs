//! Device memory is counted before it is taken: a request that does not fit ends in a message that says what was needed, what
//! there is, and what would fit.

use crate::driver::Device;
use crate::model::{ModelError, gib};

/// What is about to be allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    what: &'static str,
    parts: Vec<(&'static str, u128)>,
    fits: Option<String>,
}

impl DeviceMemory {
    /// Nothing yet; `what` it is for.
    pub fn new(what: &'static str) -> DeviceMemory {
        DeviceMemory { what, parts: Vec::new(), fits: None }
    }

    /// A part of so many bytes.
    pub fn with(mut self, part: &'static str, bytes: u128) -> DeviceMemory {
        self.parts.push((part, bytes));
        self
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u128 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Adds what would fit instead: the largest `n` below `asked` for which `bytes(n)` does, in words.
    pub fn or_else(
        mut self,
        device: &Device,
        asked: usize,
        unit: &str,
        bytes: impl Fn(usize) -> u128,
    ) -> Result<DeviceMemory, ModelError> {
        let free = device.memory()?.0 as u128;
        let most = largest(asked, |n| bytes(n) <= free);
        self.fits = Some(match most {
            0 => "not even one would fit".to_owned(),
            n => format!("{n} {unit} would fit"),
        });
        Ok(self)
    }

    /// Fails if the device has less free memory.
    ///
    /// # Errors
    /// [`ModelError::DeviceMemory`].
    pub fn check(&self, device: &Device) -> Result<(), ModelError> {
        let free = device.memory()?.0 as u128;
        if self.bytes() <= free {
            return Ok(());
        }
        let parts: Vec<String> =
            self.parts.iter().map(|(part, bytes)| format!("{part} {}", gib(*bytes))).collect();
        let fits = self.fits.as_ref().map(|fits| format!("; {fits}")).unwrap_or_default();
        Err(ModelError::DeviceMemory {
            what: self.what,
            needed: format!("{} ({})", gib(self.bytes()), parts.join(", ")),
            free: gib(free),
            fits,
        })
    }
}

/// The largest number up to `most` that fits, 0 for none; what fits a number fits every smaller one.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_that_fits_is_found() {
        for limit in [0, 1, 7, 99, 100, 1000] {
            assert_eq!(largest(100, |n| n <= limit), limit.min(100));
        }
    }
}
