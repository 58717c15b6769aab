//! A batch norm with its parameters and running statistics.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::ops::{BatchNorm, Normalization, Tape, batch_statistics, profile, update_running};

/// Normalizes with the statistics of the batch and keeps a running mean of them, or, where the pass is
/// [`Normalization::Running`], with that mean.
pub struct BatchNormLayer {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNormLayer {
    /// For maps of so many channels.
    pub fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: get("running_mean", 0.0)?,
            running_var: get("running_var", 1.0)?,
        })
    }

    /// Normalizes a map `[…, C]`; ReLU follows if asked for.
    pub fn forward(&self, tape: &mut Tape, x: &Tensor, relu: bool) -> Result<Tensor> {
        let op = BatchNorm { statistics: self.statistics(tape, x)?, relu };
        tape.apply(op, [x, &self.weight, &self.bias])
    }

    /// Normalizes a map, adds the shortcut, and applies ReLU.
    pub fn forward_add_relu(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        shortcut: &Tensor,
    ) -> Result<Tensor> {
        let op = BatchNorm { statistics: self.statistics(tape, x)?, relu: true };
        tape.apply(op, [x, &self.weight, &self.bias, shortcut])
    }

    /// The running statistics, or those of the batch after they have entered the running ones.
    fn statistics(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let momentum = match tape.normalization() {
            Normalization::Running => {
                return Tensor::stack(&[self.running_mean.detach(), self.running_var.detach()], 0);
            }
            Normalization::Batch { momentum } => momentum,
        };
        let statistics = profile::of("batch_statistics", x.device(), || batch_statistics(x))?;
        let rows = x.elem_count() / statistics.dim(1)?;
        update_running([&self.running_mean, &self.running_var], &statistics, rows, momentum)?;
        Ok(statistics)
    }
}
