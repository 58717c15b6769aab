//! The fully connected layer.

use candle_core::{DType, Result, Tensor, bail};
use gemm::Parallelism;

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};
use super::matrix::{Matrix, Store, multiply};
use super::weight_copies::weight_as;

/// `[R, I]` with a weight `[O, I]` and, as the third input, a bias `[O]` gives `[R, O]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

/// R, I and O.
fn sizes(x: &Tensor, weight: &Tensor) -> Result<(usize, usize, usize)> {
    match (x.dims(), weight.dims()) {
        (&[rows, i], &[o, weight_i]) if i == weight_i => Ok((rows, i, o)),
        (x, weight) => bail!("linear takes [R, I] and [O, I], got {x:?} and {weight:?}"),
    }
}

fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, i, o) = sizes(x, weight)?;
    if bias.is_some_and(|bias| bias.dims() != [o]) {
        bail!("a bias {:?} for {o} outputs", bias.map(Tensor::dims));
    }
    if let Some(gpu) = Gpu::of(x) {
        if rows == 0 {
            return gpu.empty((0, o), x.dtype());
        }
        let weight = weight_as(weight, x.dtype())?.t()?;
        let y = gpu.product(x, &weight, x.dtype(), None)?;
        if let Some(bias) = bias {
            let arguments = [Arg::Tensor(&y), Arg::Tensor(bias), Arg::int(rows)?, Arg::int(o)?];
            gpu.launch("add_bias", y.dtype(), grid::line(rows * o)?, &arguments)?;
        }
        return Ok(y);
    }
    let mut y = match bias {
        Some(bias) => f32s(bias)?.repeat(rows),
        None => vec![0.0; rows * o],
    };
    let store = if bias.is_some() { Store::Add } else { Store::Replace };
    multiply(
        &mut y,
        Matrix::new(&f32s(x)?, rows, i),
        Matrix::new(&f32s(weight)?, o, i).transposed(),
        store,
        Parallelism::Rayon(0),
    );
    Tensor::from_vec(y, (rows, o), x.device())
}

/// The gradients of input and weight.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, i, o) = sizes(x, weight)?;
    if let Some(gpu) = Gpu::of(x) {
        if rows == 0 {
            let dweight = Tensor::zeros((o, i), DType::F32, x.device())?;
            return Ok((gpu.empty((0, i), x.dtype())?, dweight));
        }
        let dx = gpu.product(grad, &weight_as(weight, grad.dtype())?, grad.dtype(), None)?;
        return Ok((dx, gpu.product(&grad.t()?, x, DType::F32, None)?));
    }
    let (mut dx, mut dweight) = (vec![0.0; rows * i], vec![0.0; o * i]);
    let (x_numbers, weight, grad) = (f32s(x)?, f32s(weight)?, f32s(grad)?);
    let grad = Matrix::new(&grad, rows, o);
    let all = Parallelism::Rayon(0);
    multiply(&mut dx, grad, Matrix::new(&weight, o, i), Store::Replace, all);
    let x_numbers = Matrix::new(&x_numbers, rows, i);
    multiply(&mut dweight, grad.transposed(), x_numbers, Store::Replace, all);
    Ok((
        Tensor::from_vec(dx, (rows, i), x.device())?,
        Tensor::from_vec(dweight, (o, i), x.device())?,
    ))
}

/// The sum of each column of `[R, O]`: the gradient of the bias.
fn column_sums(grad: &Tensor) -> Result<Tensor> {
    let (rows, columns) = grad.dims2()?;
    if let Some(gpu) = Gpu::of(grad) {
        let sums = gpu.empty(columns, DType::F32)?;
        let arguments =
            [Arg::Tensor(grad), Arg::Tensor(&sums), Arg::int(rows)?, Arg::int(columns)?];
        gpu.launch("column_sums", grad.dtype(), grid::columns(columns), &arguments)?;
        return Ok(sums);
    }
    let mut sums = vec![0.0f64; columns];
    for row in f32s(grad)?.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    Tensor::from_vec(sums, columns, grad.device())
}

impl Op<2> for Linear {
    fn forward(&mut self, [x, weight]: [&Tensor; 2]) -> Result<Tensor> {
        forward(x, weight, None)
    }

    fn backward(
        &self,
        [x, weight]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (dx, dweight) = backward(x, weight, grad)?;
        Ok([Some(dx), Some(dweight)])
    }

    fn reads_output(&self) -> bool {
        false
    }
}

impl Op<3> for Linear {
    fn forward(&mut self, [x, weight, bias]: [&Tensor; 3]) -> Result<Tensor> {
        forward(x, weight, Some(bias))
    }

    fn backward(
        &self,
        [x, weight, _]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (dx, dweight) = backward(x, weight, grad)?;
        Ok([Some(dx), Some(dweight), Some(column_sums(grad)?)])
    }

    fn reads_output(&self) -> bool {
        false
    }
}
