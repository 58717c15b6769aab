//! How much directions differ: what falls to zero when a network comes to answer everything alike.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use super::f32s;

/// Norms below this count as this, as in the loss.
const SMALLEST_NORM: f64 = 1e-12;

/// Vectors `[R, D]`, scaled to length 1, give the scalar mean over the D dimensions of their standard deviation over
/// the R vectors: about 1/√D where they point everywhere, 0 where they are all the same (Chen and He, Exploring Simple
/// Siamese Representation Learning, 2021, section 4.1).
#[derive(Clone, Copy, Debug)]
pub struct UnitSpread;

impl CustomOp1 for UnitSpread {
    fn name(&self) -> &'static str {
        "unit-spread"
    }

    fn cpu_fwd(&self, vectors: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, d) = layout.shape().dims2()?;
        let vectors = f32s(vectors, layout)?;
        let units = || {
            vectors.chunks_exact(d).map(|vector| {
                let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                let length = square.sqrt().max(SMALLEST_NORM);
                vector.iter().map(move |x| f64::from(*x) / length)
            })
        };
        let mut means = vec![0.0f64; d];
        for unit in units() {
            means.iter_mut().zip(unit).for_each(|(mean, x)| *mean += x / rows as f64);
        }
        let mut variances = vec![0.0f64; d];
        for unit in units() {
            let deviations = unit.zip(&means).map(|(x, mean)| x - mean);
            variances.iter_mut().zip(deviations).for_each(|(sum, x)| *sum += x * x / rows as f64);
        }
        let mean = variances.into_iter().map(f64::sqrt).sum::<f64>() / d as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), ().into()))
    }
}
