//! A linear classifier on the backbone's pooled feature map.

use candle_core::{DType, Device, Result, Tensor};

use super::head::linear_init;
use super::parameters::Parameters;
use crate::ops::{GlobalAveragePool, Linear, Op, Tape};

/// A linear layer from features to logits, float32 whatever the type of the maps.
pub struct Classifier {
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    /// A layer from `channels` features to `classes` logits; its parameters are named
    /// `classifier.…`.
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

    /// The features `[N, C]`: the mean of a map `[N, H, W, C]`. They are on no tape, which is a
    /// stop-gradient: the classifier's loss does not reach the backbone.
    pub fn features(map: &Tensor) -> Result<Tensor> {
        GlobalAveragePool.forward([map])?.to_dtype(DType::F32)
    }

    /// `[N, C]` → logits `[N, classes]`.
    pub fn forward(&self, tape: &mut Tape, features: &Tensor) -> Result<Tensor> {
        tape.apply(Linear, [features, &self.weight, &self.bias])
    }
}
