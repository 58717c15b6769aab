//! The fully connected layer.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::f32s;
use super::matmul::{Matrix, Store, multiply};

/// `[R, I]` with a weight `[O, I]` and, as the third argument, a bias `[O]` gives `[R, O]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear;

fn sizes(input: &Layout, weight: &Layout) -> Result<(usize, usize, usize)> {
    match (input.dims(), weight.dims()) {
        (&[rows, i], &[o, weight_i]) if i == weight_i => Ok((rows, i, o)),
        (input, weight) => bail!("linear takes [R, I] and [O, I], got {input:?} and {weight:?}"),
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, i, o) = sizes(input_layout, weight_layout)?;
        let input = Matrix::new(f32s(input, input_layout)?, rows, i);
        let weight = Matrix::new(f32s(weight, weight_layout)?, o, i).transposed();
        let mut output = vec![0.0; rows * o];
        multiply(&mut output, input, weight, Store::Replace);
        Ok((CpuStorage::F32(output), (rows, o).into()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let input_grad = grad.apply_op2_no_bwd(weight, &InputGradient)?;
        let weight_grad = grad.apply_op2_no_bwd(input, &WeightGradient)?;
        Ok((Some(input_grad), Some(weight_grad)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, i, o) = sizes(input_layout, weight_layout)?;
        let bias = f32s(bias, bias_layout)?;
        if bias.len() != o {
            bail!("a bias of {} numbers for {o} outputs", bias.len());
        }
        let input = Matrix::new(f32s(input, input_layout)?, rows, i);
        let weight = Matrix::new(f32s(weight, weight_layout)?, o, i).transposed();
        let mut output = bias.repeat(rows);
        multiply(&mut output, input, weight, Store::Add);
        Ok((CpuStorage::F32(output), (rows, o).into()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (input_grad, weight_grad) = CustomOp2::bwd(self, input, weight, output, grad)?;
        let bias_grad = grad.apply_op1_no_bwd(&SumRows)?;
        Ok((input_grad, weight_grad, Some(bias_grad)))
    }
}

/// (gradient of the output, weight) → gradient of the input.
struct InputGradient;

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "linear-input-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, o) = grad_layout.shape().dims2()?;
        let (_, i) = weight_layout.shape().dims2()?;
        let grad = Matrix::new(f32s(grad, grad_layout)?, rows, o);
        let weight = Matrix::new(f32s(weight, weight_layout)?, o, i);
        let mut result = vec![0.0; rows * i];
        multiply(&mut result, grad, weight, Store::Replace);
        Ok((CpuStorage::F32(result), (rows, i).into()))
    }
}

/// (gradient of the output, input) → gradient of the weight.
struct WeightGradient;

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "linear-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        input: &CpuStorage,
        input_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, o) = grad_layout.shape().dims2()?;
        let (_, i) = input_layout.shape().dims2()?;
        let grad = Matrix::new(f32s(grad, grad_layout)?, rows, o).transposed();
        let input = Matrix::new(f32s(input, input_layout)?, rows, i);
        let mut result = vec![0.0; o * i];
        multiply(&mut result, grad, input, Store::Replace);
        Ok((CpuStorage::F32(result), (o, i).into()))
    }
}

/// `[R, O]` → `[O]`: the gradient of the bias.
struct SumRows;

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, columns) = layout.shape().dims2()?;
        let mut sums = vec![0.0f64; columns];
        for row in f32s(input, layout)?.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let sums = sums.into_iter().map(|sum| sum as f32).collect();
        Ok((CpuStorage::F32(sums), columns.into()))
    }
}
