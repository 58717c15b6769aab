//! The fully connected layer.

use candle_core::{DType, Result, Tensor, bail};
use gemm::Parallelism;

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};

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
        let y = x.matmul(&weight.detach().to_dtype(x.dtype())?.t()?)?;
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
    );
    Tensor::from_vec(y, (rows, o), x.device())
}

/// The gradients of input and weight.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, i, o) = sizes(x, weight)?;
    if Gpu::of(x).is_some() {
        let dx = grad.matmul(&weight.detach().to_dtype(grad.dtype())?)?;
        return Ok((dx, grad.t()?.matmul(x)?.to_dtype(DType::F32)?));
    }
    let (mut dx, mut dweight) = (vec![0.0; rows * i], vec![0.0; o * i]);
    let (x_numbers, weight, grad) = (f32s(x)?, f32s(weight)?, f32s(grad)?);
    let grad = Matrix::new(&grad, rows, o);
    multiply(&mut dx, grad, Matrix::new(&weight, o, i), Store::Replace);
    multiply(&mut dweight, grad.transposed(), Matrix::new(&x_numbers, rows, i), Store::Replace);
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
}

/// A matrix that lies somewhere in a slice: element (i, j) is
/// `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix without gaps.
    fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} by {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Its transpose, in place.
    fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the product.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    /// Replaces what was there.
    Replace,
    /// Is added to what was there.
    Add,
}

/// `dst (rows of lhs × cols of rhs, row-major) = lhs · rhs`, or `+=`, on all threads. They share
/// the rows and columns of the result, never a sum, so the result does not depend on their number.
fn multiply(dst: &mut [f32], lhs: Matrix, rhs: Matrix, store: Store) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner dimensions");
    assert_eq!(dst.len(), m * n, "size of the product");
    let add = store == Store::Add;
    // SAFETY: `Matrix::new` checked that each operand's data hold rows × cols numbers, transposing
    // swaps the sides and strides together, the assertions above fix the result's size, and a
    // `&mut` slice overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            n as isize,
            add,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposes_and_sums() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // 2 × 3
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // 3 × 2
        let mut c = [0.0; 4];
        multiply(&mut c, Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), Store::Replace);
        assert_eq!(c, [5.0, 11.0, 14.0, 23.0]);
        multiply(
            &mut c,
            Matrix::new(&b, 3, 2).transposed(),
            Matrix::new(&a, 2, 3).transposed(),
            Store::Add,
        );
        assert_eq!(c, [10.0, 25.0, 25.0, 46.0]);
    }
}
