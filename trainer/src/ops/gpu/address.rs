//! Addresses of tensors, as the kernels take them.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

/// The address of a contiguous tensor in the memory of its device.
pub(crate) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got {layout:?}")
    };
    let begin = match &*storage {
        Storage::Cpu(CpuStorage::U8(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::I64(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::BF16(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F32(numbers)) => numbers.as_ptr() as u64,
        Storage::Cpu(CpuStorage::F64(numbers)) => numbers.as_ptr() as u64,
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => cuda_address(storage)?,
        _ => bail!("no kernel takes {:?} on {:?}", tensor.dtype(), tensor.device()),
    };
    Ok(begin + (start * tensor.dtype().size_in_bytes()) as u64)
}

#[cfg(feature = "cuda")]
fn cuda_address(storage: &candle_core::CudaStorage) -> Result<u64> {
    use candle_core::DType;
    use candle_core::backend::BackendStorage;
    use cudarc::driver::{CudaSlice, DevicePtr};
    use half::bf16;

    fn begin<T>(slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(slice.stream()).0
    }
    Ok(match storage.dtype() {
        DType::U8 => begin(storage.as_cuda_slice::<u8>()?),
        DType::I64 => begin(storage.as_cuda_slice::<i64>()?),
        DType::BF16 => begin(storage.as_cuda_slice::<bf16>()?),
        DType::F32 => begin(storage.as_cuda_slice::<f32>()?),
        DType::F64 => begin(storage.as_cuda_slice::<f64>()?),
        dtype => bail!("no kernel takes {dtype:?}"),
    })
}
