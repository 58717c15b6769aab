//! The target network is an exponential moving average (EMA) of the online one: ξ ← τ ξ + (1 − τ)
//! θ.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::multi_tensor::{Update, ema};
use crate::model::Parameters;
use crate::ops::cpu::{CHUNK, change, f32s};
use crate::ops::gpu::Gpu;
use crate::ops::weight_copies::forget;

/// Moves `target` towards `online`, whose parameters begin with the same ones in the same order.
/// Running statistics are each network's own and do not take part. Nothing moves where `loss` is
/// given and NaN or infinite.
pub fn update_ema(
    target: &Parameters,
    online: &Parameters,
    tau: f64,
    loss: Option<&Tensor>,
) -> Result<()> {
    let pairs = || target.optimized().zip(online.optimized());
    let Some((first, _)) = pairs().next() else { return Ok(()) };
    if let Some(gpu) = Gpu::of(first.tensor()) {
        let updates: Vec<Update> = pairs()
            .map(|(target, online)| Update {
                parameter: target.tensor(),
                gradient: online.tensor(),
                velocity: None,
                decayed: false,
            })
            .collect();
        return ema(&gpu, &updates, loss, tau as f32);
    }
    if let Some(loss) = loss
        && !loss.to_scalar::<f32>()?.is_finite()
    {
        return Ok(());
    }
    for (target, online) in pairs() {
        let online = f32s(online.tensor())?;
        forget(target.tensor());
        change(target.tensor(), |target| {
            let chunks = target.par_chunks_mut(CHUNK).zip(online.par_chunks(CHUNK));
            chunks.for_each(|(target, online)| vectorized!(mix(target, online, tau as f32)));
        })?;
    }
    Ok(())
}

/// `target = keep·target + (1 − keep)·online`.
#[inline(always)]
fn mix(target: &mut [f32], online: &[f32], keep: f32) {
    for (t, o) in target.iter_mut().zip(online) {
        *t = keep * *t + (1.0 - keep) * o;
    }
}
