//! A thin layer over Cranelift's function builder: structured loops, fields of the work item, calls.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, Function, InstBuilder, MemFlagsData, Signature, Type,
    UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

/// A field of the work item at this address.
macro_rules! item_field {
    ($e:expr, $item:expr, $name:ident) => {
        $e.field($item, offset_of!(Item, $name))
    };
}

/// A function that the work item carries.
macro_rules! callee {
    ($e:expr, $item:expr, $name:ident) => {
        $e.field($item, offset_of!(Item, calls) + offset_of!($crate::cpu::abi::Calls, $name))
    };
}

pub(super) use {callee, item_field};

/// A function of the source: its name in listings, and where others find it.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    index: u32,
    signature: Signature,
}

/// The functions of a source, in the order of their definition.
pub(super) struct Unit {
    config: TargetFrontendConfig,
    pub(super) functions: Vec<(String, Function)>,
}

impl Unit {
    pub(super) fn new(config: TargetFrontendConfig) -> Unit {
        Unit { config, functions: Vec::new() }
    }

    pub(super) fn call_conv(&self) -> CallConv {
        self.config.default_call_conv
    }

    /// Defines a function of these parameter and result types; `body` gets the parameters.
    pub(super) fn define(
        &mut self,
        name: &str,
        params: &[Type],
        results: &[Type],
        body: impl FnOnce(&mut Emit<'_>, &[Value]),
    ) -> Declared {
        let signature = signature(self.call_conv(), params, results);
        let index = self.functions.len() as u32;
        let mut function = Function::with_name_signature(UserFuncName::user(0, index), signature.clone());
        let mut context = FunctionBuilderContext::new();
        let mut emit = Emit { b: FunctionBuilder::new(&mut function, &mut context) };
        let entry = emit.b.create_block();
        emit.b.append_block_params_for_function_params(entry);
        emit.b.switch_to_block(entry);
        emit.b.seal_block(entry);
        let args = emit.b.block_params(entry).to_vec();
        body(&mut emit, &args);
        emit.b.finalize(self.config);
        self.functions.push((name.to_string(), function));
        Declared { index, signature }
    }
}

pub(super) fn signature(conv: CallConv, params: &[Type], results: &[Type]) -> Signature {
    let mut signature = Signature::new(conv);
    signature.params.extend(params.iter().map(|&ty| AbiParam::new(ty)));
    signature.returns.extend(results.iter().map(|&ty| AbiParam::new(ty)));
    signature
}

/// One function under construction.
pub(super) struct Emit<'a> {
    pub(super) b: FunctionBuilder<'a>,
}

impl Emit<'_> {
    pub(super) fn int(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    pub(super) fn variable(&mut self, start: Value) -> Variable {
        let ty = self.b.func.dfg.value_type(start);
        let variable = self.b.declare_var(ty);
        self.b.def_var(variable, start);
        variable
    }

    pub(super) fn get(&mut self, variable: Variable) -> Value {
        self.b.use_var(variable)
    }

    pub(super) fn set(&mut self, variable: Variable, value: Value) {
        self.b.def_var(variable, value);
    }

    pub(super) fn while_loop(
        &mut self,
        condition: impl FnOnce(&mut Self) -> Value,
        body: impl FnOnce(&mut Self),
    ) {
        let (head, inside, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let condition = condition(self);
        self.b.ins().brif(condition, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        body(self);
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(after);
        self.b.seal_block(after);
    }

    /// Runs `body` for 0, step, 2 * step, ... below `end`.
    pub(super) fn count(&mut self, end: Value, step: i64, body: impl FnOnce(&mut Self, Value)) {
        let zero = self.int(0);
        let counter = self.variable(zero);
        self.while_loop(
            |e| {
                let at = e.get(counter);
                e.b.ins().icmp(IntCC::SignedLessThan, at, end)
            },
            |e| {
                let at = e.get(counter);
                body(e, at);
                let next = e.b.ins().iadd_imm_s(at, step);
                e.set(counter, next);
            },
        );
    }

    pub(super) fn if_else(
        &mut self,
        condition: Value,
        then: impl FnOnce(&mut Self),
        otherwise: impl FnOnce(&mut Self),
    ) {
        let (yes, no, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, yes, &[], no, &[]);
        for block in [yes, no] {
            self.b.seal_block(block);
        }
        self.b.switch_to_block(yes);
        then(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(no);
        otherwise(self);
        self.b.ins().jump(after, &[]);
        self.b.seal_block(after);
        self.b.switch_to_block(after);
    }

    pub(super) fn if_then(&mut self, condition: Value, then: impl FnOnce(&mut Self)) {
        self.if_else(condition, then, |_| {});
    }

    /// The value of a field at `offset` bytes of the structure at `base`.
    pub(super) fn field(&mut self, base: Value, offset: usize) -> Value {
        self.b.ins().load(types::I64, MemFlagsData::trusted(), base, offset as i32)
    }

    /// Overwrites such a field.
    pub(super) fn set_field(&mut self, base: Value, offset: usize, value: Value) {
        self.b.ins().store(MemFlagsData::trusted(), value, base, offset as i32);
    }

    /// `base + index * size` bytes.
    pub(super) fn element(&mut self, base: Value, index: Value, size: i64) -> Value {
        let bytes = self.b.ins().imul_imm_s(index, size);
        self.b.ins().iadd(base, bytes)
    }

    /// The 32-bit index number `at` of those at `indices`.
    pub(super) fn index_at(&mut self, indices: Value, at: Value) -> Value {
        let at = self.element(indices, at, 4);
        let index = self.b.ins().load(types::I32, MemFlagsData::trusted(), at, 0);
        self.b.ins().sextend(types::I64, index)
    }

    pub(super) fn smaller(&mut self, a: Value, b: Value) -> Value {
        let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
        self.b.ins().select(less, a, b)
    }

    pub(super) fn larger(&mut self, a: Value, b: Value) -> Value {
        let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
        self.b.ins().select(less, b, a)
    }

    /// Calls a function of the same source.
    pub(super) fn call(&mut self, target: &Declared, args: &[Value]) -> Vec<Value> {
        let function = &mut *self.b.func;
        let name = function.declare_imported_user_function(UserExternalName::new(0, target.index));
        let signature = self.b.import_signature(target.signature.clone());
        let callee = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        let call = self.b.ins().call(callee, args);
        self.b.inst_results(call).to_vec()
    }

    /// Calls the function whose address is `callee` and which returns nothing.
    pub(super) fn call_pointer(&mut self, callee: Value, args: &[Value]) {
        let params: Vec<Type> = args.iter().map(|&v| self.b.func.dfg.value_type(v)).collect();
        let conv = self.b.func.signature.call_conv;
        let signature = self.b.import_signature(signature(conv, &params, &[]));
        self.b.ins().call_indirect(signature, callee, args);
    }
}
