//! The store of this process: opened when a command first needs it, in the cache folder.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use longgen_runtime::store::{Store, StoreLocation};

use super::environment;

static STORE: OnceLock<Arc<Store>> = OnceLock::new();

/// The store in the cache folder.
pub fn open() -> Arc<Store> {
    let store = STORE.get_or_init(|| {
        let folder = environment::cache_folder();
        let location = folder.map_or(StoreLocation::Memory, |folder| StoreLocation::in_folder(&folder));
        Arc::new(Store::open(location))
    });
    store.clone()
}

/// Tells on standard error what happened to the file, if a command has opened it.
pub fn tell_notices() {
    for notice in STORE.get().map(|store| store.take_notices()).unwrap_or_default() {
        // A note that nobody can read is no reason to fail.
        let _ = writeln!(io::stderr(), "note: {notice}");
    }
}
