//! Batch normalisation in training mode, fused with what follows it in a ResNet: the addition of the shortcut and ReLU.
//!
//! Maps are matrices of `rows` pixels by `C` channels, whatever their rank. Statistics are a tensor of their own,
//! `[2, C]`, so that a device never has to report them to the host, and so that several processes can combine theirs
//! between the two passes. The affine parameters are one tensor `[2, C]` too: weights, then biases.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{CHUNK, f32s};

/// ε of the variance, PyTorch's default.
pub const EPSILON: f32 = 1e-5;

/// Rows in a piece of work.
fn piece(channels: usize) -> usize {
    (CHUNK / channels).max(1)
}

fn channels(layout: &Layout) -> Result<usize> {
    match layout.dims().last() {
        Some(&channels) if channels > 0 => Ok(channels),
        _ => bail!("batch norm of a tensor of shape {:?}", layout.dims()),
    }
}

/// `[…, C]` → `[2, C]`: the mean and the biased variance of each channel.
///
/// Each piece of rows is reduced in two passes while it lies in the cache; the pieces are combined in float64 by Chan,
/// Golub and LeVeque's formula, so that a large mean costs no precision.
#[derive(Clone, Copy, Debug)]
pub struct BatchStatistics;

impl CustomOp1 for BatchStatistics {
    fn name(&self) -> &'static str {
        "batch-statistics"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let c = channels(layout)?;
        let x = f32s(x, layout)?;
        if x.is_empty() {
            bail!("batch norm of an empty batch");
        }
        let moments: Vec<Vec<f32>> = x.par_chunks(piece(c) * c).map(|x| moments(x, c)).collect();
        let (mut mean, mut m2, mut rows) = (vec![0.0f64; c], vec![0.0f64; c], 0.0f64);
        for (moments, piece) in moments.iter().zip(x.chunks(piece(c) * c)) {
            let n = (piece.len() / c) as f64;
            let total = rows + n;
            let (piece_mean, piece_m2) = moments.split_at(c);
            for i in 0..c {
                let delta = f64::from(piece_mean[i]) - mean[i];
                mean[i] += delta * n / total;
                m2[i] += f64::from(piece_m2[i]) + delta * delta * rows * n / total;
            }
            rows = total;
        }
        let variance = m2.into_iter().map(|m2| (m2 / rows) as f32);
        let statistics = mean.into_iter().map(|mean| mean as f32).chain(variance).collect();
        Ok((CpuStorage::F32(statistics), (2, c).into()))
    }
}

/// The mean of each channel over the rows of `x`, then the sum of squared differences from it. The second pass corrects
/// both for the rounding of the first one's mean.
#[multiversion(targets = "simd")]
fn moments(x: &[f32], c: usize) -> Vec<f32> {
    let mut sums = vec![0.0; 3 * c];
    let (mean, rest) = sums.split_at_mut(c);
    let (m2, drift) = rest.split_at_mut(c);
    for row in x.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    let rows = (x.len() / c) as f32;
    mean.iter_mut().for_each(|mean| *mean /= rows);
    for row in x.chunks_exact(c) {
        for (((m2, drift), x), mean) in m2.iter_mut().zip(drift.iter_mut()).zip(row).zip(&*mean) {
            let difference = x - mean;
            *m2 += difference * difference;
            *drift += difference;
        }
    }
    for ((mean, m2), drift) in mean.iter_mut().zip(m2).zip(drift) {
        *mean += *drift / rows;
        *m2 -= *drift * *drift / rows;
    }
    sums.truncate(2 * c);
    sums
}

/// `y = (x − mean) / √(variance + ε) · weight + bias`, then the sum with a residual (as the third argument), then ReLU
/// where asked for. Arguments: the map `[…, C]`, the affine parameters `[2, C]`, the residual like the map.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// The mean and variance to normalise with: of this very batch ([`BatchStatistics`]), which the gradient takes into
    /// account.
    pub statistics: Tensor,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// Normalisation and affine parameters as one factor and one summand for each channel.
struct Scale {
    factor: Vec<f32>,
    summand: Vec<f32>,
    inverse_deviation: Vec<f32>,
}

impl Scale {
    fn new(statistics: &[f32], affine: &[f32]) -> Self {
        let c = statistics.len() / 2;
        let (mean, variance) = statistics.split_at(c);
        let (weight, bias) = affine.split_at(c);
        let inverse_deviation: Vec<f32> =
            variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let factor: Vec<f32> = inverse_deviation.iter().zip(weight).map(|(d, w)| d * w).collect();
        let summand = (0..c).map(|i| bias[i] - mean[i] * factor[i]).collect();
        Self { factor, summand, inverse_deviation }
    }
}

impl BatchNorm {
    fn normalize(&self, x: &[f32], affine: &[f32], residual: Option<&[f32]>, c: usize) -> Result<Vec<f32>> {
        let (storage, layout) = self.statistics.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("statistics on another device") };
        let statistics = f32s(storage, layout)?;
        if statistics.len() != 2 * c || affine.len() != 2 * c {
            bail!("batch norm over {c} channels with parameters for {}", affine.len() / 2);
        }
        let scale = Scale::new(statistics, affine);
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let mut y = vec![0.0; x.len()];
        let size = piece(c) * c;
        match residual {
            None => y
                .par_chunks_mut(size)
                .zip(x.par_chunks(size))
                .for_each(|(y, x)| scale_rows(y, x, &scale.factor, &scale.summand, floor)),
            Some(residual) if residual.len() == x.len() => y
                .par_chunks_mut(size)
                .zip(x.par_chunks(size))
                .zip(residual.par_chunks(size))
                .for_each(|((y, x), r)| scale_and_add_rows(y, x, r, &scale.factor, &scale.summand, floor)),
            Some(_) => bail!("the residual differs in size from the map"),
        }
        Ok(y)
    }

    /// Gradients of the map and the affine parameters from that of `normalize`'s result before ReLU.
    fn map_gradient(&self, x: &Tensor, affine: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
        let statistics = self.statistics.clone();
        let sums = x.apply_op3_no_bwd(grad, &statistics, &AffineGradient)?;
        let op = MapGradient { statistics, affine: affine.clone() };
        Ok((x.apply_op3_no_bwd(grad, &sums, &op)?, sums))
    }
}

/// `y = x·factor + summand`, raised to `floor`. Not by `max`, which would turn NaN into the floor and hide it.
#[multiversion(targets = "simd")]
fn scale_rows(y: &mut [f32], x: &[f32], factor: &[f32], summand: &[f32], floor: f32) {
    let c = factor.len();
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for (((y, x), f), s) in y.iter_mut().zip(x).zip(factor).zip(summand) {
            let value = x * f + s;
            *y = if value < floor { floor } else { value };
        }
    }
}

/// `y = x·factor + summand + r`, raised to `floor`.
#[multiversion(targets = "simd")]
fn scale_and_add_rows(y: &mut [f32], x: &[f32], r: &[f32], factor: &[f32], summand: &[f32], floor: f32) {
    let c = factor.len();
    for ((y, x), r) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(r.chunks_exact(c)) {
        for ((((y, x), r), f), s) in y.iter_mut().zip(x).zip(r).zip(factor).zip(summand) {
            let value = x * f + s + r;
            *y = if value < floor { floor } else { value };
        }
    }
}

impl CustomOp2 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let c = channels(x_layout)?;
        let y = self.normalize(f32s(x, x_layout)?, f32s(affine, affine_layout)?, None, c)?;
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x_grad, affine_grad) = match self.relu {
            true => self.map_gradient(x, affine, &y.apply_op2_no_bwd(grad, &ReluGradient)?)?,
            false => self.map_gradient(x, affine, grad)?,
        };
        Ok((Some(x_grad), Some(affine_grad)))
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let c = channels(x_layout)?;
        let residual = f32s(residual, residual_layout)?;
        let y = self.normalize(f32s(x, x_layout)?, f32s(affine, affine_layout)?, Some(residual), c)?;
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        _residual: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // The gradient before ReLU is the residual's; it must be a tensor of its own even without ReLU.
        let residual_grad = match self.relu {
            true => y.apply_op2_no_bwd(grad, &ReluGradient)?,
            false => grad.copy()?,
        };
        let (x_grad, affine_grad) = self.map_gradient(x, affine, &residual_grad)?;
        Ok((Some(x_grad), Some(affine_grad), Some(residual_grad)))
    }
}

/// (result of ReLU, its gradient) → gradient of what went into ReLU: kept where the result is positive.
struct ReluGradient;

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu-gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, grad) = (f32s(y, y_layout)?, f32s(grad, grad_layout)?);
        let mut result = vec![0.0; y.len()];
        result
            .par_chunks_mut(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .zip(grad.par_chunks(CHUNK))
            .for_each(|((result, y), grad)| keep_where_positive(result, y, grad));
        Ok((CpuStorage::F32(result), y_layout.shape().clone()))
    }
}

#[multiversion(targets = "simd")]
fn keep_where_positive(result: &mut [f32], y: &[f32], grad: &[f32]) {
    for ((result, y), grad) in result.iter_mut().zip(y).zip(grad) {
        *result = if *y > 0.0 { *grad } else { 0.0 };
    }
}

/// (map, gradient of the result, statistics) → `[2, C]`: gradients of the weights, Σ dy·x̂, and of the biases, Σ dy.
struct AffineGradient;

impl CustomOp3 for AffineGradient {
    fn name(&self) -> &'static str {
        "batch-norm-affine-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let c = channels(x_layout)?;
        let size = piece(c) * c;
        let statistics = f32s(statistics, statistics_layout)?;
        let (mean, variance) = statistics.split_at(c);
        let (x, grad) = (f32s(x, x_layout)?, f32s(grad, grad_layout)?);
        let pieces: Vec<Vec<f32>> = x
            .par_chunks(size)
            .zip(grad.par_chunks(size))
            .map(|(x, grad)| centered_products(x, grad, mean))
            .collect();
        let mut sums = vec![0.0f64; 2 * c];
        for piece in pieces {
            sums.iter_mut().zip(piece).for_each(|(sum, value)| *sum += f64::from(value));
        }
        for (sum, variance) in sums.iter_mut().zip(variance) {
            *sum /= f64::from(variance + EPSILON).sqrt();
        }
        let sums = sums.into_iter().map(|sum| sum as f32).collect();
        Ok((CpuStorage::F32(sums), (2, c).into()))
    }
}

/// Σ (x − mean)·grad over the rows of a piece, then Σ grad.
#[multiversion(targets = "simd")]
fn centered_products(x: &[f32], grad: &[f32], mean: &[f32]) -> Vec<f32> {
    let c = mean.len();
    let mut sums = vec![0.0; 2 * c];
    let (products, plain) = sums.split_at_mut(c);
    for (x, grad) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
        let sums = products.iter_mut().zip(plain.iter_mut());
        for (((x, grad), mean), (product, plain)) in x.iter().zip(grad).zip(mean).zip(sums) {
            *product += (x - mean) * grad;
            *plain += grad;
        }
    }
    sums
}

/// (map, gradient of the result, [`AffineGradient`]) → gradient of the map:
/// `dx = weight / σ · (dy − Σdy / n − x̂ · Σ(dy·x̂) / n)`.
struct MapGradient {
    statistics: Tensor,
    affine: Tensor,
}

impl CustomOp3 for MapGradient {
    fn name(&self) -> &'static str {
        "batch-norm-map-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
        sums: &CpuStorage,
        sums_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let c = channels(x_layout)?;
        let (x, grad) = (f32s(x, x_layout)?, f32s(grad, grad_layout)?);
        let (weight_sums, bias_sums) = f32s(sums, sums_layout)?.split_at(c);
        let (statistics, affine) = (self.statistics.flatten_all()?, self.affine.flatten_all()?);
        let (statistics, affine) = (statistics.to_vec1::<f32>()?, affine.to_vec1::<f32>()?);
        let scale = Scale::new(&statistics, &affine);
        let n = (x.len() / c) as f32;
        // dx = factor·dy + slope·x + offset, with x̂ = (x − mean)·inverse_deviation multiplied out.
        let slope: Vec<f32> =
            (0..c).map(|i| -scale.factor[i] * scale.inverse_deviation[i] * weight_sums[i] / n).collect();
        let offset: Vec<f32> =
            (0..c).map(|i| -scale.factor[i] * bias_sums[i] / n - slope[i] * statistics[i]).collect();
        let mut result = vec![0.0; x.len()];
        let size = piece(c) * c;
        result
            .par_chunks_mut(size)
            .zip(x.par_chunks(size))
            .zip(grad.par_chunks(size))
            .for_each(|((result, x), grad)| combine_rows(result, x, grad, &scale.factor, &slope, &offset));
        Ok((CpuStorage::F32(result), x_layout.shape().clone()))
    }
}

/// `result = grad·factor + x·slope + offset`.
#[multiversion(targets = "simd")]
fn combine_rows(result: &mut [f32], x: &[f32], grad: &[f32], factor: &[f32], slope: &[f32], offset: &[f32]) {
    let c = factor.len();
    for ((result, x), grad) in result.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(grad.chunks_exact(c)) {
        let terms = factor.iter().zip(slope).zip(offset);
        for (((d, x), g), ((f, s), o)) in result.iter_mut().zip(x).zip(grad).zip(terms) {
            *d = g * f + x * s + o;
        }
    }
}
