//! Whether all ranks train the same model: compared before training and at each checkpoint.

use gemm_common::cache::CACHE_INFO;
use scrl_preprocess::simd;

use super::checkpoint::checkpoint_tensors;
use super::config::TrainConfig;
use super::learner::Learner;
use crate::collective::Ranks;
use crate::data::Dataset;
use crate::model::Parameter;
use crate::ops::gpu;
use crate::weights::checksum;
use crate::{Error, Result};

/// Compares what decides about the steps of a run that starts after `step`: options, shards,
/// weights, and what the bits of sums depend on.
///
/// # Errors
/// [`Error::Ranks`] with the first difference, on every rank.
pub(super) fn check(
    ranks: &Ranks,
    config: &TrainConfig,
    dataset: &Dataset,
    step: u64,
    learner: &Learner,
) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let options = config.hyperparameters.to_table();
    let mut lines: Vec<String> =
        options.iter().map(|(name, value)| format!("--{name} {value}")).collect();
    lines.extend([
        format!("--max-steps {:?}", config.max_steps),
        format!("--health {}", config.health),
        format!("--checkpoint-every {}", config.checkpoint_every),
        format!("--log-every {}", config.log_every),
        format!("--follow {}", config.follow),
        format!("--consume {}", config.consume),
        format!("{step} steps done"),
        format!("shards of {} rows an epoch", dataset.rows_per_epoch()),
        format!("weights with checksum {}", state_checksum(learner.state())?),
        gpu::model(learner.device())?.unwrap_or_else(processor),
        format!("version {}", env!("CARGO_PKG_VERSION")),
    ]);
    let manifest = dataset.manifest().to_toml();
    lines.extend(manifest.lines().map(|line| format!("shards with {line}")));
    compare(ranks, &lines.join("\n"), "all ranks of a run must have the same")
}

/// Compares the state after `step`.
///
/// # Errors
/// [`Error::Ranks`] if it differs, on every rank.
pub(super) fn check_state<'a>(
    ranks: &Ranks,
    step: u64,
    state: impl Iterator<Item = &'a Parameter>,
) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let text = format!("weights with checksum {} after step {step}", state_checksum(state)?);
    compare(ranks, &text, "a machine computes wrongly; resume from the last checkpoint without it")
}

/// Compares texts of as many lines each.
fn compare(ranks: &Ranks, text: &str, advice: &str) -> Result<()> {
    let texts = ranks.gather_texts(text);
    for (rank, other) in texts.iter().enumerate().skip(1) {
        let difference = texts[0].lines().zip(other.lines()).find(|(first, other)| first != other);
        if let Some((first, other)) = difference {
            return Err(Error::Ranks(format!(
                "rank 0 has {first}, rank {rank} has {other}; {advice}"
            )));
        }
    }
    Ok(())
}

fn state_checksum<'a>(state: impl Iterator<Item = &'a Parameter>) -> Result<String> {
    Ok(format!("{:08x}", checksum(&checkpoint_tensors(state)?)?))
}

/// What chooses the kernels of matrix products, and with the sizes of the caches the blocks in
/// which they add up.
fn processor() -> String {
    let caches = CACHE_INFO.map(|cache| format!("{} KiB", cache.cache_bytes / 1024));
    format!("a processor with {} and caches of {}", simd::level(), caches.join(", "))
}
