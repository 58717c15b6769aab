//! g and q: the projector and the predictor, two-layer perceptrons.

use candle_core::{Result, Tensor};

use super::{BatchNormLayer, Builder};
use crate::ops::{Linear, Tape};

/// Linear with bias → batch norm → ReLU → linear without bias; layers named as in `nn.Sequential`: 0, 1, 3.
pub struct Head {
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    norm: BatchNormLayer,
    output_weight: Tensor,
}

impl Head {
    /// From `inputs` through `hidden` to `outputs` numbers.
    pub fn new(inputs: usize, hidden: usize, outputs: usize, builder: &mut Builder) -> Result<Self> {
        let mut first = builder.below(0);
        let hidden_weight = first.weight(inputs, hidden)?;
        let hidden_bias = first.bias(inputs, hidden)?;
        let norm = BatchNormLayer::new(hidden, &mut builder.below(1))?;
        let output_weight = builder.below(3).weight(hidden, outputs)?;
        Ok(Self { hidden_weight, hidden_bias, norm, output_weight })
    }

    /// `[R, inputs]` → `[R, outputs]`.
    pub fn forward(&self, tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
        let x = tape.three(Linear, x, &self.hidden_weight, &self.hidden_bias)?;
        let x = self.norm.forward(tape, &x, true)?;
        tape.two(Linear, &x, &self.output_weight)
    }
}
