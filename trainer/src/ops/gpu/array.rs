//! Arrays of the host on their way to a device.

use candle_core::{Device, Result, Shape, Tensor};

/// An array of the host.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // Named after the tensors' types.
pub enum Array<'a> {
    U8(&'a [u8]),
    F32(&'a [f32]),
    I64(&'a [i64]),
}

impl Array<'_> {
    pub(super) fn to_tensor(self, shape: &Shape, device: &Device) -> Result<Tensor> {
        match self {
            Self::U8(numbers) => Tensor::from_slice(numbers, shape, device),
            Self::F32(numbers) => Tensor::from_slice(numbers, shape, device),
            Self::I64(numbers) => Tensor::from_slice(numbers, shape, device),
        }
    }
}
