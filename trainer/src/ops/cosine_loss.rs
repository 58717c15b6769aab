//! ℓ(a, b) = 2 − 2·cos(a, b), summed over both directions and averaged over the matched boxes (Eq. 3).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::f32s;

/// Norms below this count as this, as in PyTorch's `normalize`.
const SMALLEST_NORM: f64 = 1e-12;

/// Predictions `[2R, D]` and targets `[2R, D]`, in both the R boxes of view 1 before those of view 2, give the scalar
/// Σ ℓ(q₁, z₂) + ℓ(q₂, z₁), divided by `boxes`. No gradient reaches the targets.
#[derive(Clone, Copy, Debug)]
pub struct CosineLoss {
    /// The matched boxes of the global batch; R if this process is alone.
    pub boxes: f64,
}

/// What the gradient needs of a pair of vectors.
struct Pair {
    prediction_norm: f64,
    target_norm: f64,
    cosine: f64,
}

impl Pair {
    fn new(prediction: &[f32], target: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let prediction_norm = dot(prediction, prediction).sqrt().max(SMALLEST_NORM);
        let target_norm = dot(target, target).sqrt().max(SMALLEST_NORM);
        let cosine = dot(prediction, target) / (prediction_norm * target_norm);
        Self { prediction_norm, target_norm, cosine }
    }
}

/// Each prediction with the target of the other view.
fn crossed<'a>(q: &'a [f32], z: &'a [f32], d: usize) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let (z1, z2) = z.split_at(z.len() / 2);
    q.chunks_exact(d).zip(z2.chunks_exact(d).chain(z1.chunks_exact(d)))
}

fn width(q: &Layout, z: &Layout) -> Result<usize> {
    match (q.dims(), z.dims()) {
        (&[rows, d], &[z_rows, z_d]) if rows == z_rows && d == z_d && rows % 2 == 0 => Ok(d),
        (q, z) => bail!("the loss takes predictions and targets [2R, D], got {q:?} and {z:?}"),
    }
}

impl CustomOp2 for CosineLoss {
    fn name(&self) -> &'static str {
        "cosine-loss"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        z: &CpuStorage,
        z_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let d = width(q_layout, z_layout)?;
        let (q, z) = (f32s(q, q_layout)?, f32s(z, z_layout)?);
        let sum: f64 = crossed(q, z, d).map(|(q, z)| 2.0 - 2.0 * Pair::new(q, z).cosine).sum();
        Ok((CpuStorage::F32(vec![(sum / self.boxes) as f32]), ().into()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        z: &Tensor,
        _loss: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = q.apply_op2_no_bwd(z, &CosineLossGradient(*self))?;
        Ok((Some(gradient.broadcast_mul(grad)?), None))
    }
}

/// (predictions, targets) → gradient of the predictions: −2/‖q‖ · (ẑ − q̂·cos) / boxes.
struct CosineLossGradient(CosineLoss);

impl CustomOp2 for CosineLossGradient {
    fn name(&self) -> &'static str {
        "cosine-loss-gradient"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        z: &CpuStorage,
        z_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let d = width(q_layout, z_layout)?;
        let (q, z) = (f32s(q, q_layout)?, f32s(z, z_layout)?);
        let mut gradient = Vec::with_capacity(q.len());
        for (q, z) in crossed(q, z, d) {
            let pair = Pair::new(q, z);
            let scale = -2.0 / (pair.prediction_norm * self.0.boxes);
            let (z_part, q_part) = (scale / pair.target_norm, scale * pair.cosine / pair.prediction_norm);
            gradient.extend(
                q.iter().zip(z).map(|(q, z)| (z_part * f64::from(*z) - q_part * f64::from(*q)) as f32),
            );
        }
        Ok((CpuStorage::F32(gradient), q_layout.shape().clone()))
    }
}
