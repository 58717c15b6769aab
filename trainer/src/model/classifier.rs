//! What watches the backbone while it learns: one linear layer that learns to tell classes from its pooled map.

use candle_core::{DType, Device, Result, Tensor};

use super::Parameters;
use super::head::linear_init;
use crate::ops::{GlobalAveragePool, Linear, Op, Tape};

/// A linear layer from features to classes, float32 whatever the maps are.
pub struct Classifier {
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    /// From so many channels to so many classes; its parameters are named `classifier.…`.
    pub fn new(
        channels: usize,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<(Self, Parameters)> {
        Parameters::build(Some(seed), device, |vb| {
            let vb = vb.pp("classifier");
            let weight = vb.get_with_hints((classes, channels), "weight", linear_init(channels))?;
            let bias = vb.get_with_hints(classes, "bias", linear_init(channels))?;
            Ok(Self { weight, bias })
        })
    }

    /// What it looks at: the mean of a map `[N, H, W, C]`, `[N, C]`. On no tape, so that nothing of what it learns
    /// reaches the backbone.
    pub fn features(map: &Tensor) -> Result<Tensor> {
        GlobalAveragePool.forward([map])?.to_dtype(DType::F32)
    }

    /// `[N, C]` → a logit for each class.
    pub fn forward(&self, tape: &mut Tape, features: &Tensor) -> Result<Tensor> {
        tape.apply(Linear, [features, &self.weight, &self.bias])
    }
}
