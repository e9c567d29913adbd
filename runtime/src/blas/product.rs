//! The three products of a linear layer, on device memory.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use half::bf16;

use super::api::{Element, Handle, Plan, PlanKey};
use super::{BlasError, BlasSearch};
use crate::driver::{Buffer, Span, Stopwatch, Stream};
use crate::ops::linear::LinearShape;

/// What the library may use beside operands and result; 32 MiB is what it recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Dense products on one stream.
pub struct Blas {
    handle: Handle,
    stream: Stream,
    workspace: Buffer,
    plans: RefCell<HashMap<PlanKey, Rc<Plan>>>,
    watch: Stopwatch,
}

/// Numbers of one of the two types that products write.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Activations.
    Bf16(Span<'a, bf16>),
    /// Logits, and gradients of weights.
    F32(Span<'a, f32>),
}

/// Which product of a linear layer with weights W (N, K): T rows, K inputs, N outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// y (T, N) = x (T, K) W^T.
    Forward,
    /// dx (T, K) = dy (T, N) W.
    BackwardInput,
    /// dW (N, K) = dy (T, N)^T x (T, K).
    BackwardWeight,
}

impl std::fmt::Debug for Blas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blas with {} plans", self.plans.borrow().len())
    }
}

impl Values<'_> {
    fn element(self) -> Element {
        match self {
            Values::Bf16(_) => Element::Bf16,
            Values::F32(_) => Element::F32,
        }
    }

    fn address(self, name: &'static str, needed: usize, stream: &Stream) -> Result<u64, BlasError> {
        Ok(match self {
            Values::Bf16(span) => span.address(name, needed, stream)?,
            Values::F32(span) => span.address(name, needed, stream)?,
        })
    }
}

impl Blas {
    /// Finds and opens cuBLASLt for the device of `stream`.
    ///
    /// # Errors
    /// [`BlasError`] when it is missing or does not start.
    pub fn new(search: &BlasSearch, stream: &Stream) -> Result<Blas, BlasError> {
        let library = search.find()?;
        stream.handle()?;
        let handle = library.handle()?;
        let workspace = Buffer::zeros(stream, WORKSPACE_BYTES)?;
        let watch = Stopwatch::new(stream);
        Ok(Blas { handle, stream: stream.clone(), workspace, plans: RefCell::default(), watch })
    }

    /// Times the products while it is on.
    pub fn watch(&self) -> &Stopwatch {
        &self.watch
    }

    /// Submits a product of `left` and `right`, in the order of [`Product`]'s formulas. `add` (of the result's type and
    /// shape, possibly the result itself) is added to it.
    ///
    /// # Errors
    /// [`BlasError`] for spans that are too small, and for what the library refuses.
    pub fn multiply(
        &self,
        product: Product,
        shape: LinearShape,
        left: Span<'_, bf16>,
        right: Span<'_, bf16>,
        add: Option<Values<'_>>,
        result: Values<'_>,
    ) -> Result<(), BlasError> {
        let LinearShape { tokens: t, inputs: k, outputs: n } = shape;
        // The result's rows and columns and the terms of a sum; how the operands are stored, of the transposed product.
        let (rows, columns, inner, a_transposed, b_transposed) = match product {
            Product::Forward => (t, n, k, true, false),
            Product::BackwardInput => (t, k, n, false, false),
            Product::BackwardWeight => (n, k, t, false, true),
        };
        if rows == 0 || columns == 0 || inner == 0 {
            return Ok(());
        }
        let key = PlanKey {
            m: columns as u64,
            n: rows as u64,
            k: inner as u64,
            a_transposed,
            b_transposed,
            output: result.element(),
            adds: add.is_some(),
        };
        let plan = self.plan(&key)?;
        let stream = &self.stream;
        let a = right.address("right factor", columns * inner, stream)?;
        let b = left.address("left factor", rows * inner, stream)?;
        let d = result.address("product", rows * columns, stream)?;
        let c = match add {
            Some(values) if values.element() == result.element() => {
                values.address("addend", rows * columns, stream)?
            }
            Some(_) => {
                let reason = "the addend has another type than the product".to_owned();
                return Err(BlasError::Call { call: "cublasLtMatmul", reason });
            }
            None => d,
        };
        let beta = if add.is_some() { 1.0 } else { 0.0 };
        let workspace = (self.workspace.address(), WORKSPACE_BYTES);
        // SAFETY: each address was taken from a span that holds the operand's elements on this stream; the workspace has
        // the size the plan was made for and is used by one product at a time, since they share the stream.
        self.watch.time(|| unsafe { self.handle.run(&plan, [a, b, c, d], beta, workspace, stream.handle()?) })
    }

    fn plan(&self, key: &PlanKey) -> Result<Rc<Plan>, BlasError> {
        if let Some(plan) = self.plans.borrow().get(key) {
            return Ok(plan.clone());
        }
        self.stream.handle()?;
        let none = || BlasError::NoAlgorithm {
            rows: key.n as usize,
            inner: key.k as usize,
            columns: key.m as usize,
        };
        let plan = Rc::new(self.handle.plan(key, WORKSPACE_BYTES)?.ok_or_else(none)?);
        self.plans.borrow_mut().insert(*key, plan.clone());
        Ok(plan)
    }
}
