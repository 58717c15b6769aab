//! Batch normalization in training mode, fused with what follows it in a ResNet: the addition of
//! the shortcut and ReLU.
//!
//! Maps are matrices of `rows` pixels by `C` channels, whatever their rank. Statistics are computed
//! apart, as a tensor `[3, C]` of means, biased variances and the number of rows, so that a device
//! never has to report them to the host, and so that several processes can combine theirs before
//! they are applied.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::autograd::Op;
use super::cpu::{compute, compute_pieces, f32s};
use super::exact_sums::{Sums, piece, pieces, sizes, split};
use super::gpu::{Arg, Gpu, grid};
use crate::collective::Ranks;

/// ε of the variance, PyTorch's default.
pub const EPSILON: f32 = 1e-5;

/// `y = (x − mean) / √(variance + ε) · weight + bias`, then the sum with a residual (as the fourth
/// input), then ReLU if `relu`. Inputs: the map `[…, C]`, weight and bias `[C]`, the residual like
/// the map.
#[derive(Debug)]
pub struct BatchNorm {
    statistics: Tensor,
    ranks: Ranks,
    relu: bool,
    /// On a device, where the result of the sum with a residual is positive: a byte for each pack of
    /// it, a bit for each value. The backward pass reads an eighth of a byte for each value instead
    /// of a result of two or four.
    positive: Option<Tensor>,
}

/// Where the gradient of a result is passed on (`MASK_…` of `batch_norm.cuh`): everywhere, where
/// the ReLU that follows directly passed the value, or where there is a bit in
/// [`BatchNorm::positive`].
const MASK_NONE: i32 = 0;
const MASK_OWN: i32 = 1;
const MASK_BITS: i32 = 2;

/// Normalization and affine parameters as one factor and one summand for each channel.
struct Scale {
    factor: Vec<f32>,
    summand: Vec<f32>,
    inverse_deviation: Vec<f32>,
}

impl Scale {
    fn new(statistics: &[f32], weight: &[f32], bias: &[f32]) -> Self {
        let c = weight.len();
        let (mean, variance) = (&statistics[..c], &statistics[c..2 * c]);
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
    /// A batch norm of the batch of `ranks`, followed by ReLU if `relu`. The statistics `[3, C]` are
    /// the mean and variance to normalize with, and the number of rows that they are of: of this very
    /// batch ([`batch_statistics`](super::batch_statistics)), which the gradient takes into account,
    /// or running ones, of infinitely many.
    pub fn new(statistics: Tensor, ranks: Ranks, relu: bool) -> Self {
        Self { statistics, ranks, relu, positive: None }
    }

    fn normalize(
        &mut self,
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
            self.positive = match residual {
                Some(_) if self.relu => {
                    Some(gpu.empty(grid::packs(rows * c, c, x.dtype())?, DType::U8)?)
                }
                _ => None,
            };
            let [x_, statistics, weight, bias, y_] =
                [x, &self.statistics, weight, bias, &y].map(Arg::Tensor);
            let [residual, positive] = [residual, self.positive.as_ref()]
                .map(|given| given.map_or(Arg::Null, Arg::Tensor));
            let [rows, channels, per_block] =
                [rows, c, tiles.rows_per_block].map(|size| Arg::Int(size as i32));
            let numbers = [rows, channels, per_block, Arg::Int(self.relu.into())];
            let given = [x_, statistics, weight, bias, residual, y_, positive];
            gpu.launch("batch_norm", x.dtype(), tiles.grid, &[&given[..], &numbers].concat())?;
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
            Some(gpu) => self.gradients_on(&gpu, [x, weight, bias], grad, has_residual),
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
            let y = if self.relu { Some(f32s(y)?) } else { None };
            let [xs, grads] = [&numbers, &grad].map(|all| split(all, &pieces));
            let ys = y.as_ref().map(|y| split(y, &pieces));
            let work = |index: usize, masked: &mut [f32]| {
                let (x, grad) = (xs[index], grads[index]);
                match &ys {
                    Some(ys) => vectorized!(keep_where_positive(masked, ys[index], grad)),
                    None => masked.copy_from_slice(grad),
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
        let (variance, n) = (&statistics[c..2 * c], statistics[2 * c]);
        let (all_dweight, all_dbias) = affine_gradient(&all.rounded(), variance);
        let (dweight, dbias) = affine_gradient(&own.rounded(), variance);
        // dx = factor·dy + slope·x + offset, with x̂ = (x − mean)·inverse_deviation multiplied out.
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
        grad: &Tensor,
        has_residual: bool,
    ) -> Result<InputGradients> {
        let (rows, c) = sizes(x)?;
        let dtype = x.dtype();
        let mask = match (self.relu, has_residual) {
            (false, _) => MASK_NONE,
            (true, false) => MASK_OWN,
            (true, true) => MASK_BITS,
        };
        let tiles = grid::Tiles::summed(rows, c, dtype)?;
        let pieces = gpu.empty((tiles.count(), 2, c), DType::F32)?;
        let residual = if has_residual { Some(gpu.empty(x.shape(), dtype)?) } else { None };
        let [x_, dy, statistics, weight_, bias_] =
            [x, grad, &self.statistics, weight, bias].map(Arg::Tensor);
        let [positive, masked] =
            [&self.positive, &residual].map(|given| given.as_ref().map_or(Arg::Null, Arg::Tensor));
        let [rows_, channels, per_block] =
            [rows, c, tiles.rows_per_block].map(|size| Arg::Int(size as i32));
        let pieces_ = Arg::Tensor(&pieces);
        let given = [x_, dy, positive, Arg::Int(mask), statistics, weight_, bias_];
        let arguments = [&given[..], &[pieces_, masked, rows_, channels, per_block]].concat();
        gpu.launch("batch_norm_sums", dtype, tiles.grid, &arguments)?;

        let (dweight, dbias) = (gpu.empty(c, DType::F32)?, gpu.empty(c, DType::F32)?);
        let coefficients = gpu.empty((2, c), DType::F32)?;
        let [to_weight, to_bias, coefficients_] =
            [&dweight, &dbias, &coefficients].map(Arg::Tensor);
        let reduce = |pieces: &Tensor, results: [Arg; 4]| {
            let given = [Arg::Tensor(pieces), Arg::int(pieces.dim(0)?)?, statistics, weight_];
            let arguments = [&given[..], &results, &[channels]].concat();
            gpu.launch("batch_norm_coefficients", dtype, grid::columns(c), &arguments)
        };
        if self.ranks.is_alone() {
            reduce(&pieces, [to_weight, to_bias, Arg::Null, coefficients_])?;
        } else {
            // The gradient of x is through the statistics of all ranks; those of weight and bias
            // are added up with all other gradients.
            let own = gpu.empty((2, c), DType::F32)?;
            reduce(&pieces, [to_weight, to_bias, Arg::Tensor(&own), Arg::Null])?;
            let of_ranks = self.ranks.gather_on(gpu, &own)?;
            reduce(&of_ranks, [Arg::Null, Arg::Null, Arg::Null, coefficients_])?;
        }

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

    /// Whether ReLU passed a value is computed again.
    fn reads_output(&self) -> bool {
        false
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

    fn reads_input(&self, index: usize) -> bool {
        index < 3
    }

    /// Where ReLU passed a value is kept as bits on a device.
    fn reads_output(&self) -> bool {
        self.relu && self.positive.is_none()
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
