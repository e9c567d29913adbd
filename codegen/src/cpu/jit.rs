//! Cranelift IR to executable memory.

use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};

use super::{ClifSource, CpuError};

/// Addresses set aside for one source; pages are taken as they are filled. Functions call each other by 32-bit distances, so all
/// must come from one reservation: beside a GPU's address space, single mappings can lie further apart than that reaches.
const RESERVED_BYTES: usize = 16 << 20;

/// Machine code in this process; freed when dropped.
pub struct JitCode {
    module: Option<JITModule>,
    functions: Vec<(String, *const u8)>,
}

// SAFETY: after construction the module is never touched again except to free it, and the code is read-only.
unsafe impl Send for JitCode {}
// SAFETY: as above; shared access only reads addresses.
unsafe impl Sync for JitCode {}

impl std::fmt::Debug for JitCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JitCode").field("functions", &self.functions).finish_non_exhaustive()
    }
}

impl JitCode {
    /// Compiles every function of a source.
    ///
    /// # Errors
    /// Code that Cranelift refuses, or no room for it.
    pub fn new(source: ClifSource) -> Result<JitCode, CpuError> {
        let memory =
            ArenaMemoryProvider::new_with_size(RESERVED_BYTES).map_err(|error| CpuError::Refused {
                function: "all".to_owned(),
                reason: format!("no {RESERVED_BYTES} bytes of addresses for machine code: {error}"),
            })?;
        let mut builder = JITBuilder::with_isa(source.isa.clone(), default_libcall_names());
        builder.memory_provider(Box::new(memory));
        let mut module = JITModule::new(builder);
        let mut ids = Vec::with_capacity(source.functions.len());
        // Functions refer to each other by position, so all are declared, in order, before any is defined.
        for (index, (name, function)) in source.functions.iter().enumerate() {
            let unique = format!("{name}.{index}");
            let id = module
                .declare_function(&unique, Linkage::Local, &function.signature)
                .map_err(|error| refused(name, &error))?;
            ids.push(id);
        }
        let mut context = module.make_context();
        let mut functions = Vec::with_capacity(ids.len());
        for ((name, function), id) in source.functions.into_iter().zip(ids) {
            context.func = function;
            module.define_function(id, &mut context).map_err(|error| refused(&name, &error))?;
            module.clear_context(&mut context);
            functions.push((name, id));
        }
        module.finalize_definitions().map_err(|error| refused("all", &error))?;
        let functions =
            functions.into_iter().map(|(name, id)| (name, module.get_finalized_function(id))).collect();
        Ok(JitCode { module: Some(module), functions })
    }

    /// The address of a function, valid while this value lives.
    pub fn address(&self, name: &str) -> Option<*const u8> {
        self.functions.iter().find(|(known, _)| known == name).map(|(_, address)| *address)
    }
}

impl Drop for JitCode {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: addresses are handed out for the lifetime of this value only, so no code of the module is
            // running or will be called again.
            unsafe { module.free_memory() }
        }
    }
}

fn refused(function: &str, error: &cranelift_module::ModuleError) -> CpuError {
    let reason = match error {
        cranelift_module::ModuleError::Compilation(inner) => format!("{inner:?}"),
        other => other.to_string(),
    };
    CpuError::Refused { function: function.to_string(), reason }
}
