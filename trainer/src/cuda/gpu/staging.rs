//! How batches come to the GPU and outcomes from it, without the host waiting for the work in between.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};
use rayon::prelude::*;

use super::failed_with;
use super::memory::{Memory, Pinned};
use crate::Result;
use crate::cuda::backend::{OUTCOME_NUMBERS, Outcome};

/// Bytes that a thread copies at a time.
const COPY_BYTES: usize = 1 << 20;

/// What a kernel may read behind a batch's last byte, as it takes pixels four at a time.
const SLACK: usize = 16;

/// Memory through which one batch passes.
struct Slot {
    host: Pinned,
    device: Memory,
    /// The copy is done.
    copied: CudaEvent,
    /// The batch was used.
    used: CudaEvent,
}

/// Two slots that take turns: while the GPU works on one batch, the next is copied.
pub struct Staging {
    slots: [Slot; 2],
    turn: usize,
    copies: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

impl Staging {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let slot = || -> Result<Slot> {
            let event = || context.new_event(None).map_err(failed_with("making an event"));
            let host = Pinned::new(context, 0)?;
            Ok(Slot { host, device: Memory::none(context), copied: event()?, used: event()? })
        };
        let copies = context.new_stream().map_err(failed_with("making a stream"))?;
        Ok(Self { slots: [slot()?, slot()?], turn: 0, copies, context: context.clone() })
    }

    /// Copies a batch; work that `stream` is given from here on finds it there.
    pub fn stage(&mut self, description: &[u8], pixels: &[u8], stream: &CudaStream) -> Result<[u64; 2]> {
        // All that uses the batch of the slot before has been given to the stream by now.
        self.slots[self.turn].used.record(stream).map_err(failed_with("noting an event"))?;
        self.turn = 1 - self.turn;
        let slot = &mut self.slots[self.turn];
        slot.copied.synchronize().map_err(failed_with("waiting for a copy"))?;
        let bytes = description.len() + pixels.len() + SLACK;
        if slot.host.bytes() < bytes {
            slot.host = Pinned::new(&self.context, bytes)?;
            slot.device = Memory::zeros(&self.context, bytes)?;
        }
        let host = slot.host.slice_mut();
        copy_bytes(&mut host[..description.len()], description);
        copy_bytes(&mut host[description.len()..][..pixels.len()], pixels);
        self.copies.wait(&slot.used).map_err(failed_with("ordering streams"))?;
        // SAFETY: both sides hold so many bytes; the host's are left alone until `copied`.
        unsafe { result::memcpy_htod_async(slot.device.address(), &host[..bytes], self.copies.cu_stream()) }
            .map_err(failed_with("copying a batch"))?;
        slot.copied.record(&self.copies).map_err(failed_with("noting an event"))?;
        stream.wait(&slot.copied).map_err(failed_with("ordering streams"))?;
        let begin = slot.device.address();
        Ok([begin, begin + description.len() as u64])
    }
}

fn copy_bytes(to: &mut [u8], from: &[u8]) {
    let pieces = to.par_chunks_mut(COPY_BYTES).zip(from.par_chunks(COPY_BYTES));
    pieces.for_each(|(to, from)| to.copy_from_slice(from));
}

/// Two places for outcomes under way, which take turns.
pub struct Readback {
    slots: [(Pinned, CudaEvent); 2],
    next: usize,
    oldest: usize,
}

impl Readback {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let slot = || -> Result<(Pinned, CudaEvent)> {
            let event = context.new_event(None).map_err(failed_with("making an event"))?;
            Ok((Pinned::new(context, 4 * OUTCOME_NUMBERS)?, event))
        };
        Ok(Self { slots: [slot()?, slot()?], next: 0, oldest: 0 })
    }

    pub fn fetch(&mut self, from: u64, stream: &CudaStream) -> Result<()> {
        let (host, done) = &mut self.slots[self.next % 2];
        // SAFETY: the outcome is as long as the slot, which is left alone until `done`.
        unsafe { result::memcpy_dtoh_async(host.slice_mut(), from, stream.cu_stream()) }
            .map_err(failed_with("copying an outcome"))?;
        done.record(stream).map_err(failed_with("noting an event"))?;
        self.next += 1;
        Ok(())
    }

    pub fn fetched(&mut self) -> Result<Outcome> {
        let (host, done) = &mut self.slots[self.oldest % 2];
        done.synchronize().map_err(failed_with("running a step"))?;
        self.oldest += 1;
        let (numbers, _) = host.slice_mut().as_chunks::<4>();
        Ok(Outcome::from_numbers(std::array::from_fn(|index| f32::from_le_bytes(numbers[index]))))
    }
}
