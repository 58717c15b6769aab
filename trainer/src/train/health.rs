//! The health of a network without labels, from its features of matched boxes.

use std::fmt;

use candle_core::{DType, Device, Result, Tensor};

use super::eigenvalues::eigenvalues;

/// Boxes of each view whose features enter the effective rank at most: the time for the eigenvalues
/// grows with the third power.
const RANKED: usize = 512;

/// Boxes whose nearest ones are looked for at a time.
const QUERIES: usize = 512;

/// Lengths below this count as this.
const SMALLEST_LENGTH: f64 = 1e-12;

/// Variances of less than this part of the features' mean square are float32's rounding.
const ROUNDING: f64 = 1e-12;

/// Two numbers about the features of matched boxes in two views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Health {
    /// The number of matched boxes.
    pub boxes: usize,
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
    pub fn of(first: &[f32], second: &[f32], channels: usize) -> Result<Option<Self>> {
        let boxes = first.len() / channels;
        if boxes < 2 || first.iter().chain(second).any(|value| !value.is_finite()) {
            return Ok(None);
        }
        let tensor = |features: &[f32], boxes: usize| {
            Tensor::from_slice(&features[..boxes * channels], (boxes, channels), &Device::Cpu)?
                .to_dtype(DType::F64)
        };
        let ranked = boxes.min(RANKED);
        let both = Tensor::cat(&[tensor(first, ranked)?, tensor(second, ranked)?], 0)?;
        Ok(Some(Self {
            boxes,
            effective_rank: effective_rank(&both)?,
            box_retrieval: box_retrieval(&tensor(first, boxes)?, &tensor(second, boxes)?)?,
        }))
    }
}

/// Such as `effective rank 41.2, box retrieval 63.1 %`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effective_rank, box_retrieval, .. } = self;
        write!(
            f,
            "effective rank {effective_rank:.1}, box retrieval {:.1} %",
            100.0 * box_retrieval
        )
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
    if sum <= ROUNDING * features.sqr()?.sum_all()?.to_scalar::<f64>()? {
        return Ok(1.0);
    }
    let entropy: f64 = variances.iter().map(|variance| variance / sum).map(|p| -p * p.ln()).sum();
    Ok(entropy.exp())
}

/// The fraction of rows of `first` whose nearest row of `second` is the one with the same number.
/// A tie is a miss: collapsed features are all as near.
fn box_retrieval(first: &Tensor, second: &Tensor) -> Result<f64> {
    let units = |features: &Tensor| {
        let lengths = features.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(SMALLEST_LENGTH)?;
        features.broadcast_div(&lengths)?.to_dtype(DType::F32)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest relative difference from PyTorch's effective rank, which is rounded to float32.
    const RANK_TOLERANCE: f64 = 1e-7;

    #[test]
    fn the_numbers_are_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/health.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        for case in ["tall", "wide", "narrow"] {
            let tensor = |name: &str| &golden[&format!("{case}.{name}")];
            let values = |name: &str| tensor(name).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let number = |name: &str| values(name)[0];
            let channels = tensor("first").dim(1).unwrap();
            let found = Health::of(&values("first"), &values("second"), channels).unwrap().unwrap();
            let expected = f64::from(number("effective_rank"));
            let error = (found.effective_rank / expected - 1.0).abs();
            assert!(error < RANK_TOLERANCE, "{case}: {found:?}, {expected}");
            assert_eq!(found.box_retrieval as f32, number("box_retrieval"), "{case}");
            assert!(found.box_retrieval > 0.0 && found.box_retrieval < 1.0, "{case}");
        }
    }

    #[test]
    fn collapsed_features_have_one_direction_and_find_nothing() {
        let same = [0.5f32; 40];
        let collapsed = Health::of(&same, &same, 4).unwrap().unwrap();
        assert_eq!(collapsed, Health { boxes: 10, effective_rank: 1.0, box_retrieval: 0.0 });
        let rounded: Vec<f32> = (0..40).map(|i| 0.5 + f32::EPSILON * (i % 3) as f32).collect();
        assert_eq!(Health::of(&rounded, &rounded, 4).unwrap().unwrap().effective_rank, 1.0);
        let zero = Health::of(&[0.0; 40], &[0.0; 40], 4).unwrap().unwrap();
        assert_eq!(zero, collapsed);
    }

    #[test]
    fn equal_directions_count_each_and_views_alike_find_all() {
        // Boxes on both sides of the origin along each of six axes.
        let mut features = vec![0.0f32; 12 * 6];
        (0..12).for_each(|row| features[row * 6 + row / 2] = if row % 2 == 0 { 1.0 } else { -1.0 });
        let health = Health::of(&features, &features, 6).unwrap().unwrap();
        assert!((health.effective_rank - 6.0).abs() < 1e-12, "{health:?}");
        assert_eq!(health.box_retrieval, 1.0);
    }

    #[test]
    fn nothing_is_told_of_one_box_or_of_nan() {
        assert_eq!(Health::of(&[1.0, 2.0], &[1.0, 2.0], 2).unwrap(), None);
        assert_eq!(Health::of(&[], &[], 2).unwrap(), None);
        assert_eq!(Health::of(&[1.0, f32::NAN], &[1.0, 2.0], 1).unwrap(), None);
    }
}
