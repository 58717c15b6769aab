//! Batch normalization in training mode, fused with what follows it in a ResNet: the addition of
//! the shortcut and ReLU.
//!
//! Maps are matrices of `rows` pixels by `C` channels, whatever their rank. Statistics are computed
//! apart, as a tensor `[2, C]` of means and biased variances, so that a device never has to report
//! them to the host, and so that several processes can combine theirs before they are applied.
//!
//! On the CPU sums over rows are made in pieces that never span two images, and the pieces are added
//! with twice float64's precision. So results do not depend on how the images are divided among
//! processes: what the order of the pieces changes lies far below the last bit of a float32.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::autograd::Op;
use super::cpu::{CHUNK, change, compute, compute_pieces, f32s};
use super::gpu::{Arg, Gpu, grid};
use crate::collective::Ranks;

/// ε of the variance, PyTorch's default.
pub const EPSILON: f32 = 1e-5;

/// Rows in a piece of work.
fn piece(channels: usize) -> usize {
    (CHUNK / channels).max(1)
}

/// Columns that one thread adds up at a time.
const COLUMNS: usize = 512;

/// Rows and channels of a map. A process without matched boxes has none of the heads' rows.
fn sizes(x: &Tensor) -> Result<(usize, usize)> {
    match x.dims().last() {
        Some(&channels) if channels > 0 => Ok((x.elem_count() / channels, channels)),
        _ => bail!("batch norm of a tensor of shape {:?}", x.dims()),
    }
}

/// The numbers of each piece over which a map is summed up: an image, or equal parts of a large one
/// and a smaller rest.
fn pieces(x: &Tensor) -> Result<Vec<usize>> {
    let (rows, c) = sizes(x)?;
    let image = (x.elem_count() / x.dims()[0].max(1)).max(1);
    let size = piece(c) * c;
    let of_image = || (0..image).step_by(size).map(|first| size.min(image - first));
    Ok((0..rows * c / image).flat_map(|_| of_image()).collect())
}

/// The pieces of `numbers`.
fn split<'a>(mut numbers: &'a [f32], sizes: &[usize]) -> Vec<&'a [f32]> {
    let mut next = |size: &usize| {
        let (piece, rest) = numbers.split_at(*size);
        numbers = rest;
        piece
    };
    sizes.iter().map(&mut next).collect()
}

/// The mean and the biased variance of each channel, `[2, C]`, and the number of rows that they are
/// of, on all `ranks` together.
///
/// Each piece of rows is reduced in two passes while it lies in the cache, so that a large mean
/// costs no precision. Pieces, and then ranks, are added with twice float64's precision.
pub fn batch_statistics(x: &Tensor, ranks: &Ranks) -> Result<(Tensor, usize)> {
    let (rows, c) = sizes(x)?;
    if let Some(gpu) = Gpu::of(x) {
        if !ranks.is_alone() {
            bail!("training on several GPUs is not supported yet");
        }
        return Ok((statistics_on(&gpu, x)?, rows));
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
    let statistics: Vec<f32> = mean.chain(variance).collect();
    Ok((Tensor::from_vec(statistics, (2, c), x.device())?, n as usize))
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

/// Sums of numbers with twice float64's precision: a sum and what rounding it left out (Knuth, The
/// Art of Computer Programming, volume 2, section 4.2.2, theorem B).
struct Sums {
    sums: Vec<f64>,
    rests: Vec<f64>,
}

impl Sums {
    /// The sums of `length` columns over `rows`.
    fn of<T: Copy + Into<f64> + Sync>(rows: &[impl AsRef<[T]> + Sync], length: usize) -> Self {
        let (mut sums, mut rests) = (vec![0.0; length], vec![0.0; length]);
        let blocks = sums.par_chunks_mut(COLUMNS).zip(rests.par_chunks_mut(COLUMNS));
        blocks.enumerate().for_each(|(block, (sums, rests))| {
            for row in rows {
                let row = &row.as_ref()[block * COLUMNS..][..sums.len()];
                vectorized!(add_exactly(sums, rests, row));
            }
        });
        Self { sums, rests }
    }

    /// The sums over all ranks.
    fn among(&self, ranks: &Ranks) -> Self {
        let length = self.sums.len();
        let all = ranks.gather(&[&self.sums[..], &self.rests].concat());
        Self::of(&all.chunks_exact(length).collect::<Vec<_>>(), length)
    }

    fn rounded(self) -> Vec<f64> {
        self.sums.into_iter().zip(self.rests).map(|(sum, rest)| sum + rest).collect()
    }
}

#[inline(always)]
fn add_exactly<T: Copy + Into<f64>>(sums: &mut [f64], rests: &mut [f64], numbers: &[T]) {
    for ((sum, rest), number) in sums.iter_mut().zip(rests).zip(numbers) {
        let number = (*number).into();
        let total = *sum + number;
        let of_number = total - *sum;
        *rest += (*sum - (total - of_number)) + (number - of_number);
        *sum = total;
    }
}

/// [`batch_statistics`] of the map of one GPU.
fn statistics_on(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let (rows, c) = sizes(x)?;
    let tiles = grid::Tiles::summed(rows, c, x.dtype())?;
    let statistics = gpu.empty((2, c), DType::F32)?;
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

/// Moves running mean and variance, `[C]` each, towards those of a batch of `rows` rows, whose
/// variance is made unbiased first, as in PyTorch.
pub fn update_running(
    [mean, variance]: [&Tensor; 2],
    statistics: &Tensor,
    rows: usize,
    momentum: f32,
) -> Result<()> {
    let c = statistics.dim(1)?;
    let unbiased = rows as f32 / (rows as f32 - 1.0).max(1.0);
    if let Some(gpu) = Gpu::of(statistics) {
        let tensors = [statistics, mean, variance].map(Arg::Tensor);
        let numbers = [Arg::int(c)?, Arg::Float(unbiased), Arg::Float(momentum)];
        let arguments: Vec<Arg> = tensors.into_iter().chain(numbers).collect();
        return gpu.launch("update_running", DType::F32, grid::line(c)?, &arguments);
    }
    let statistics = f32s(statistics)?;
    for (running, batch, factor) in
        [(mean, &statistics[..c], 1.0), (variance, &statistics[c..], unbiased)]
    {
        change(running, |running| {
            for (running, batch) in running.iter_mut().zip(batch) {
                *running += momentum * (*batch * factor - *running);
            }
        })?;
    }
    Ok(())
}

/// `y = (x − mean) / √(variance + ε) · weight + bias`, then the sum with a residual (as the fourth
/// input), then ReLU if `relu`. Inputs: the map `[…, C]`, weight and bias `[C]`, the residual like
/// the map.
#[derive(Debug)]
pub struct BatchNorm {
    /// The mean and variance `[2, C]` to normalize with: of this very batch ([`batch_statistics`]),
    /// which the gradient takes into account.
    pub statistics: Tensor,
    /// The rows of the batch on all ranks; not used where the statistics are running ones.
    pub rows: usize,
    /// The processes that share the batch.
    pub ranks: Ranks,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// Where the gradient of a result is passed on (`MASK_…` of `batch_norm.cuh`): everywhere, where
/// the ReLU that follows directly passed the value, or where a result that is given as a map is
/// positive.
const MASK_NONE: i32 = 0;
const MASK_OWN: i32 = 1;
const MASK_RESULT: i32 = 2;

/// Normalization and affine parameters as one factor and one summand for each channel.
struct Scale {
    factor: Vec<f32>,
    summand: Vec<f32>,
    inverse_deviation: Vec<f32>,
}

impl Scale {
    fn new(statistics: &[f32], weight: &[f32], bias: &[f32]) -> Self {
        let c = statistics.len() / 2;
        let (mean, variance) = statistics.split_at(c);
        let inverse_deviation: Vec<f32> =
            variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let factor: Vec<f32> = inverse_deviation.iter().zip(weight).map(|(d, w)| d * w).collect();
        let summand = (0..c).map(|i| bias[i] - mean[i] * factor[i]).collect();
        Self { factor, summand, inverse_deviation }
    }
}

/// The gradients of a batch norm's inputs; the residual's if there is one.
struct InputGradients {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Option<Tensor>,
}

impl BatchNorm {
    fn normalize(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (rows, c) = sizes(x)?;
        if [weight.dims(), bias.dims(), &self.statistics.dims()[1..]] != [&[c]; 3] {
            bail!("batch norm over {c} channels with parameters for {:?}", weight.dims());
        }
        if residual.is_some_and(|residual| residual.dims() != x.dims()) {
            bail!("the residual differs in shape from the map");
        }
        if let Some(gpu) = Gpu::of(x) {
            let y = gpu.empty(x.shape(), x.dtype())?;
            let tiles = grid::Tiles::mapped(rows, c, x.dtype())?;
            let [x_, statistics, weight, bias, y_] =
                [x, &self.statistics, weight, bias, &y].map(Arg::Tensor);
            let residual = residual.map_or(Arg::Null, Arg::Tensor);
            let [rows, channels, per_block] =
                [rows, c, tiles.rows_per_block].map(|size| Arg::Int(size as i32));
            let relu = Arg::Int(self.relu.into());
            let arguments =
                [x_, statistics, weight, bias, residual, y_, rows, channels, per_block, relu];
            gpu.launch("batch_norm", x.dtype(), tiles.grid, &arguments)?;
            return Ok(y);
        }
        let scale = Scale::new(&f32s(&self.statistics)?, &f32s(weight)?, &f32s(bias)?);
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let numbers = f32s(x)?;
        let residual = residual.map(f32s).transpose()?;
        let size = piece(c) * c;
        let work = |index, y: &mut [f32]| {
            let range = index * size..index * size + y.len();
            let x = &numbers[range.clone()];
            match &residual {
                None => vectorized!(scale_rows(y, x, &scale.factor, &scale.summand, floor)),
                Some(residual) => {
                    let r = &residual[range];
                    vectorized!(scale_and_add_rows(y, x, r, &scale.factor, &scale.summand, floor))
                }
            }
        };
        let (y, _) = compute(numbers.len(), size, work);
        Tensor::from_vec(y, x.shape(), x.device())
    }

    /// `dx = weight / σ · (dy − Σdy / n − x̂ · Σ(dy·x̂) / n)`, with dy the gradient before ReLU,
    /// which is the residual's gradient too.
    fn gradients(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        y: &Tensor,
        grad: &Tensor,
        has_residual: bool,
    ) -> Result<InputGradients> {
        match Gpu::of(x) {
            Some(gpu) => self.gradients_on(&gpu, [x, weight, bias], y, grad, has_residual),
            None => self.gradients_on_cpu([x, weight, bias], y, grad, has_residual),
        }
    }

    fn gradients_on_cpu(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        y: &Tensor,
        grad: &Tensor,
        has_residual: bool,
    ) -> Result<InputGradients> {
        let (_, c) = sizes(x)?;
        let device = x.device();
        let statistics = f32s(&self.statistics)?;
        let scale = Scale::new(&statistics, &f32s(weight)?, &f32s(bias)?);
        let (numbers, grad, size) = (f32s(x)?, f32s(grad)?, piece(c) * c);
        let pieces = pieces(x)?;
        // A residual's gradient is a tensor of its own. Without one, whether ReLU passed a value
        // costs less to compute again than to read.
        let (masked, sums) = if has_residual {
            let y = f32s(y)?;
            let [xs, ys, grads] = [&numbers, &y, &grad].map(|all| split(all, &pieces));
            let work = |index: usize, masked: &mut [f32]| {
                let (x, y, grad) = (xs[index], ys[index], grads[index]);
                match self.relu {
                    true => vectorized!(keep_where_positive(masked, y, grad)),
                    false => masked.copy_from_slice(grad),
                }
                vectorized!(centered_products::<false>(x, masked, &statistics, &scale))
            };
            let (masked, sums) = compute_pieces(pieces.clone(), work);
            (Some(masked), sums)
        } else {
            let [xs, grads] = [&numbers, &grad].map(|all| split(all, &pieces));
            let pieces = xs.into_par_iter().zip(grads);
            let work = |(x, grad): (&[f32], &[f32])| match self.relu {
                true => vectorized!(centered_products::<true>(x, grad, &statistics, &scale)),
                false => vectorized!(centered_products::<false>(x, grad, &statistics, &scale)),
            };
            (None, pieces.map(work).collect())
        };
        // The gradient of x is through the statistics of all ranks; those of weight and bias are
        // added up with all other gradients.
        let own = Sums::of(&sums, 2 * c);
        let all = own.among(&self.ranks);
        let (all_dweight, all_dbias) = affine_gradient(&all.rounded(), &statistics[c..]);
        let (dweight, dbias) = affine_gradient(&own.rounded(), &statistics[c..]);
        // dx = factor·dy + slope·x + offset, with x̂ = (x − mean)·inverse_deviation multiplied out.
        let n = self.rows as f32;
        let slope: Vec<f32> = (0..c)
            .map(|i| -scale.factor[i] * scale.inverse_deviation[i] * all_dweight[i] / n)
            .collect();
        let offset: Vec<f32> = (0..c)
            .map(|i| -scale.factor[i] * all_dbias[i] / n - slope[i] * statistics[i])
            .collect();
        let own_mask = self.relu && !has_residual;
        let work = |index, dx: &mut [f32]| {
            let range = index * size..index * size + dx.len();
            let dy = &masked.as_deref().unwrap_or(&grad)[range.clone()];
            let x = &numbers[range];
            match own_mask {
                true => vectorized!(combine_rows::<true>(dx, x, dy, &scale, &slope, &offset)),
                false => vectorized!(combine_rows::<false>(dx, x, dy, &scale, &slope, &offset)),
            }
        };
        let (dx, _) = compute(numbers.len(), size, work);
        Ok(InputGradients {
            x: Tensor::from_vec(dx, x.shape(), device)?,
            weight: Tensor::from_vec(dweight, c, device)?,
            bias: Tensor::from_vec(dbias, c, device)?,
            residual: masked
                .map(|masked| Tensor::from_vec(masked, x.shape(), device))
                .transpose()?,
        })
    }

    fn gradients_on(
        &self,
        gpu: &Gpu,
        [x, weight, bias]: [&Tensor; 3],
        y: &Tensor,
        grad: &Tensor,
        has_residual: bool,
    ) -> Result<InputGradients> {
        let (rows, c) = sizes(x)?;
        let dtype = x.dtype();
        let mask = match (self.relu, has_residual) {
            (false, _) => MASK_NONE,
            (true, false) => MASK_OWN,
            (true, true) => MASK_RESULT,
        };
        let tiles = grid::Tiles::summed(rows, c, dtype)?;
        let pieces = gpu.empty((tiles.count(), 2, c), DType::F32)?;
        let residual = if has_residual { Some(gpu.empty(x.shape(), dtype)?) } else { None };
        let [x_, dy, y, statistics, weight_, bias_] =
            [x, grad, y, &self.statistics, weight, bias].map(Arg::Tensor);
        let masked = residual.as_ref().map_or(Arg::Null, Arg::Tensor);
        let [rows_, channels, per_block] =
            [rows, c, tiles.rows_per_block].map(|size| Arg::Int(size as i32));
        let pieces_ = Arg::Tensor(&pieces);
        let given = [x_, dy, y, Arg::Int(mask), statistics, weight_, bias_];
        let arguments = [&given[..], &[pieces_, masked, rows_, channels, per_block]].concat();
        gpu.launch("batch_norm_sums", dtype, tiles.grid, &arguments)?;

        let (dweight, dbias) = (gpu.empty(c, DType::F32)?, gpu.empty(c, DType::F32)?);
        let coefficients = gpu.empty((2, c), DType::F32)?;
        let [to_weight, to_bias, coefficients_] =
            [&dweight, &dbias, &coefficients].map(Arg::Tensor);
        let given = [pieces_, Arg::int(tiles.count())?, statistics, weight_];
        let arguments =
            [&given[..], &[to_weight, to_bias, coefficients_, rows_, channels]].concat();
        gpu.launch("batch_norm_coefficients", dtype, grid::columns(c), &arguments)?;

        let dx = gpu.empty(x.shape(), dtype)?;
        let tiles = grid::Tiles::mapped(rows, c, dtype)?;
        // A residual's gradient is masked already.
        let (dy, mask) =
            residual.as_ref().map_or((dy, mask), |masked| (Arg::Tensor(masked), MASK_NONE));
        let given = [x_, dy, Arg::Int(mask), statistics, weight_, bias_, coefficients_];
        let arguments =
            [&given[..], &[Arg::Tensor(&dx), rows_, channels, Arg::int(tiles.rows_per_block)?]]
                .concat();
        gpu.launch("batch_norm_backward", dtype, tiles.grid, &arguments)?;
        Ok(InputGradients { x: dx, weight: dweight, bias: dbias, residual })
    }
}

impl Op<3> for BatchNorm {
    fn forward(&mut self, [x, weight, bias]: [&Tensor; 3]) -> Result<Tensor> {
        self.normalize(x, weight, bias, None)
    }

    fn backward(
        &self,
        inputs: [&Tensor; 3],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let InputGradients { x, weight, bias, .. } = self.gradients(inputs, y, grad, false)?;
        Ok([Some(x), Some(weight), Some(bias)])
    }
}

impl Op<4> for BatchNorm {
    fn forward(&mut self, [x, weight, bias, residual]: [&Tensor; 4]) -> Result<Tensor> {
        self.normalize(x, weight, bias, Some(residual))
    }

    fn backward(
        &self,
        [x, weight, bias, _]: [&Tensor; 4],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 4]> {
        let InputGradients { x, weight, bias, residual } =
            self.gradients([x, weight, bias], y, grad, true)?;
        Ok([Some(x), Some(weight), Some(bias), residual])
    }
}

/// The gradients of weight, Σ dy·x̂, and bias, Σ dy, from the sums of [`centered_products`].
fn affine_gradient(sums: &[f64], variance: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (products, plain) = sums.split_at(variance.len());
    let scaled = products.iter().zip(variance);
    let dweight =
        scaled.map(|(sum, variance)| (sum / f64::from(variance + EPSILON).sqrt()) as f32).collect();
    (dweight, plain.iter().map(|sum| *sum as f32).collect())
}

/// `y = x·factor + summand`, raised to `floor`. Not by `max`, which would turn NaN into the floor
/// and hide it.
#[inline(always)]
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
#[inline(always)]
fn scale_and_add_rows(
    y: &mut [f32],
    x: &[f32],
    r: &[f32],
    factor: &[f32],
    summand: &[f32],
    floor: f32,
) {
    let c = factor.len();
    for ((y, x), r) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(r.chunks_exact(c)) {
        for ((((y, x), r), f), s) in y.iter_mut().zip(x).zip(r).zip(factor).zip(summand) {
            let value = x * f + s + r;
            *y = if value < floor { floor } else { value };
        }
    }
}

#[inline(always)]
fn keep_where_positive(result: &mut [f32], y: &[f32], grad: &[f32]) {
    for ((result, y), grad) in result.iter_mut().zip(y).zip(grad) {
        *result = if *y > 0.0 { *grad } else { 0.0 };
    }
}

/// Σ (x − mean)·dy over the rows of a piece, then Σ dy. With `RELU`, dy is the gradient where the
/// normalized value is positive, without it the gradient as it is.
#[inline(always)]
fn centered_products<const RELU: bool>(
    x: &[f32],
    grad: &[f32],
    mean: &[f32],
    scale: &Scale,
) -> Vec<f32> {
    let c = scale.factor.len();
    let mut sums = vec![0.0; 2 * c];
    let (products, plain) = sums.split_at_mut(c);
    for (x, grad) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
        let sums = products.iter_mut().zip(plain.iter_mut());
        let terms = mean.iter().zip(&scale.factor).zip(&scale.summand);
        for (((x, grad), ((mean, f), s)), (product, plain)) in
            x.iter().zip(grad).zip(terms).zip(sums)
        {
            let dy = if !RELU || x * f + s > 0.0 { *grad } else { 0.0 };
            *product += (x - mean) * dy;
            *plain += dy;
        }
    }
    sums
}

/// `result = dy·factor + x·slope + offset`, with dy as in [`centered_products`].
#[inline(always)]
fn combine_rows<const RELU: bool>(
    result: &mut [f32],
    x: &[f32],
    grad: &[f32],
    scale: &Scale,
    slope: &[f32],
    offset: &[f32],
) {
    let c = slope.len();
    for ((result, x), grad) in
        result.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(grad.chunks_exact(c))
    {
        let terms = scale.factor.iter().zip(&scale.summand).zip(slope).zip(offset);
        for (((d, x), g), (((f, s), slope), o)) in result.iter_mut().zip(x).zip(grad).zip(terms) {
            let dy = if !RELU || x * f + s > 0.0 { *g } else { 0.0 };
            *d = dy * f + x * slope + o;
        }
    }
}
