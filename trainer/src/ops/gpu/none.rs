//! A build without CUDA.

use candle_core::{Device, Result, bail};

use super::PeakMemory;

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

/// Bytes of a GPU's memory that no program uses: none, as this is the CPU.
pub fn free_memory(_device: &Device) -> Result<Option<usize>> {
    Ok(None)
}

/// The most memory of a GPU that was taken: none.
pub fn peak_memory(_device: &Device) -> Result<Option<PeakMemory>> {
    Ok(None)
}

/// A line for each pass that cuDNN computes: none.
pub fn plans() -> Vec<String> {
    Vec::new()
}
