//! Batches are copied from page-locked memory on a stream of their own, and losses back to it, so
//! that the host waits for neither.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{CudaDevice, DType, Device, Error, Result, Shape, Tensor};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};
use rayon::prelude::*;

use crate::ops::gpu::address::address;
use crate::ops::gpu::array::Array;
use crate::ops::gpu::transfer::room;

/// Bytes that a thread copies at a time.
const COPY_BYTES: usize = 1 << 20;

/// The least bytes of page-locked memory for numbers that come back.
const FETCHED_BYTES: usize = 256;

/// Of events that the host waits for: asleep, not spinning on a core that could decode images.
const ASLEEP: Option<CUevent_flags> = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);

/// Page-locked memory of the host, which the GPU copies from and to by itself.
struct Pinned {
    begin: *mut c_void,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Pinned {
    /// `bytes` bytes of zeros.
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        context.bind_to_thread().map_err(Error::wrap)?;
        // SAFETY: the memory is freed once, by `drop`.
        let begin = unsafe { result::malloc_host(bytes, 0) }.map_err(Error::wrap)?;
        // SAFETY: `bytes` bytes were allocated.
        unsafe { begin.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { begin, bytes, context: context.clone() })
    }

    /// Its bytes. The GPU must not be using them.
    fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: they were allocated and written by `new`.
        unsafe { std::slice::from_raw_parts_mut(self.begin.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // There is no caller to report an error to.
        let _ = self.context.synchronize();
        // SAFETY: it was allocated by `new`, and is freed here only.
        let _ = unsafe { result::free_host(self.begin) };
    }
}

/// The memory of one array on both sides.
struct Buffer {
    host: Pinned,
    device: Tensor,
}

/// The memory of one batch.
struct Slot {
    buffers: Vec<Buffer>,
    /// The batch has arrived.
    copied: CudaEvent,
    /// The batch was used.
    used: CudaEvent,
}

/// Copies to and from a GPU. Two slots alternate: while the GPU works on one batch, the next is
/// copied.
pub(crate) struct CudaTransfers {
    device: CudaDevice,
    copies: Arc<CudaStream>,
    slots: [Slot; 2],
    turn: usize,
    /// Memory for numbers that come back, which is used again.
    fetched: Rc<RefCell<Vec<Pinned>>>,
}

impl Array<'_> {
    /// The bytes, and the type of the tensor.
    fn bytes(&self) -> (&[u8], DType) {
        fn bytes<T>(numbers: &[T]) -> &[u8] {
            // SAFETY: these are plain numbers, without padding.
            unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
        }
        match self {
            Self::U8(numbers) => (numbers, DType::U8),
            Self::F32(numbers) => (bytes(numbers), DType::F32),
            Self::I64(numbers) => (bytes(numbers), DType::I64),
        }
    }
}

impl CudaTransfers {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let slot = || -> Result<Slot> {
            let event = |flags| context.new_event(flags).map_err(Error::wrap);
            Ok(Slot { buffers: Vec::new(), copied: event(ASLEEP)?, used: event(None)? })
        };
        let (slots, copies) = ([slot()?, slot()?], context.new_stream().map_err(Error::wrap)?);
        Ok(Self { device: device.clone(), copies, slots, turn: 0, fetched: Rc::default() })
    }

    /// See [`super::super::Transfers::upload`].
    pub fn upload(&mut self, arrays: &[(Array, Shape)]) -> Result<Vec<Tensor>> {
        let stream = self.device.cuda_stream();
        // All work on the batch of the other slot has been enqueued by now.
        self.slots[self.turn].used.record(&stream).map_err(Error::wrap)?;
        self.turn = 1 - self.turn;
        let slot = &mut self.slots[self.turn];
        slot.copied.synchronize().map_err(Error::wrap)?;
        slot.fit(&self.device, arrays)?;
        self.copies.wait(&slot.used).map_err(Error::wrap)?;
        let mut tensors = Vec::new();
        for ((array, shape), buffer) in arrays.iter().zip(&mut slot.buffers) {
            let (bytes, _) = array.bytes();
            let host = &mut buffer.host.slice_mut()[..bytes.len()];
            let pieces = host.par_chunks_mut(COPY_BYTES).zip(bytes.par_chunks(COPY_BYTES));
            pieces.for_each(|(to, from)| to.copy_from_slice(from));
            if !host.is_empty() {
                let to = address(&buffer.device)?;
                // SAFETY: both sides hold these bytes; the host's are not touched until `copied`.
                unsafe { result::memcpy_htod_async(to, host, self.copies.cu_stream()) }
                    .map_err(Error::wrap)?;
            }
            tensors.push(buffer.device.narrow(0, 0, shape.elem_count())?.reshape(shape)?);
        }
        slot.copied.record(&self.copies).map_err(Error::wrap)?;
        stream.wait(&slot.copied).map_err(Error::wrap)?;
        Ok(tensors)
    }

    /// See [`super::super::Transfers::fetch`]; `tensor` is contiguous float32.
    pub fn fetch(&mut self, tensor: &Tensor) -> Result<CudaFetch> {
        let stream = self.device.cuda_stream();
        let count = tensor.elem_count();
        let mut free = self.fetched.borrow_mut();
        let fitting = free.iter().position(|host| host.bytes >= 4 * count);
        let mut host = match fitting.map(|index| free.swap_remove(index)) {
            Some(host) => host,
            None => {
                let room = (4 * count).next_power_of_two().max(FETCHED_BYTES);
                Pinned::new(stream.context(), room)?
            }
        };
        let to = &mut host.slice_mut()[..4 * count];
        // SAFETY: both sides hold these bytes; the host's are not touched until `done`.
        unsafe { result::memcpy_dtoh_async(to, address(tensor)?, stream.cu_stream()) }
            .map_err(Error::wrap)?;
        let done = stream.record_event(ASLEEP).map_err(Error::wrap)?;
        Ok(CudaFetch { host, count, done, fetched: self.fetched.clone() })
    }
}

impl Slot {
    /// Makes room for the arrays.
    fn fit(&mut self, device: &CudaDevice, arrays: &[(Array, Shape)]) -> Result<()> {
        let stream = device.cuda_stream();
        for (index, (array, _)) in arrays.iter().enumerate() {
            let (bytes, dtype) = array.bytes();
            if self.buffers.get(index).is_some_and(|buffer| buffer.host.bytes >= bytes.len()) {
                continue;
            }
            let room = room(bytes.len());
            let count = room / dtype.size_in_bytes();
            let buffer = Buffer {
                host: Pinned::new(stream.context(), room)?,
                device: Tensor::zeros(count, dtype, &Device::Cuda(device.clone()))?,
            };
            // The memory exists once the stream is here, for which the copies' stream does not
            // wait.
            stream.synchronize().map_err(Error::wrap)?;
            match self.buffers.get_mut(index) {
                Some(place) => *place = buffer,
                None => self.buffers.push(buffer),
            }
        }
        Ok(())
    }
}

/// A copy from the GPU that is under way.
pub(crate) struct CudaFetch {
    host: Pinned,
    count: usize,
    done: CudaEvent,
    fetched: Rc<RefCell<Vec<Pinned>>>,
}

impl CudaFetch {
    pub fn wait(mut self) -> Result<Vec<f32>> {
        self.done.synchronize().map_err(Error::wrap)?;
        let (numbers, _) = self.host.slice_mut()[..4 * self.count].as_chunks::<4>();
        let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        self.fetched.borrow_mut().push(self.host);
        Ok(numbers)
    }
}
