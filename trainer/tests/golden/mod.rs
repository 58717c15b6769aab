//! The numbers that `scripts/make_goldens_trainer.py` took from PyTorch.

// Each test program includes this file and uses some of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

/// One golden file's tensors by name.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    /// Reads `tests/goldens/<name>.safetensors`.
    pub fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let path = folder.join(format!("{name}.safetensors"));
        Self(candle_core::safetensors::load(&path, &Device::Cpu).unwrap())
    }

    /// The tensor called `name`.
    pub fn get(&self, name: impl AsRef<str>) -> &Tensor {
        self.0.get(name.as_ref()).unwrap_or_else(|| panic!("no {:?}", name.as_ref()))
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The names before the first dot, each once, sorted: the cases of a file.
    pub fn cases(&self) -> Vec<&str> {
        let mut cases: Vec<_> =
            self.names().into_iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
        cases.dedup();
        cases
    }

    /// A tensor of one integer.
    pub fn count(&self, name: impl AsRef<str>) -> usize {
        self.number(name) as usize
    }

    /// A tensor of one number.
    pub fn number(&self, name: impl AsRef<str>) -> f64 {
        numbers(self.get(name))[0].into()
    }
}

/// All values of a tensor, in order.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected‖.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference =
        squares(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
    let length = squares(&mut expected.iter().map(|e| f64::from(*e)));
    if length == 0.0 { difference } else { difference / length }
}

/// Fails unless `found` has the shape of `expected` and its values within a relative `tolerance`
/// (of the L2 norms).
#[track_caller]
pub fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let error = relative_error(&numbers(found), &numbers(expected));
    assert!(error <= tolerance, "{what}: relative error {error:.2e} over {tolerance:.0e}");
}
