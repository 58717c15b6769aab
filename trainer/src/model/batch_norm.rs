//! Batch norm with its parameters and running statistics.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::ops::{BatchNorm, Normalization, Tape, batch_statistics, profile, update_running};

/// A batch norm. It normalizes with the statistics of the batch and updates the running statistics,
/// or, where the tape says [`Normalization::Running`], normalizes with the latter.
pub struct BatchNormLayer {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNormLayer {
    /// A batch norm of maps with `channels` channels.
    pub fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: get("running_mean", 0.0)?,
            running_var: get("running_var", 1.0)?,
        })
    }

    /// Normalizes a map `[…, C]`, then applies ReLU if `relu`.
    pub fn forward(&self, tape: &mut Tape, x: &Tensor, relu: bool) -> Result<Tensor> {
        let op = self.op(tape, x, relu)?;
        tape.apply(op, [x, &self.weight, &self.bias])
    }

    /// Normalizes a map `[…, C]`, adds the shortcut, and applies ReLU.
    pub fn forward_add_relu(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        shortcut: &Tensor,
    ) -> Result<Tensor> {
        let op = self.op(tape, x, true)?;
        tape.apply(op, [x, &self.weight, &self.bias, shortcut])
    }

    /// The op with the statistics to normalize with; those of the batch, on all ranks, update the
    /// running ones.
    fn op(&self, tape: &Tape, x: &Tensor, relu: bool) -> Result<BatchNorm> {
        let ranks = tape.ranks().clone();
        let momentum = match tape.normalization() {
            Normalization::Running => {
                let rows = (self.running_mean.ones_like()? * f64::INFINITY)?;
                let running = [self.running_mean.detach(), self.running_var.detach(), rows];
                return Ok(BatchNorm::new(Tensor::stack(&running, 0)?, ranks, relu));
            }
            Normalization::Batch { momentum } => momentum,
        };
        let compute = || batch_statistics(x, &ranks);
        let statistics = profile::of("batch_statistics", x.device(), compute)?;
        update_running([&self.running_mean, &self.running_var], &statistics, momentum)?;
        Ok(BatchNorm::new(statistics, ranks, relu))
    }
}
