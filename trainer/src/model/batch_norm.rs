//! A batch norm with its parameters and running statistics.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use super::Builder;
use crate::ops::{BatchNorm, BatchStatistics, Normalization, Tape, f32s, f32s_mut};

/// Normalises with the statistics of the batch and keeps a running mean of them, or, where the pass is
/// [`Normalization::Running`], with that mean.
pub struct BatchNormLayer {
    affine: Tensor,
    running: Tensor,
}

impl BatchNormLayer {
    /// For maps of so many channels.
    pub fn new(channels: usize, builder: &mut Builder) -> Result<Self> {
        let affine = builder.affine(channels)?;
        Ok(Self { affine, running: builder.running_statistics(channels)? })
    }

    /// Normalises a map `[…, C]`; ReLU follows if asked for.
    pub fn forward(&self, tape: &mut Tape, x: &Tensor, relu: bool) -> Result<Tensor> {
        let op = BatchNorm { statistics: self.statistics(tape, x)?, relu };
        tape.two(op, x, &self.affine)
    }

    /// Normalises a map, adds the shortcut, and applies ReLU.
    pub fn forward_add_relu(&self, tape: &mut Tape, x: &Tensor, shortcut: &Tensor) -> Result<Tensor> {
        let op = BatchNorm { statistics: self.statistics(tape, x)?, relu: true };
        tape.three(op, x, &self.affine, shortcut)
    }

    /// The running statistics, or those of the batch after they have entered the running ones.
    fn statistics(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let momentum = match tape.normalization() {
            Normalization::Running => return Ok(self.running.clone()),
            Normalization::Batch { momentum } => momentum,
        };
        let statistics = x.apply_op1_no_bwd(&BatchStatistics)?;
        let rows = x.elem_count() / statistics.dim(1)?;
        self.running.inplace_op2(&statistics, &UpdateRunning { rows, momentum })?;
        Ok(statistics)
    }
}

/// Running statistics move towards those of a batch of so many rows; its variance is made unbiased first, as in PyTorch.
struct UpdateRunning {
    rows: usize,
    momentum: f32,
}

impl InplaceOp2 for UpdateRunning {
    fn name(&self) -> &'static str {
        "update-running-statistics"
    }

    fn cpu_fwd(
        &self,
        running: &mut CpuStorage,
        running_layout: &Layout,
        batch: &CpuStorage,
        batch_layout: &Layout,
    ) -> Result<()> {
        let unbiased = self.rows as f32 / (self.rows as f32 - 1.0).max(1.0);
        let (running, batch) = (f32s_mut(running, running_layout)?, f32s(batch, batch_layout)?);
        let channels = running.len() / 2;
        for (index, (running, batch)) in running.iter_mut().zip(batch).enumerate() {
            let value = if index < channels { *batch } else { *batch * unbiased };
            *running += self.momentum * (value - *running);
        }
        Ok(())
    }
}
