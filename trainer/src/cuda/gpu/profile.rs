//! Where a step's time goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::failed_with;
use crate::Result;

/// A part of the work and the milliseconds it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Milliseconds on the GPU, gaps between kernels left out.
    pub milliseconds: f64,
    /// Pieces of work.
    pub pieces: usize,
}

/// Times of pieces of work, by their parts.
#[derive(Default)]
pub struct Profile {
    under_way: Vec<(&'static str, CudaEvent, CudaEvent)>,
    parts: BTreeMap<&'static str, (f64, usize)>,
}

impl Profile {
    /// Runs `work` between two events.
    pub fn measure(
        &mut self,
        part: &'static str,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let event = || -> Result<CudaEvent> {
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            context.new_event(timed).map_err(failed_with("making an event"))
        };
        let (begin, end) = (event()?, event()?);
        begin.record(stream).map_err(failed_with("noting an event"))?;
        work()?;
        end.record(stream).map_err(failed_with("noting an event"))?;
        self.under_way.push((part, begin, end));
        Ok(())
    }

    /// Waits for what is under way and takes its times.
    pub fn read(&mut self) -> Result<()> {
        for (part, begin, end) in self.under_way.drain(..) {
            end.synchronize().map_err(failed_with("running a step"))?;
            let milliseconds = begin.elapsed_ms(&end).map_err(failed_with("measuring"))?;
            let sum = self.parts.entry(part).or_default();
            *sum = (sum.0 + f64::from(milliseconds), sum.1 + 1);
        }
        Ok(())
    }

    /// The parts, the longest first.
    pub fn parts(self) -> Vec<Part> {
        let part = |(name, (milliseconds, pieces))| Part { name, milliseconds, pieces };
        let mut parts: Vec<Part> = self.parts.into_iter().map(part).collect();
        parts.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        parts
    }
}
