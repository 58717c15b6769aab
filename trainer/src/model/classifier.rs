//! What watches the backbone while it learns: one linear layer that learns to tell classes from its pooled map.

use candle_core::{Device, Result, Tensor};

use super::{Builder, Parameters};
use crate::ops::{GlobalAveragePool, Linear, Tape};

/// A linear layer from features to classes.
pub struct Classifier {
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    /// From so many channels to so many classes; its parameters are named `classifier.…`.
    pub fn new(channels: usize, classes: usize, seed: u64, device: &Device) -> Result<(Self, Parameters)> {
        let mut made = Parameters::default();
        let mut builder = Builder::new("classifier", seed, device, &mut made);
        let weight = builder.weight(channels, classes)?;
        let bias = builder.bias(channels, classes)?;
        Ok((Self { weight, bias }, made))
    }

    /// What it looks at: the mean of a map `[N, H, W, C]`, `[N, C]`. On no tape, so that nothing of what it learns
    /// reaches the backbone.
    pub fn features(map: &Tensor) -> Result<Tensor> {
        map.apply_op1_no_bwd(&GlobalAveragePool)
    }

    /// `[N, C]` → a logit for each class.
    pub fn forward(&self, tape: &mut Tape, features: &Tensor) -> Result<Tensor> {
        tape.three(Linear, features, &self.weight, &self.bias)
    }
}
