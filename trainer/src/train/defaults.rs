//! The defaults that a preset sets, and those that depend on the shards.

use indicatif::HumanCount;
use serde::Deserialize;

use super::options::{Optimizer, Options, Preset, TargetInit};
use crate::data::Dataset;
use crate::error::refuse;
use crate::{Error, Result};

/// The values that a preset sets.
pub(super) struct PresetValues {
    pub optimizer: Optimizer,
    pub base_lr: f64,
    pub weight_decay: f64,
    pub tau: f64,
    pub target_init: TargetInit,
    pub warmup_epochs: u32,
}

/// The paper's section 4; the authors' code for 200 epochs has the same.
const PAPER: PresetValues = PresetValues {
    optimizer: Optimizer::Lars,
    base_lr: 0.45,
    weight_decay: 1e-6,
    tau: 0.97,
    target_init: TargetInit::Random,
    warmup_epochs: 10,
};

/// The authors' code for 1000 epochs.
const REFERENCE_1000: PresetValues =
    PresetValues { base_lr: 0.2, weight_decay: 1.5e-6, tau: 0.996, ..PAPER };

/// The result of the search in `docs/small-data.md`.
const SMALL: PresetValues = PresetValues {
    optimizer: Optimizer::Sgd,
    base_lr: 0.24,
    weight_decay: 5e-4,
    tau: 0.99,
    target_init: TargetInit::Online,
    warmup_epochs: 1,
};

/// Pairs of a schedule from which on `auto` takes the paper's preset.
const MANY_PAIRS: u64 = 1_000_000;

/// Pairs of a step from which on `auto` takes the paper's preset: LARS is made for large batches.
const LARGE_STEP: u64 = 512;

/// The largest batch that is chosen for a user.
const LARGEST_BATCH: u64 = 256;

/// Steps of an epoch that the chosen batch leaves.
const LEAST_STEPS: u64 = 8;

/// The smallest batch that is chosen: batch norm cannot normalize over a single view.
const SMALLEST_BATCH: usize = 2;

impl Preset {
    /// The preset that fits a schedule of so many pairs and a step of so many.
    fn fitting(scheduled_pairs: u64, pairs_per_step: u64) -> Self {
        match scheduled_pairs < MANY_PAIRS && pairs_per_step < LARGE_STEP {
            true => Self::Small,
            false => Self::Paper,
        }
    }

    pub(super) fn values(self) -> PresetValues {
        match self {
            Self::Small => SMALL,
            Self::Reference1000 => REFERENCE_1000,
            // A run is resolved to one of the others before `auto` is asked for values.
            Self::Paper | Self::Reference200 | Self::Auto => PAPER,
        }
    }
}

/// The pairs of a micro-batch where none are given: the largest power of two for each process that
/// leaves eight steps in an epoch of `rows`, up to 256 for all of them.
fn fitting_batch_size(rows: u64, accumulate: usize, processes: usize) -> usize {
    let leaving = rows / LEAST_STEPS.saturating_mul(accumulate as u64);
    let of_process = leaving.min(LARGEST_BATCH) / processes as u64;
    let power = of_process.checked_ilog2().map_or(1, |exponent| 1 << exponent);
    (processes * power).max(SMALLEST_BATCH)
}

/// The line about a batch that was chosen; none where it is the largest.
fn explain_batch_size(
    batch_size: usize,
    steps: u64,
    rows: u64,
    processes: usize,
) -> Option<String> {
    let each = match processes {
        1 => String::new(),
        count => format!(", {} pairs for each of {count} processes", batch_size / count),
    };
    (batch_size as u64 != LARGEST_BATCH).then(|| {
        format!(
            "batch size {batch_size}: an epoch of {} pairs has {} step{}{each}",
            HumanCount(rows),
            HumanCount(steps),
            if steps == 1 { "" } else { "s" }
        )
    })
}

/// The options whose defaults depend on the shards. A checkpoint records them, and a run that
/// resumes keeps them where none are given: the shards may have more epochs by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recorded {
    /// The preset.
    pub preset: Preset,
    /// Pairs of a micro-batch.
    pub batch_size: usize,
    /// Epochs of the schedule.
    pub epochs: u32,
}

/// Pairs of a schedule: an epoch is as many full steps as its rows make.
pub(super) fn scheduled_pairs(rows: u64, pairs_per_step: u64, epochs: u32) -> u64 {
    rows / pairs_per_step * pairs_per_step * u64::from(epochs)
}

/// The options whose defaults depend on the shards, resolved.
pub(super) struct Choice {
    pub recorded: Recorded,
    pub accumulate: usize,
    /// A line for each option that was not given.
    pub chosen: Vec<String>,
}

impl Choice {
    pub fn new(
        given: &Options,
        dataset: &Dataset,
        processes: usize,
        recorded: Option<Recorded>,
    ) -> Result<Self> {
        let rows = dataset.rows_per_epoch();
        if rows == 0 {
            let reason = "the shards have no rows: none of the images could be read, and \
                          sources.parquet has the reasons";
            return Err(Error::dataset(dataset.paths().root(), reason));
        }
        let accumulate = given.accumulate.unwrap_or(1);
        if accumulate == 0 {
            return refuse("accumulate", "must be at least 1");
        }
        let default = || fitting_batch_size(rows, accumulate, processes);
        let batch_size =
            given.batch_size.or(recorded.map(|run| run.batch_size)).unwrap_or_else(default);
        let pairs = check_step(rows, batch_size, accumulate, processes)?;
        let planned = dataset.manifest().epochs;
        // Shards of fewer epochs are others: the checkpoint is then refused.
        let begun = recorded.map(|run| run.epochs).filter(|&epochs| epochs <= planned);
        let epochs = given.epochs.or(begun).unwrap_or(planned);
        if epochs == 0 || epochs > planned {
            let reason = format!(
                "the folder has {planned} planned epochs; give at most as many, or plan more with \
                 scrl-prep --epochs"
            );
            return refuse("epochs", reason);
        }
        let scheduled = scheduled_pairs(rows, pairs, epochs);
        let mut chosen = Vec::new();
        let preset = match (given.preset.unwrap_or(Preset::Auto), recorded) {
            (Preset::Auto, Some(run)) => {
                chosen.push(format!("preset {}: the one with which the run began", run.preset));
                run.preset
            }
            (Preset::Auto, None) => {
                let preset = Preset::fitting(scheduled, pairs);
                let limits = match preset {
                    Preset::Small => String::new(),
                    _ => format!(
                        " (small is for less than {} and {LARGE_STEP})",
                        HumanCount(MANY_PAIRS)
                    ),
                };
                chosen.push(format!(
                    "preset {preset}: {} pairs in the schedule, {pairs} a step{limits}",
                    HumanCount(scheduled)
                ));
                preset
            }
            (given, _) => given,
        };
        if given.batch_size.is_none() && recorded.is_none() {
            chosen.extend(explain_batch_size(batch_size, rows / pairs, rows, processes));
        }
        if given.epochs.is_none() && epochs < planned {
            chosen.push(format!(
                "epochs {epochs}: the schedule with which the run began; the shards have {planned} \
                 planned, on which a run with another --out trains"
            ));
        }
        Ok(Self { recorded: Recorded { preset, batch_size, epochs }, accumulate, chosen })
    }
}

/// Pairs of a step, of which an epoch must have one.
fn check_step(rows: u64, batch_size: usize, accumulate: usize, processes: usize) -> Result<u64> {
    let pairs = (batch_size as u64).saturating_mul(accumulate as u64);
    if pairs == 0 {
        return refuse("batch-size", "a step needs at least one pair");
    }
    if pairs > rows {
        let most = rows / accumulate as u64 / processes as u64 * processes as u64;
        let advice = match (most, accumulate) {
            (0, 1) => "start fewer processes, or prepare more images".to_owned(),
            (0, _) => "choose a smaller --accumulate, or prepare more images".to_owned(),
            (most, 1) => format!("choose at most {most}, or prepare more images"),
            (most, _) => format!("choose at most {most}, or a smaller --accumulate"),
        };
        let reason = format!("{pairs} pairs a step, but an epoch has only {rows}; {advice}");
        return refuse("batch-size", reason);
    }
    if !batch_size.is_multiple_of(processes) {
        let reason = format!(
            "{batch_size} pairs cannot be divided among {processes} processes; choose a multiple, \
             or another number of processes"
        );
        return refuse("batch-size", reason);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_schedule_of_small_steps_is_small() {
        assert_eq!(Preset::fitting(999_999, 511), Preset::Small);
        assert_eq!(Preset::fitting(1_000_000, 511), Preset::Paper);
        assert_eq!(Preset::fitting(999_999, 512), Preset::Paper);
    }

    #[test]
    fn the_chosen_batch_leaves_eight_steps_and_is_divided_evenly() {
        for (rows, accumulate, processes, expected) in [
            (1_281_167, 1, 1, 256),
            (2048, 1, 1, 256),
            (2047, 1, 1, 128),
            (128, 1, 1, 16),
            (128, 4, 1, 4),
            (16, 1, 1, 2),
            // Too few for eight steps.
            (15, 1, 1, 2),
            (10, 1, 1, 2),
            (1, 1, 1, 2),
            (10, 1_000, 1, 2),
            (10, usize::MAX, 1, 2),
            // The same batch for every power of two that has a pair for each process.
            (128, 1, 2, 16),
            (128, 1, 16, 16),
            (128, 1, 32, 32),
            (1_281_167, 1, 8, 256),
            (1_281_167, 1, 3, 192),
            (1_281_167, 1, 1000, 1000),
        ] {
            assert_eq!(
                fitting_batch_size(rows, accumulate, processes),
                expected,
                "{rows} rows, {accumulate} micro-batches, {processes} processes"
            );
        }
    }
}
