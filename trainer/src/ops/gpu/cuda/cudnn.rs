//! Convolutions by cuDNN's backend API, which is also called its graph API.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::{DType, Error, Result, bail};
use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;
use sys::cudnnBackendAttributeName_t::*;
use sys::cudnnBackendDescriptorType_t::*;
use sys::cudnnHandle_t;

use super::descriptor::{Descriptor, Value, check};
use super::operation::{ALIGNMENT, Order, W, Work, X, Y};
use super::plan::{Engine, Plan, Plans, Target};
use crate::ops::geometry::{Geometry, Pass};

/// The oldest major version of cuDNN that will do.
pub(super) const OLDEST: usize = 9;

/// cuDNN's version as (major, minor, patch).
pub fn version() -> (usize, usize, usize) {
    let version = result::get_version();
    match version {
        // Before version 9 the major number counted thousands.
        0..10_000 => (version / 1000, version / 100 % 10, version % 100),
        _ => (version / 10_000, version / 100 % 100, version % 100),
    }
}

/// cuDNN on one stream, and the plans that were made so far.
pub(super) struct Convolutions {
    handle: cudnnHandle_t,
    stream: Arc<CudaStream>,
    /// How many plans are made for each pass; a step uses the first one.
    most: usize,
    plans: HashMap<Work, Plans>,
}

// SAFETY: the handle and the descriptors have no other owner, and cuDNN binds them to no thread. It
// only forbids that two threads use them at once, which `&mut self` rules out. Each method makes
// the GPU's context that of the thread that calls it.
unsafe impl Send for Convolutions {}

impl Convolutions {
    /// Starts cuDNN on a stream.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        Self::with_plans(stream, 1)
    }

    /// With up to `most` plans for each pass.
    pub fn with_plans(stream: Arc<CudaStream>, most: usize) -> Result<Self> {
        let (major, minor, patch) = version();
        // Before version 9, status codes had other numbers.
        if major < OLDEST {
            bail!("cuDNN is of version {major}.{minor}.{patch}, but {OLDEST} or newer is needed");
        }
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let handle = match result::create_handle() {
            Ok(handle) => handle,
            Err(error) => bail!("cuDNN could not be started: {error}"),
        };
        let convolutions = Self { handle, stream, most, plans: HashMap::new() };
        // SAFETY: both live as long as `convolutions`.
        let status = unsafe { sys::cudnnSetStream(handle, convolutions.stream.cu_stream().cast()) };
        check(status, || "setting its stream".to_owned())?;
        Ok(convolutions)
    }

    /// The bytes of workspace that a pass needs. The plan is chosen at the first call.
    /// `None`: no engine of cuDNN is acceptable for this order.
    pub fn plan(
        &mut self,
        g: &Geometry,
        pass: Pass,
        dtype: DType,
        order: Order,
    ) -> Result<Option<usize>> {
        let plans = self.plans((*g, pass, dtype, order))?;
        Ok(plans.first().map(|plan| plan.engine.workspace))
    }

    /// The plans for a pass, which are chosen at the first call.
    pub fn plans(&mut self, work: Work) -> Result<&[Plan]> {
        let plans = match self.plans.entry(work) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let (g, pass, ..) = work;
                self.stream.context().bind_to_thread().map_err(Error::wrap)?;
                let plans = Plans::choose(&Target::Handle(self.handle), work, self.most).map_err(
                    |error| error.context(format!("the {pass} of a {g} could not be planned")),
                )?;
                entry.insert(plans)
            }
        };
        Ok(&plans.plans)
    }

    /// Every pass that was planned, and the engine that a step uses; `None` where there is none.
    pub fn engines(&self) -> impl Iterator<Item = (&Work, Option<&Engine>)> {
        self.plans.iter().map(|(work, plans)| (work, plans.plans.first().map(|plan| &plan.engine)))
    }

    /// Enqueues a pass that was planned. The addresses are those of the input, the filter and the
    /// output, or of their gradients, and the one that the pass computes is written. The workspace
    /// lies at a multiple of 256 and has as many bytes as [`Self::plan`] returned.
    pub fn run(
        &mut self,
        g: &Geometry,
        pass: Pass,
        dtype: DType,
        order: Order,
        addresses: [u64; 3],
        workspace: u64,
    ) -> Result<()> {
        self.run_plan(0, (*g, pass, dtype, order), addresses, workspace)
    }

    /// Enqueues a pass as its plan number `index`.
    pub fn run_plan(
        &mut self,
        index: usize,
        work: Work,
        addresses: [u64; 3],
        workspace: u64,
    ) -> Result<()> {
        let (g, pass, ..) = work;
        if addresses.iter().any(|address| address % ALIGNMENT != 0) {
            bail!(
                "the {pass} of a {g} has tensors at {addresses:x?}, not at multiples of {ALIGNMENT}"
            );
        }
        let Some(plan) = self.plans.get(&work).and_then(|plans| plans.plans.get(index)) else {
            bail!("the {pass} of a {g} has no plan");
        };
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        let pack = Descriptor::finalized(
            CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
            &[
                (CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Value::Integers(&[X, W, Y])),
                (CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Value::Addresses(&addresses)),
                (CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Value::Addresses(&[workspace])),
            ],
        )?;
        // SAFETY: all three live, and the caller guarantees the memory at the addresses.
        let status =
            unsafe { sys::cudnnBackendExecute(self.handle, plan.descriptor.raw, pack.raw) };
        check(status, || format!("starting the {pass} of a {g}"))
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        // There is no caller to report an error to.
        let _ = self.stream.context().bind_to_thread();
        self.plans.clear();
        // SAFETY: the handle was made by `new`, and all that refers to it is gone.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
