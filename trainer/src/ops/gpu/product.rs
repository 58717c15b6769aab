//! Matrix products on a device.

use candle_core::{DType, Result, Tensor, bail};
use gemm::Parallelism;

#[cfg(feature = "cuda")]
use super::cuda;
use super::device::Gpu;
use crate::ops::cpu::f32s;
use crate::ops::matrix::{Matrix, Store, multiply};

impl Gpu {
    /// `a·b`, of `[M, K]` and `[K, N]`, as `dtype`. Each of the two is contiguous or the transpose
    /// of a contiguous matrix, and both are of one type. Products are summed in float32, and with
    /// `sum`, M·N values of `dtype`, they are added to that in place, before the one rounding.
    ///
    /// # Errors
    /// cuBLAS's, or for sizes that it does not take.
    pub fn product(
        &self,
        a: &Tensor,
        b: &Tensor,
        dtype: DType,
        sum: Option<Tensor>,
    ) -> Result<Tensor> {
        let ((m, k), (b_rows, n)) = (a.dims2()?, b.dims2()?);
        if k != b_rows || a.dtype() != b.dtype() {
            bail!("a product of {a:?} and {b:?}");
        }
        if let Some(sum) = &sum
            && (sum.elem_count(), sum.dtype()) != (m * n, dtype)
        {
            bail!("a product of {m} by {n} values of {dtype:?} added to {sum:?}");
        }
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => {
                let add = sum.is_some();
                let result = sum.map_or_else(|| self.empty((m, n), dtype), Ok)?;
                cuda::multiply(device, [m, n, k], a, b, &result, add)?;
                Ok(result)
            }
            Self::Emulated(_) => {
                let [a, b] = [a, b].map(|matrix| matrix.to_dtype(DType::F32)?.contiguous());
                let (shape, mut values) = match sum {
                    Some(sum) => (sum.shape().clone(), f32s(&sum.to_dtype(DType::F32)?)?.to_vec()),
                    None => ((m, n).into(), vec![0.0; m * n]),
                };
                let (a, b) = (a?, b?);
                let (a_values, b_values) = (f32s(&a)?, f32s(&b)?);
                multiply(
                    &mut values,
                    Matrix::new(&a_values, m, k),
                    Matrix::new(&b_values, k, n),
                    Store::Add,
                    Parallelism::Rayon(0),
                );
                Tensor::from_vec(values, shape, a.device())?.to_dtype(dtype)
            }
        }
    }
}
