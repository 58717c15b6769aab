//! The pairs at the end of epoch 0 that a run holds out, and the health measured on them.
//!
//! The rows that every epoch drops come first; where they are too few, the last batches of epoch 0
//! are held out as well, and its first batches are trained on a second time instead, so that no
//! epoch has fewer steps.

use super::config::Hyperparameters;
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

/// The pairs at the end of epoch 0 to hold out, for steps of `accumulate` batches of `batch` pairs;
/// 0 for too small a dataset.
pub(super) fn pairs_to_hold_out(rows: u64, batch: u64, accumulate: u64) -> u64 {
    let step = batch * accumulate;
    let wanted = (rows / EPOCH_PART).max(FEW_PAIRS).min(rows / SMALL_EPOCH_PART).min(MOST_PAIRS);
    if rows / step < LEAST_STEPS || wanted < LEAST_PAIRS {
        return 0;
    }
    let dropped = rows % step;
    dropped + wanted.saturating_sub(dropped).div_ceil(batch) * batch
}

/// The batches among `held_out` pairs: without those that every epoch drops.
pub(super) fn batches_held_out(held_out: u64, rows: u64, batch: u64, accumulate: u64) -> u64 {
    held_out.saturating_sub(rows % (batch * accumulate)) / batch
}

/// Whether health is measured after a step that has no checkpoint.
pub(super) fn is_early(step: u64) -> bool {
    EARLY_STEPS.contains(&step)
}

/// When a run measures its health.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    /// Steps of the schedule.
    pub steps: u64,
    /// Pairs of a step.
    pub pairs: u64,
    /// Steps between checkpoints, on average.
    pub checkpoint_every: f64,
}

/// The number of batches that are measured on, and the pairs of each: as many of those `held_out`
/// as take [`TIME`] of the schedule.
fn sample(held_out: u64, batch: u64, schedule: Schedule) -> (usize, usize) {
    let Schedule { steps, pairs, checkpoint_every } = schedule;
    let early = EARLY_STEPS.iter().filter(|step| **step <= steps).count() as f64;
    let measurements = 1.0 + early + (steps as f64 / checkpoint_every).ceil();
    let in_time = TIME * STEP_PASSES * (pairs * steps) as f64 / measurements;
    let all = held_out.min(MOST_PAIRS).min((in_time as u64).max(FEW_PAIRS));
    let batches = all.div_ceil(PAIRS_AT_A_TIME.min(batch));
    (batches as usize, (all / batches) as usize)
}

/// Held-out pairs, decoded.
pub(super) struct HeldOut {
    batches: Vec<Batch>,
    channels: usize,
}

impl HeldOut {
    /// Reads the pairs to measure on, of those `held_out`, at least one.
    ///
    /// # Errors
    /// If epoch 0 is not there any more, or the error of a shard or row.
    pub fn read(
        held_out: u64,
        schedule: Schedule,
        options: &Hyperparameters,
        dataset: &Dataset,
        sources: &SourceImages,
    ) -> Result<Self> {
        let (batches, pairs) = sample(held_out, options.batch_size as u64, schedule);
        let mut batches = read_last_pairs(dataset, sources, batches, pairs)?;
        batches.retain(|batch| batch.matches > 0);
        Ok(Self { batches, channels: options.arch.channels() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_an_epoch_is_held_out_in_whole_batches() {
        for (rows, batch, accumulate, pairs, batches) in [
            // Too few pairs or steps.
            (63, 4, 1, 0, 0),
            (64, 17, 1, 0, 0),
            (0, 2, 1, 0, 0),
            // One in eight, at least; from 400 pairs on one in 25.
            (64, 16, 1, 16, 1),
            (130, 4, 1, 18, 4),
            (3695, 32, 1, 175, 5),
            // The pairs that every epoch drops are enough.
            (127, 20, 1, 27, 1),
            (139, 20, 1, 19, 0),
            (1_281_167, 256, 1, 655, 2),
            (1_281_167, 4096, 1, 3_215, 0),
            // Micro-batches are held out, not entire steps.
            (1_281_167, 64, 64, 3_215, 0),
            (1_280_000, 64, 4, 512, 8),
        ] {
            let found = pairs_to_hold_out(rows, batch, accumulate);
            let name = format!("{rows} rows, {accumulate} × {batch}");
            assert_eq!(found, pairs, "{name}");
            assert_eq!(batches_held_out(found, rows, batch, accumulate), batches, "{name}");
            assert!(batches <= rows / (batch * accumulate) * accumulate / 2, "{name}");
        }
    }

    #[test]
    fn the_sample_takes_one_percent_of_the_time() {
        let schedule = |steps, pairs, checkpoint_every| Schedule { steps, pairs, checkpoint_every };
        for (held_out, batch, schedule, expected) in [
            // Long runs measure on all.
            (655, 256, schedule(5004 * 100, 256, 5004.0), (8, 64)),
            (175, 32, schedule(115 * 100, 32, 115.0), (5, 28)),
            // 11 measurements take as long as 8 of 805 steps.
            (175, 32, schedule(805, 32, 115.0), (3, 31)),
            // Some pairs, however short the run.
            (16, 16, schedule(8, 16, 4.0), (1, 16)),
            (19, 20, schedule(6, 20, 1.0), (1, 16)),
            (8, 2, schedule(64, 2, 32.0), (4, 2)),
        ] {
            assert_eq!(sample(held_out, batch, schedule), expected, "{held_out}, {batch}");
        }
    }
}
