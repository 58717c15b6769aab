//! Matrix products by cuBLAS, on candle's handle.
//!
//! Not by candle's own function, which gives bfloat16 for bfloat16, calls the batched entry, for
//! which no split of long sums is documented, and lets partial sums be bfloat16. The gradient of a
//! 1×1 filter of ResNet-50 at 256 pairs sums 1.6 million products for each of 4,096 values: only
//! a sum that is split occupies the GPU.

use std::ffi::{c_int, c_void};

use candle_core::{CudaDevice, DType, Error, Result, Tensor, bail};
use cudarc::cublas::{result, sys};

use crate::ops::gpu::address;

/// Lets sums of partial results be of float32 alone. cuBLAS repeats its bits on one stream, as
/// its atomics are off unless asked for.
pub(super) fn set_up(device: &CudaDevice) -> Result<()> {
    let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the handle is that of a device that lives.
    unsafe { sys::cublasSetMathMode(*device.cublas_handle().handle(), mode) }
        .result()
        .map_err(|error| Error::msg(format!("setting up cuBLAS: {error:?}")))
}

/// A matrix as cuBLAS takes it.
struct Operand {
    address: u64,
    /// Elements from one row, or of a transposed matrix one column, to the next.
    leading: c_int,
    operation: sys::cublasOperation_t,
    data_type: sys::cudaDataType,
}

impl Operand {
    fn new(matrix: &Tensor) -> Result<Self> {
        let (stored, operation) = if matrix.is_contiguous() {
            (matrix.clone(), sys::cublasOperation_t::CUBLAS_OP_N)
        } else {
            (matrix.t()?, sys::cublasOperation_t::CUBLAS_OP_T)
        };
        let data_type = match stored.dtype() {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            dtype => bail!("matrix products are of float32 or bfloat16, not {dtype:?}"),
        };
        Ok(Self {
            address: address(&stored)?,
            leading: size(stored.dim(1)?)?,
            operation,
            data_type,
        })
    }
}

fn size(size: usize) -> Result<c_int> {
    match c_int::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("{size} rows are too many for cuBLAS: use a smaller --batch-size"),
    }
}

/// `result = a·b`, `[M, K]` by `[K, N]`, or with `add` `result += a·b`.
pub(crate) fn multiply(
    device: &CudaDevice,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    result: &Tensor,
    add: bool,
) -> Result<()> {
    if m * n == 0 {
        return Ok(());
    }
    let (left, right) = (Operand::new(a)?, Operand::new(b)?);
    let to = Operand::new(&result.reshape((m, n))?)?;
    let (one, onto) = (1.0f32, if add { 1.0f32 } else { 0.0 });
    let pointer = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().map_err(Error::wrap)?;
    // cuBLAS counts along columns first, so it is given the transposed product, bᵀ·aᵀ.
    // SAFETY: each matrix has as many elements as its sizes say, on this device, and its memory is
    // freed in the order of the stream on which the handle computes.
    unsafe {
        result::gemm_ex(
            *device.cublas_handle().handle(),
            right.operation,
            left.operation,
            size(n)?,
            size(m)?,
            size(k)?,
            pointer(&one),
            right.address as *const _,
            right.data_type,
            right.leading,
            left.address as *const _,
            left.data_type,
            left.leading,
            pointer(&onto),
            to.address as *mut _,
            to.data_type,
            to.leading,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|error| Error::msg(format!("a product of {m} by {k} by {n}: {error:?}")))
}
