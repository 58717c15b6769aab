//! A build without CUDA.

use candle_core::{Device, Result, bail};

/// Why no GPU can be used.
const REASON: &str = "this program was built without --features cuda";

/// Why the GPU of this number cannot be used.
pub fn why_not(_number: usize) -> Option<String> {
    Some(REASON.to_owned())
}

/// Always an error.
pub fn open(_number: usize) -> Result<Device> {
    bail!("{REASON}")
}

/// The number of GPUs: none.
pub fn count() -> usize {
    0
}

/// A GPU's model: none, as this is the CPU.
pub fn model(_device: &Device) -> Result<Option<String>> {
    Ok(None)
}

/// What distinguishes a GPU from others: empty, as this is the CPU.
pub fn place(_device: &Device) -> Result<String> {
    Ok(String::new())
}

/// Bytes of a GPU's memory that are in use: none.
pub fn memory_in_use(_device: &Device) -> Result<Option<usize>> {
    Ok(None)
}

/// A line for each pass that cuDNN computes: none.
pub fn plans() -> Vec<String> {
    Vec::new()
}
