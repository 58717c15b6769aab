//! The health of a network without labels, from its features of matched boxes.

use candle_core::{Device, Result, Tensor};

use super::eigenvalues::eigenvalues;

/// Boxes of each view whose features enter the effective rank at most: the time for the eigenvalues
/// grows with the third power.
const RANKED: usize = 512;

/// Boxes whose nearest ones are looked for at a time.
const QUERIES: usize = 512;

/// Lengths below this count as this.
const SMALLEST_LENGTH: f64 = 1e-12;

/// Two numbers about the features of matched boxes in two views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// How many directions the features use: the exponential of the entropy of the variances along
    /// their principal axes, each divided by the sum (Roy and Vetterli, The Effective Rank, 2007).
    /// 1 where all lie on a line.
    pub effective_rank: f64,
    /// The fraction of first views' boxes whose match is nearer, by cosine, than all other boxes of
    /// second views.
    pub box_retrieval: f64,
}

impl Health {
    /// From the features `[N, channels]` of boxes in first views and of their matches in second
    /// views. `None` for less than two boxes, or if a feature is NaN or infinite.
    pub(super) fn of(first: &[f32], second: &[f32], channels: usize) -> Result<Option<Self>> {
        let boxes = first.len() / channels;
        if boxes < 2 || first.iter().chain(second).any(|value| !value.is_finite()) {
            return Ok(None);
        }
        let tensor = |features: &[f32], boxes: usize| {
            Tensor::from_slice(&features[..boxes * channels], (boxes, channels), &Device::Cpu)?
                .to_dtype(candle_core::DType::F64)
        };
        let ranked = boxes.min(RANKED);
        let both = Tensor::cat(&[tensor(first, ranked)?, tensor(second, ranked)?], 0)?;
        Ok(Some(Self {
            effective_rank: effective_rank(&both)?,
            box_retrieval: box_retrieval(&tensor(first, boxes)?, &tensor(second, boxes)?)?,
        }))
    }
}

/// The effective rank of features `[N, C]`, float64, around their mean.
fn effective_rank(features: &Tensor) -> Result<f64> {
    let (rows, channels) = features.dims2()?;
    let centered = features.broadcast_sub(&features.mean_keepdim(0)?)?;
    // Both products have the same eigenvalues but for zeros.
    let product = match rows <= channels {
        true => centered.matmul(&centered.t()?)?,
        false => centered.t()?.matmul(&centered)?,
    };
    let size = rows.min(channels);
    // Rounding leaves some of the zeros below zero.
    let variances: Vec<f64> = eigenvalues(product.flatten_all()?.to_vec1()?, size)
        .into_iter()
        .filter(|variance| *variance > 0.0)
        .collect();
    let sum: f64 = variances.iter().sum();
    let entropy: f64 = variances.iter().map(|variance| variance / sum).map(|p| -p * p.ln()).sum();
    Ok(entropy.exp())
}

/// The fraction of rows of `first` whose nearest row of `second` is the one with the same number.
/// A tie is a miss: collapsed features are all as near.
fn box_retrieval(first: &Tensor, second: &Tensor) -> Result<f64> {
    let units = |features: &Tensor| {
        let lengths = features.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(SMALLEST_LENGTH)?;
        features.broadcast_div(&lengths)?.to_dtype(candle_core::DType::F32)
    };
    let (first, second) = (units(first)?, units(second)?.t()?);
    let boxes = first.dim(0)?;
    let mut found = 0;
    for start in (0..boxes).step_by(QUERIES) {
        let queries = first.narrow(0, start, QUERIES.min(boxes - start))?;
        let cosines = queries.matmul(&second)?.to_vec2::<f32>()?;
        found += cosines
            .iter()
            .enumerate()
            .filter(|(row, cosines)| {
                let number = start + row;
                let matching = cosines[number];
                let mut others = cosines.iter().enumerate().filter(|(other, _)| *other != number);
                others.all(|(_, cosine)| *cosine < matching)
            })
            .count();
    }
    Ok(found as f64 / boxes as f64)
}
