//! Principal components, computed in float64 and exactly: of the covariance matrix, whose leading
//! eigenvectors are found by orthogonal iteration.

use candle_core::{DType, Device, Tensor};

use crate::Result;

/// Rows whose products are added up at a time.
const ROWS: usize = 4096;

/// Vectors that are iterated besides those that are wanted, which speeds up the convergence.
const MORE: usize = 8;

/// Iterations at most; what has not converged then has nearly equal variances.
const ITERATIONS: usize = 500;

/// The iteration ends when no wanted axis turns by more: one minus the cosine.
const TURN: f64 = 1e-14;

/// The mean and the leading principal axes of some rows.
pub(super) struct Projection {
    mean: Vec<f32>,
    /// `[count, channels]`: unit vectors in descending order of variance, or zeros where the rows
    /// have no more directions. The component of the largest magnitude is positive.
    axes: Vec<f32>,
    channels: usize,
}

/// The leading `count` principal components of `rows` of `channels` elements, around their mean.
/// The same rows give the same bits.
pub(super) fn components(rows: &[f32], channels: usize, count: usize) -> Result<Projection> {
    let number = (rows.len() / channels).max(1);
    let mut sums = vec![0.0f64; channels];
    for row in rows.chunks_exact(channels) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / number as f64) as f32).collect();
    let covariance = covariance(rows, &mean)?;
    let mut axes = leading_axes(&covariance, channels, count)?;
    axes.resize(count * channels, 0.0);
    for axis in axes.chunks_exact_mut(channels) {
        let largest =
            axis.iter().copied().fold(0.0f64, |a, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            axis.iter_mut().for_each(|x| *x = -*x);
        }
    }
    let axes = axes.into_iter().map(|x| x as f32).collect();
    Ok(Projection { mean, axes, channels })
}

impl Projection {
    /// The components of rows: `[rows, count]`.
    pub fn project(&self, rows: &[f32]) -> Vec<f32> {
        let mut components = Vec::new();
        for row in rows.chunks_exact(self.channels) {
            components.extend(self.axes.chunks_exact(self.channels).map(|axis| {
                let centered = row.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x - *mean));
                centered.zip(axis).map(|(x, a)| x * f64::from(*a)).sum::<f64>() as f32
            }));
        }
        components
    }
}

/// The sums of products of centered channels, `[channels, channels]` in float64.
fn covariance(rows: &[f32], mean: &[f32]) -> Result<Tensor> {
    let channels = mean.len();
    let mean = Tensor::new(mean, &Device::Cpu)?.to_dtype(DType::F64)?;
    let mut sum = Tensor::zeros((channels, channels), DType::F64, &Device::Cpu)?;
    for block in rows.chunks(ROWS * channels) {
        let block = Tensor::from_slice(block, (block.len() / channels, channels), &Device::Cpu)?;
        let centered = block.to_dtype(DType::F64)?.broadcast_sub(&mean)?;
        sum = (sum + centered.t()?.matmul(&centered)?)?;
    }
    Ok(sum)
}

/// The eigenvectors of the largest eigenvalues, row by row; fewer where the matrix has a lower rank.
fn leading_axes(matrix: &Tensor, channels: usize, count: usize) -> Result<Vec<f64>> {
    let width = (count + MORE).min(channels);
    let wanted = count.min(channels);
    let mut axes = start(channels, width);
    orthonormalize(&mut axes, channels);
    for _ in 0..ITERATIONS {
        let vectors = Tensor::from_slice(&axes, (width, channels), &Device::Cpu)?;
        // The rows of a symmetric matrix are its columns.
        let mut images = vectors.matmul(matrix)?.flatten_all()?.to_vec1::<f64>()?;
        rotate(&axes, &mut images, channels);
        orthonormalize(&mut images, channels);
        let turn = axes
            .chunks_exact(channels)
            .zip(images.chunks_exact(channels))
            .take(wanted)
            .map(|(before, after)| 1.0 - dot(before, after).abs().min(1.0))
            // A vector of zeros does not turn.
            .zip(images.chunks_exact(channels).map(|axis| axis.iter().any(|x| *x != 0.0)))
            .map(|(turn, is_axis)| if is_axis { turn } else { 0.0 })
            .fold(0.0, f64::max);
        axes = images;
        if turn < TURN {
            break;
        }
    }
    axes.truncate(wanted * channels);
    Ok(axes)
}

/// Vectors to begin with: fixed values in no relation to the axes of any features.
fn start(channels: usize, width: usize) -> Vec<f64> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..channels * width).map(|_| next()).collect()
}

/// Replaces the images of orthonormal vectors by those of the best axes within their span, in
/// descending order (Rayleigh and Ritz): without that, axes of nearly equal variance turn slowly.
fn rotate(axes: &[f64], images: &mut [f64], channels: usize) {
    let size = axes.len() / channels;
    let mut small = vec![0.0; size * size];
    for (i, axis) in axes.chunks_exact(channels).enumerate() {
        for (j, image) in images.chunks_exact(channels).enumerate() {
            small[i * size + j] = dot(axis, image);
        }
    }
    let vectors = jacobi(small, size);
    let mut rotated = vec![0.0; images.len()];
    for (to, vector) in rotated.chunks_exact_mut(channels).zip(&vectors) {
        for (factor, image) in vector.iter().zip(images.chunks_exact(channels)) {
            to.iter_mut().zip(image).for_each(|(to, x)| *to += factor * x);
        }
    }
    images.copy_from_slice(&rotated);
}

/// The eigenvectors of a small symmetric matrix by descending eigenvalue, by Jacobi's rotations.
fn jacobi(mut a: Vec<f64>, n: usize) -> Vec<Vec<f64>> {
    /// Sweeps at most; ten are rarely needed.
    const SWEEPS: usize = 40;
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    for _ in 0..SWEEPS {
        let mut largest = 0.0f64;
        for p in 0..n {
            for q in p + 1..n {
                let off = (a[p * n + q] + a[q * n + p]) / 2.0;
                largest = largest.max(off.abs());
                if off.abs() <= f64::MIN_POSITIVE {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let (c, s) = (1.0 / t.hypot(1.0), t / t.hypot(1.0));
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (vectors[k * n + p], vectors[k * n + q]);
                    (vectors[k * n + p], vectors[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
        let scale = (0..n).map(|i| a[i * n + i].abs()).fold(0.0, f64::max);
        if largest <= scale * f64::EPSILON {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    order.into_iter().map(|i| (0..n).map(|k| vectors[k * n + i]).collect()).collect()
}

/// Makes the vectors orthonormal, one after the other; those that depend on the ones before become
/// zeros.
fn orthonormalize(vectors: &mut [f64], channels: usize) {
    /// The part of a vector that remains, below which only rounding is left.
    const REST: f64 = 1e-12;
    let longest = vectors.chunks_exact(channels).map(|v| dot(v, v).sqrt()).fold(0.0, f64::max);
    for number in 0..vectors.len() / channels {
        let (before, rest) = vectors.split_at_mut(number * channels);
        let vector = &mut rest[..channels];
        // The second time removes what rounding has left of the first.
        for _ in 0..2 {
            for axis in before.chunks_exact(channels) {
                let along = dot(axis, vector);
                vector.iter_mut().zip(axis).for_each(|(x, a)| *x -= along * a);
            }
        }
        let length = dot(vector, vector).sqrt();
        let factor = if length > longest * REST { 1.0 / length } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= factor);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_those_of_scikit_learn() {
        // scripts/make_goldens_features.py writes the file.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/pca.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let values = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let channels = golden["rows"].dim(1).unwrap();
        let (rows, expected) = (values("rows"), values("components"));
        let count = golden["components"].dim(1).unwrap();
        let found = components(&rows, channels, count).unwrap().project(&rows);
        let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let error =
            found.iter().zip(&expected).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
        assert!(error < 1e-5 * largest, "{error} of {largest}");
    }

    #[test]
    fn rows_of_few_directions_have_zeros_beyond() {
        let rows: Vec<f32> = (0..20).flat_map(|i| [i as f32, -2.0 * i as f32, 5.0]).collect();
        let found = components(&rows, 3, 4).unwrap().project(&rows);
        for (i, row) in found.chunks_exact(4).enumerate() {
            let along = -(i as f64 - 9.5) * 5f64.sqrt();
            assert!((f64::from(row[0]) - along).abs() < 1e-5, "{row:?}");
            assert!(row[1..].iter().all(|x| x.abs() < 1e-5), "{row:?}");
        }
        let equal = components(&[1.0; 12], 3, 3).unwrap().project(&[1.0; 12]);
        assert_eq!(equal, [0.0; 12]);
    }
}
