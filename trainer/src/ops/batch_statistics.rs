//! The mean and variance of each channel over a batch, and the running ones.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::cpu::{change, f32s};
use super::exact_sums::{Sums, pieces, sizes, split};
use super::gpu::{Arg, Gpu, grid};
use crate::collective::Ranks;

/// The mean and the biased variance of each channel and the number of rows that they are of, on all
/// `ranks` together: `[3, C]`.
///
/// Each piece of rows is reduced in two passes while it lies in the cache, so that a large mean
/// costs no precision. Pieces, and then ranks, are added with twice float64's precision, on a device
/// in float64.
pub fn batch_statistics(x: &Tensor, ranks: &Ranks) -> Result<Tensor> {
    let (_, c) = sizes(x)?;
    if let Some(gpu) = Gpu::of(x) {
        let own = statistics_on(&gpu, x)?;
        return if ranks.is_alone() { Ok(own) } else { join_on(&gpu, &own, ranks) };
    }
    let numbers = f32s(x)?;
    let pieces = split(&numbers, &pieces(x)?);
    let sums: Vec<Vec<f64>> = pieces.par_iter().map(|x| vectorized!(sums(x, c))).collect();
    let sums = Sums::of(&sums, 2 * c + 1).among(ranks).rounded();
    let n = sums[2 * c];
    if n == 0.0 {
        bail!("batch norm of no rows");
    }
    let (plain, squares) = sums[..2 * c].split_at(c);
    let mean = plain.iter().map(|sum| (sum / n) as f32);
    let variance = plain.iter().zip(squares).map(|(sum, squares)| {
        let variance = (squares - sum * (sum / n)) / n;
        if variance < 0.0 { 0.0 } else { variance as f32 }
    });
    let statistics: Vec<f32> =
        mean.chain(variance).chain(std::iter::repeat_n(n as f32, c)).collect();
    Tensor::from_vec(statistics, (3, c), x.device())
}

/// Of the rows of `x`: for each channel the sum, then the sum of squares, then the number of rows.
/// The squares hold all bits of the differences from the mean, since float64 has room for a mean of
/// ten thousand standard deviations.
#[inline(always)]
fn sums(x: &[f32], c: usize) -> Vec<f64> {
    let moments = moments(x, c);
    let (mean, m2) = moments.split_at(c);
    let n = (x.len() / c) as f64;
    let mut sums = vec![n; 2 * c + 1];
    let (plain, squares) = sums[..2 * c].split_at_mut(c);
    for (((plain, square), mean), m2) in plain.iter_mut().zip(squares).zip(mean).zip(m2) {
        let mean = f64::from(*mean);
        (*plain, *square) = (n * mean, f64::from(*m2) + n * mean * mean);
    }
    sums
}

/// [`batch_statistics`] of the map of one GPU; zeros of a map without rows.
fn statistics_on(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let (rows, c) = sizes(x)?;
    let tiles = grid::Tiles::summed(rows, c, x.dtype())?;
    let statistics = gpu.empty((3, c), DType::F32)?;
    let pieces = gpu.empty((tiles.count(), 2, c), DType::F32)?;
    let [count, rows, channels, per_block] =
        [tiles.count(), rows, c, tiles.rows_per_block].map(|size| Arg::Int(size as i32));
    let arguments = [Arg::Tensor(x), Arg::Tensor(&pieces), rows, channels, per_block];
    gpu.launch("batch_moments", x.dtype(), tiles.grid, &arguments)?;
    let arguments =
        [Arg::Tensor(&pieces), count, Arg::Tensor(&statistics), rows, channels, per_block];
    gpu.launch("batch_statistics", x.dtype(), grid::columns(c), &arguments)?;
    Ok(statistics)
}

/// [`batch_statistics`] of all `ranks` from those of this one's rows.
fn join_on(gpu: &Gpu, own: &Tensor, ranks: &Ranks) -> Result<Tensor> {
    let (_, c) = own.dims2()?;
    let of_ranks = ranks.gather_on(gpu, own)?;
    let statistics = gpu.empty((3, c), DType::F32)?;
    let arguments =
        [Arg::Tensor(&of_ranks), Arg::int(ranks.size())?, Arg::Tensor(&statistics), Arg::int(c)?];
    gpu.launch("join_statistics", DType::F32, grid::line(c)?, &arguments)?;
    Ok(statistics)
}

/// The mean of each channel over the rows of `x`, then the sum of squared differences from it. The
/// second pass corrects both for the rounding of the first one's mean.
#[inline(always)]
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

/// Moves running mean and variance, `[C]` each, towards those of a batch, `[3, C]`, whose variance is
/// made unbiased first, as in PyTorch.
pub fn update_running(
    [mean, variance]: [&Tensor; 2],
    statistics: &Tensor,
    momentum: f32,
) -> Result<()> {
    let c = statistics.dim(1)?;
    if let Some(gpu) = Gpu::of(statistics) {
        let tensors = [statistics, mean, variance].map(Arg::Tensor);
        let numbers = [Arg::int(c)?, Arg::Float(momentum)];
        let arguments: Vec<Arg> = tensors.into_iter().chain(numbers).collect();
        return gpu.launch("update_running", DType::F32, grid::line(c)?, &arguments);
    }
    let statistics = f32s(statistics)?;
    let (means, rest) = statistics.split_at(c);
    let (variances, rows) = rest.split_at(c);
    let unbiased = rows[0] / (rows[0] - 1.0).max(1.0);
    for (running, batch, factor) in [(mean, means, 1.0), (variance, variances, unbiased)] {
        change(running, |running| {
            for (running, batch) in running.iter_mut().zip(batch) {
                *running += momentum * (*batch * factor - *running);
            }
        })?;
    }
    Ok(())
}
