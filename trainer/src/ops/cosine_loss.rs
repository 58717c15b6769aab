//! ℓ(a, b) = 2 − 2·cos(a, b), summed over both directions and averaged over the matched boxes (Eq.
//! 3).

use candle_core::{DType, Result, Tensor, bail};

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};

/// Norms below this count as this, as in PyTorch's `normalize`.
const SMALLEST_NORM: f64 = 1e-12;

/// Predictions `[2R, D]` and targets `[2R, D]`, in both the R boxes of view 1 before those of view
/// 2, give the scalar Σ ℓ(q₁, z₂) + ℓ(q₂, z₁), divided by `boxes`. No gradient reaches the targets.
#[derive(Debug)]
pub struct CosineLoss {
    boxes: f64,
    /// The gradient of the predictions, which the device computes with the loss.
    gradient: Option<Tensor>,
}

impl CosineLoss {
    /// The mean over `boxes` matched boxes: those of the global batch; R if there is one process.
    pub fn new(boxes: usize) -> Self {
        Self { boxes: boxes as f64, gradient: None }
    }
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
fn crossed<'a>(
    q: &'a [f32],
    z: &'a [f32],
    d: usize,
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let (z1, z2) = z.split_at(z.len() / 2);
    q.chunks_exact(d).zip(z2.chunks_exact(d).chain(z1.chunks_exact(d)))
}

/// 2R and D.
fn sizes(q: &Tensor, z: &Tensor) -> Result<(usize, usize)> {
    match (q.dims(), z.dims()) {
        (&[rows, d], &[z_rows, z_d]) if rows == z_rows && d == z_d && rows % 2 == 0 => {
            Ok((rows, d))
        }
        (q, z) => bail!("the loss takes predictions and targets [2R, D], got {q:?} and {z:?}"),
    }
}

impl Op<2> for CosineLoss {
    fn forward(&mut self, [q, z]: [&Tensor; 2]) -> Result<Tensor> {
        let (rows, d) = sizes(q, z)?;
        if let Some(gpu) = Gpu::of(q) {
            let gradient = gpu.empty(q.shape(), q.dtype())?;
            let losses = gpu.empty(rows, DType::F64)?;
            let [of_q, of_z, gradient_, losses_] = [q, z, &gradient, &losses].map(Arg::Tensor);
            let arguments = [of_q, of_z, gradient_, losses_, Arg::int(d)?, Arg::Double(self.boxes)];
            gpu.launch("cosine_loss", q.dtype(), grid::blocks(rows)?, &arguments)?;
            self.gradient = Some(gradient);
            if rows == 0 {
                return Tensor::zeros((), DType::F32, q.device());
            }
            return losses.sum_all()?.to_dtype(DType::F32);
        }
        let (numbers, z) = (f32s(q)?, f32s(z)?);
        let sum: f64 =
            crossed(&numbers, &z, d).map(|(q, z)| 2.0 - 2.0 * Pair::new(q, z).cosine).sum();
        Tensor::new((sum / self.boxes) as f32, q.device())
    }

    /// Of the predictions: −2/‖q‖ · (ẑ − q̂·cos) / boxes.
    fn backward(
        &self,
        [q, z]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        if let Some(gradient) = &self.gradient {
            if q.elem_count() == 0 {
                return Ok([Some(gradient.clone()), None]);
            }
            return Ok([Some(gradient.broadcast_mul(&grad.to_dtype(q.dtype())?)?), None]);
        }
        let (_, d) = sizes(q, z)?;
        let (numbers, z) = (f32s(q)?, f32s(z)?);
        let mut gradient = Vec::with_capacity(numbers.len());
        for (q, z) in crossed(&numbers, &z, d) {
            let pair = Pair::new(q, z);
            let scale = -2.0 / (pair.prediction_norm * self.boxes);
            let (z_part, q_part) =
                (scale / pair.target_norm, scale * pair.cosine / pair.prediction_norm);
            let terms = q.iter().zip(z);
            gradient.extend(
                terms.map(|(q, z)| (z_part * f64::from(*z) - q_part * f64::from(*q)) as f32),
            );
        }
        let gradient = Tensor::from_vec(gradient, q.shape(), q.device())?;
        Ok([Some(gradient.broadcast_mul(grad)?), None])
    }
}
