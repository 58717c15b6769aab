//! The pairs at the end of epoch 0 that a run holds out, and the health measured on them.
//!
//! The rows that every epoch drops come first; where they are too few, the last batches of epoch 0
//! are held out as well, and its first batches are trained on a second time instead, so that no
//! epoch has fewer steps.

use super::config::{Hyperparameters, TrainConfig};
use super::health::Health;
use super::pipeline::Pipeline;
use crate::Result;
use crate::data::{Batch, Dataset, SourceImages, read_last_pairs};

/// Pairs that are held out at most, but for the rest of their batch.
const MOST_PAIRS: u64 = 512;

/// Of an epoch's pairs, one in so many is held out.
const EPOCH_PART: u64 = 25;

/// Pairs that are held out, and measured on, whatever part of the epoch and of the time they are…
const FEW_PAIRS: u64 = 16;

/// …but of the smallest datasets one in so many.
const SMALL_EPOCH_PART: u64 = 8;

/// With fewer pairs, or fewer steps an epoch, nothing is held out.
const LEAST_PAIRS: u64 = 8;
const LEAST_STEPS: u64 = 4;

/// Pairs that pass through the backbone at a time, and share their batch norms' statistics; fewer
/// with smaller batches. Not this process's part of a batch, as all numbers of processes measure
/// the same.
const PAIRS_AT_A_TIME: u64 = 64;

/// Fraction of a run's time that the measurements may take.
const TIME: f64 = 0.01;

/// Time of a training step for a pair, in forward passes of a pair through a backbone: one of the
/// target, one of the online network, and two for the gradients.
const STEP_PASSES: f64 = 4.0;

/// Steps after which health is measured beside the checkpoints, to see an early collapse.
const EARLY_STEPS: [u64; 3] = [50, 100, 200];

/// The number of pairs at the end of epoch 0 to hold out; 0 for too small a dataset.
pub(super) fn pairs_to_hold_out(rows: u64, options: &Hyperparameters) -> u64 {
    let (batch, step) = (options.batch_size as u64, options.pairs_per_step() as u64);
    let wanted =
        (rows / EPOCH_PART).max(FEW_PAIRS).min(rows / SMALL_EPOCH_PART).min(MOST_PAIRS);
    if rows / step < LEAST_STEPS || wanted < LEAST_PAIRS {
        return 0;
    }
    let dropped = rows % step;
    dropped + wanted.saturating_sub(dropped).div_ceil(batch) * batch
}

/// Batches at the end of epoch 0 that are held out, of `held_out` pairs in all.
pub(super) fn batches_held_out(held_out: u64, rows: u64, options: &Hyperparameters) -> u64 {
    let dropped = rows % options.pairs_per_step() as u64;
    held_out.saturating_sub(dropped) / options.batch_size as u64
}

/// Whether health is measured after a step that has no checkpoint.
pub(super) fn is_early(step: u64) -> bool {
    EARLY_STEPS.contains(&step)
}

/// The number of batches that are measured on, and the pairs of each: as many of those `held_out`
/// as take [`TIME`] of a schedule of `steps` steps, `steps_per_epoch` in each epoch.
fn sample(
    held_out: u64,
    [steps, steps_per_epoch]: [u64; 2],
    config: &TrainConfig,
) -> (usize, usize) {
    let early = EARLY_STEPS.iter().filter(|step| **step <= steps).count() as u64;
    let ends = if config.consume { steps / steps_per_epoch } else { 0 };
    let passes = 1 + early + steps.div_ceil(config.checkpoint_every) + ends;
    let pairs = config.hyperparameters.pairs_per_step() as f64;
    let in_time = TIME * STEP_PASSES * pairs * steps as f64 / passes as f64;
    let all = held_out.min(MOST_PAIRS).min((in_time as u64).max(FEW_PAIRS));
    let batches = all.div_ceil(PAIRS_AT_A_TIME.min(config.hyperparameters.batch_size as u64));
    (batches as usize, (all / batches) as usize)
}

/// Held-out pairs, decoded.
pub(super) struct HeldOut {
    batches: Vec<Batch>,
    channels: usize,
}

impl HeldOut {
    /// Reads the pairs to measure on, of those `held_out`, at least one, in a run with this many
    /// steps in all and in each epoch.
    ///
    /// # Errors
    /// If epoch 0 is not there any more, or the error of a shard or row.
    pub fn read(
        held_out: u64,
        steps: [u64; 2],
        config: &TrainConfig,
        dataset: &Dataset,
        sources: &SourceImages,
    ) -> Result<Self> {
        let (batches, pairs) = sample(held_out, steps, config);
        let mut batches = read_last_pairs(dataset, sources, batches, pairs)?;
        batches.retain(|batch| batch.matches > 0);
        Ok(Self { batches, channels: config.hyperparameters.arch.channels() })
    }

    /// The number of pairs and of their matched boxes.
    pub fn counts(&self) -> (usize, usize) {
        let pairs = self.batches.iter().map(Batch::pairs).sum();
        (pairs, self.batches.iter().map(|batch| batch.matches).sum())
    }

    /// The health of the online network after the last step, which must have ended; `None` where it
    /// cannot be told: see [`Health::of`].
    pub fn measure(&self, pipeline: &mut Pipeline) -> Result<Option<Health>> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for batch in &self.batches {
            let features = pipeline.box_features(batch)?;
            let (of_first, of_second) = features.split_at(features.len() / 2);
            first.extend(of_first);
            second.extend(of_second);
        }
        Ok(Health::of(&first, &second, self.channels)?)
    }
}
