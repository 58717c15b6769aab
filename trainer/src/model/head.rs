//! g and q: the projector and the predictor, two-layer perceptrons.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::batch_norm::BatchNormLayer;
use crate::ops::{Linear, Tape};

/// Linear with bias → batch norm → ReLU → linear without bias, named as in `nn.Sequential`: 0, 1
/// and 3.
pub struct Head {
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    norm: BatchNormLayer,
    output_weight: Tensor,
}

/// PyTorch's initial values of a linear layer: U(±1/√inputs).
pub(super) fn linear_init(inputs: usize) -> Init {
    let bound = 1.0 / (inputs as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

impl Head {
    /// A head from `inputs` through `hidden` to `outputs` numbers.
    pub fn new(inputs: usize, hidden: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let first = vb.pp(0);
        let hidden_weight =
            first.get_with_hints((hidden, inputs), "weight", linear_init(inputs))?;
        let hidden_bias = first.get_with_hints(hidden, "bias", linear_init(inputs))?;
        let norm = BatchNormLayer::new(hidden, &vb.pp(1))?;
        let output_weight =
            vb.pp(3).get_with_hints((outputs, hidden), "weight", linear_init(hidden))?;
        Ok(Self { hidden_weight, hidden_bias, norm, output_weight })
    }

    /// `[R, inputs]` → `[R, outputs]`.
    pub fn forward(&self, tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
        let x = tape.apply(Linear, [x, &self.hidden_weight, &self.hidden_bias])?;
        let x = self.norm.forward(tape, &x, true)?;
        tape.apply(Linear, [&x, &self.output_weight])
    }
}
