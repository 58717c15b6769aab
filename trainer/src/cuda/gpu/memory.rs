//! Memory of the GPU, and page-locked memory of the host.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY;
use cudarc::driver::{CudaContext, result};

use super::failed_with;
use crate::{Error, Result};

/// A piece of the GPU's memory.
pub struct Memory {
    address: u64,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Memory {
    /// No memory at all.
    pub fn none(context: &Arc<CudaContext>) -> Self {
        Self { address: 0, bytes: 0, context: context.clone() }
    }

    /// So many bytes of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there are not as many, without a batch that fits.
    pub fn zeros(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        context.bind_to_thread().map_err(failed_with("turning to it"))?;
        // SAFETY: the memory is given back once, by `drop`.
        let address = match unsafe { result::malloc_sync(bytes.max(1)) } {
            Err(error) if error.0 == CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, _) = context.mem_get_info().map_err(failed_with("asking for its memory"))?;
                return Err(Error::OutOfMemory { needed: bytes, free, fits: 0 });
            }
            address => address.map_err(failed_with("allocating"))?,
        };
        let memory = Self { address, bytes, context: context.clone() };
        // SAFETY: so many bytes were allocated.
        unsafe { result::memset_d8_sync(address, 0, bytes) }.map_err(failed_with("clearing memory"))?;
        context.synchronize().map_err(failed_with("clearing memory"))?;
        Ok(memory)
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        // Work may still use it. A failure here has nobody to be told to.
        let _ = self.context.synchronize();
        // SAFETY: it was allocated by `zeros`, and nobody else gives it back.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Page-locked memory of the host, which the GPU copies from and to by itself.
pub struct Pinned {
    begin: *mut c_void,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Pinned {
    /// So many bytes of zeros.
    pub fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        context.bind_to_thread().map_err(failed_with("turning to it"))?;
        // SAFETY: the memory is given back once, by `drop`.
        let begin = unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(failed_with("page-locking"))?;
        // SAFETY: so many bytes were allocated.
        unsafe { begin.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { begin, bytes, context: context.clone() })
    }

    /// Its bytes. The GPU must not be using them.
    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: they were allocated and written by `new`.
        unsafe { std::slice::from_raw_parts_mut(self.begin.cast(), self.bytes) }
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: it was allocated by `new`, and nobody else gives it back.
        let _ = unsafe { result::free_host(self.begin) };
    }
}
