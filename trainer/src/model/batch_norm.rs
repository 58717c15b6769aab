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
        self.in_batches(tape, x, |tape, rows, momentum| {
            let x = rows.of(x)?;
            let op = self.op(tape, &x, momentum, relu)?;
            tape.apply(op, [&x, &self.weight, &self.bias])
        })
    }

    /// Normalizes a map `[…, C]`, adds the shortcut, and applies ReLU.
    pub fn forward_add_relu(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        shortcut: &Tensor,
    ) -> Result<Tensor> {
        self.in_batches(tape, x, |tape, rows, momentum| {
            let (x, shortcut) = (rows.of(x)?, rows.of(shortcut)?);
            let op = self.op(tape, &x, momentum, true)?;
            tape.apply(op, [&x, &self.weight, &self.bias, &shortcut])
        })
    }

    /// Calls `normalize` for each batch in `x`, with the momentum of its statistics, or `None` where
    /// it is to be normalized with the running ones.
    fn in_batches(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        normalize: impl Fn(&mut Tape, Images, Option<f32>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match tape.normalization() {
            Normalization::Running => normalize(tape, Images::All, None),
            Normalization::Batch { momentum } => normalize(tape, Images::All, Some(momentum)),
            Normalization::Batches { images, before } => {
                let mut normalized = Vec::new();
                for number in 0..x.dim(0)? / images {
                    let momentum = 1.0 / ((before + number) as f32 + 1.0);
                    let images = Images::Some { first: number * images, count: images };
                    normalized.push(normalize(tape, images, Some(momentum))?);
                }
                Tensor::cat(&normalized, 0)
            }
        }
    }

    /// The op with the statistics to normalize with: those of the batch, on all ranks, which update
    /// the running ones with this momentum, or the running ones.
    fn op(&self, tape: &Tape, x: &Tensor, momentum: Option<f32>, relu: bool) -> Result<BatchNorm> {
        let ranks = tape.ranks().clone();
        let Some(momentum) = momentum else {
            let rows = (self.running_mean.ones_like()? * f64::INFINITY)?;
            let running = [self.running_mean.detach(), self.running_var.detach(), rows];
            return Ok(BatchNorm::new(Tensor::stack(&running, 0)?, ranks, relu));
        };
        let compute = || batch_statistics(x, &ranks);
        let statistics = profile::of("batch_statistics", x.device(), compute)?;
        if momentum > 0.0 {
            update_running([&self.running_mean, &self.running_var], &statistics, momentum)?;
        }
        Ok(BatchNorm::new(statistics, ranks, relu))
    }
}

/// Images of a map.
#[derive(Clone, Copy)]
enum Images {
    All,
    Some { first: usize, count: usize },
}

impl Images {
    fn of(self, map: &Tensor) -> Result<Tensor> {
        match self {
            Self::All => Ok(map.clone()),
            Self::Some { first, count } => map.narrow(0, first, count),
        }
    }
}
