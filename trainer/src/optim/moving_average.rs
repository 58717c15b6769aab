//! The target network's parameters follow the online ones: ξ ← τ ξ + (1 − τ) θ.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::model::Parameters;
use crate::ops::{CHUNK, f32s, f32s_mut};

/// Moves `target` towards `online`, whose parameters begin with the same ones in the same order. Running statistics are
/// each network's own and do not take part.
pub fn follow(target: &Parameters, online: &Parameters, tau: f64) -> Result<()> {
    for (target, online) in target.optimized().zip(online.optimized()) {
        target.tensor.inplace_op2(&online.tensor, &Follow { tau: tau as f32 })?;
    }
    Ok(())
}

struct Follow {
    tau: f32,
}

impl InplaceOp2 for Follow {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        online: &CpuStorage,
        online_layout: &Layout,
    ) -> Result<()> {
        let (target, online) = (f32s_mut(target, target_layout)?, f32s(online, online_layout)?);
        target
            .par_chunks_mut(CHUNK)
            .zip(online.par_chunks(CHUNK))
            .for_each(|(target, online)| mix(target, online, self.tau));
        Ok(())
    }
}

/// `target = keep·target + (1 − keep)·online`.
#[multiversion(targets = "simd")]
fn mix(target: &mut [f32], online: &[f32], keep: f32) {
    for (t, o) in target.iter_mut().zip(online) {
        *t = keep * *t + (1.0 - keep) * o;
    }
}
