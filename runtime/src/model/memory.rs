//! Asking for memory before it is used: a request the machine can never grant ends in a message, not in an abort.

use super::ModelError;

/// Fails if the system refuses this many bytes at once, which it does for more than it has.
pub(crate) fn check_memory(what: &'static str, bytes: u128) -> Result<(), ModelError> {
    let granted = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    if usize::try_from(bytes).is_ok_and(granted) {
        return Ok(());
    }
    Err(ModelError::Memory { what, bytes })
}
