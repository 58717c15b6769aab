//! Copies of batches to a device and of losses from it, without the host waiting for the work in
//! between.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::array::Array;
#[cfg(feature = "cuda")]
use super::cuda::transfer::{CudaFetch, CudaTransfers};

/// The values of a tensor on the host, as they are after the work enqueued so far.
pub(crate) fn to_host(tensor: &Tensor) -> Result<Tensor> {
    let here = tensor.to_device(&Device::Cpu)?;
    // The driver only says that a copy to memory that is not page-locked may be complete.
    tensor.device().synchronize()?;
    Ok(here)
}

/// The least memory of an array of a batch.
const LEAST_ROOM: usize = 1 << 20;

/// The memory that an array of `bytes` bytes gets, so that larger ones after it seldom need more.
pub(crate) fn room(bytes: usize) -> usize {
    bytes.next_power_of_two().max(LEAST_ROOM)
}

/// Copies to and from a device.
pub struct Transfers {
    device: Device,
    #[cfg(feature = "cuda")]
    cuda: Option<CudaTransfers>,
}

/// A copy from a device that is under way.
pub struct Fetch(Way);

enum Way {
    Done(Vec<f32>),
    #[cfg(feature = "cuda")]
    Cuda(CudaFetch),
}

impl Transfers {
    /// To and from `device`.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            cuda: match device {
                Device::Cuda(device) => Some(CudaTransfers::new(device)?),
                _ => None,
            },
        })
    }

    /// Whether host and device work at the same time.
    pub fn is_asynchronous(&self) -> bool {
        !self.device.is_cpu()
    }

    /// The arrays as tensors of the device. On a GPU the copies do not wait for work that was
    /// enqueued before, and the tensors are valid until the call after the next.
    pub fn upload(&mut self, arrays: &[(Array, Shape)]) -> Result<Vec<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &mut self.cuda {
            return cuda.upload(arrays);
        }
        arrays.iter().map(|(array, shape)| array.to_tensor(shape, &self.device)).collect()
    }

    /// Begins to copy the numbers of `tensor` to the host, as they are after the work enqueued so
    /// far.
    pub fn fetch(&mut self, tensor: &Tensor) -> Result<Fetch> {
        let tensor = tensor.flatten_all()?.to_dtype(DType::F32)?;
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &mut self.cuda {
            return Ok(Fetch(Way::Cuda(cuda.fetch(&tensor)?)));
        }
        Ok(Fetch(Way::Done(tensor.to_vec1()?)))
    }
}

impl Fetch {
    /// The numbers, as soon as they have arrived.
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.0 {
            Way::Done(numbers) => Ok(numbers),
            #[cfg(feature = "cuda")]
            Way::Cuda(fetch) => fetch.wait(),
        }
    }
}
