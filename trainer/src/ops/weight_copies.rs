//! Weights in the type of the maps.
//!
//! Weights are float32, and products of bfloat16 maps take them as bfloat16. Each has one copy,
//! which is made when an op first asks for it and which the kernels of the optimizer and of the EMA
//! write together with the value. Whatever else changes a value must [`forget`] its copy.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Result, Tensor, TensorId};

/// The weights that may have a copy, and their copies.
static COPIES: LazyLock<Mutex<HashMap<TensorId, Option<Tensor>>>> = LazyLock::new(Mutex::default);

fn copies() -> MutexGuard<'static, HashMap<TensorId, Option<Tensor>>> {
    COPIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a weight have a copy, until this is dropped. Other tensors are converted at each use.
#[derive(Debug)]
pub(crate) struct Copied(TensorId);

impl Copied {
    pub fn new(weight: &Tensor) -> Self {
        copies().insert(weight.id(), None);
        Self(weight.id())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        copies().remove(&self.0);
    }
}

/// A weight as `dtype`, apart from candle's own record of gradients.
pub(crate) fn weight_as(weight: &Tensor, dtype: DType) -> Result<Tensor> {
    let value = weight.detach();
    if dtype != DType::BF16 {
        return value.to_dtype(dtype);
    }
    match copies().get_mut(&weight.id()) {
        Some(Some(copy)) => Ok(copy.clone()),
        Some(none) => Ok(none.insert(value.to_dtype(dtype)?).clone()),
        None => value.to_dtype(dtype),
    }
}

/// The copy of a weight, which has to change with it.
pub(crate) fn copy_of(weight: &Tensor) -> Option<Tensor> {
    copies().get(&weight.id()).cloned().flatten()
}

/// Drops the copy of a weight whose value changes.
pub(crate) fn forget(weight: &Tensor) {
    if let Some(copy) = copies().get_mut(&weight.id()) {
        *copy = None;
    }
}
