//! CUDA.
/// Stub.
pub struct Gpu;
/// Stub.
pub fn find_gpu() {}
