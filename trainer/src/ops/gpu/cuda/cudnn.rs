//! Convolutions by cuDNN's backend API, which is also called its graph API.
//!
//! A convolution is described as a graph of one operation. cuDNN's heuristics then rank the engine
//! configurations that could compute it, and the first one that is acceptable becomes the plan. It
//! must give the same bits every time, it must compute float32 as float32, and it must not ask for
//! too much workspace. Nothing is chosen by measured time, because such a choice could differ from
//! run to run, and other engines give other bits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::{DType, Error, Result, bail};
use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;
use sys::cudnnBackendAttributeName_t::*;
use sys::cudnnBackendDescriptorType_t::*;
use sys::cudnnBackendHeurMode_t::{self as HeuristicMode, *};
use sys::cudnnBackendNumericalNote_t::*;
use sys::{cudnnConvolutionMode_t, cudnnDataType_t, cudnnHandle_t};

use super::descriptor::{Descriptor, Value, check};
use crate::ops::geometry::{Geometry, Pass};

/// The oldest major version of cuDNN that will do.
pub(super) const OLDEST: usize = 9;
/// The most workspace that a plan may use, in bytes.
const MOST_WORKSPACE: usize = 1 << 30;
/// What the addresses of all tensors are multiples of. Engines count on it to load several elements
/// at a time.
const ALIGNMENT: u64 = 16;

/// The unique ids by which a plan knows its input, its filter, and its output.
const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;

/// cuDNN's version as (major, minor, patch).
pub(super) fn version() -> (usize, usize, usize) {
    let version = result::get_version();
    match version {
        // Before version 9 the major number counted thousands.
        0..10_000 => (version / 1000, version / 100 % 10, version % 100),
        _ => (version / 10_000, version / 100 % 100, version % 100),
    }
}

/// The order in which all three tensors lie in memory. A filter counts as a batch of maps, one for
/// each output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// The channels of a pixel lie side by side.
    Nhwc,
    /// The pixels of a channel lie side by side.
    Nchw,
}

/// A tensor whose sizes are given as [N, C, H, W], or [O, I, kh, kw], whatever its order in memory.
fn tensor(id: i64, sizes: [usize; 4], dtype: DType, order: Order) -> Result<Descriptor> {
    let data_type = match dtype {
        DType::BF16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        DType::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
        dtype => bail!("convolutions are of float32 or bfloat16, not {dtype:?}"),
    };
    let sizes = sizes.map(|size| size as i64);
    let [_, c, h, w] = sizes;
    let strides = match order {
        Order::Nhwc => [h * w * c, 1, w * c, c],
        Order::Nchw => [c * h * w, h * w, w, 1],
    };
    Descriptor::finalized(
        CUDNN_BACKEND_TENSOR_DESCRIPTOR,
        &[
            (CUDNN_ATTR_TENSOR_DATA_TYPE, Value::DataType(data_type)),
            (CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Integers(&sizes)),
            (CUDNN_ATTR_TENSOR_STRIDES, Value::Integers(&strides)),
            (CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Integers(&[id])),
            (CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Integers(&[ALIGNMENT as i64])),
        ],
    )
}

/// One pass of a convolution, and the descriptors that it refers to.
struct Operation {
    operation: Descriptor,
    _parts: [Descriptor; 4],
}

impl Operation {
    fn new(g: &Geometry, pass: Pass, dtype: DType, order: Order) -> Result<Self> {
        let &Geometry { n, h, w, i, o, kh, kw, out_h, out_w, stride, padding } = g;
        let x = tensor(X, [n, i, h, w], dtype, order)?;
        let w = tensor(W, [o, i, kh, kw], dtype, order)?;
        let y = tensor(Y, [n, o, out_h, out_w], dtype, order)?;
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let compute = cudnnDataType_t::CUDNN_DATA_FLOAT;
        let (stride, padding) = ([stride as i64; 2], [padding as i64; 2]);
        let convolution = Descriptor::finalized(
            CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
            &[
                (CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Value::DataType(compute)),
                (CUDNN_ATTR_CONVOLUTION_CONV_MODE, Value::ConvolutionMode(mode)),
                (CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Value::Integers(&[2])),
                (CUDNN_ATTR_CONVOLUTION_DILATIONS, Value::Integers(&[1, 1])),
                (CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, Value::Integers(&stride)),
                (CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Value::Integers(&padding)),
                (CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, Value::Integers(&padding)),
            ],
        )?;
        let (kind, names) = match pass {
            Pass::Forward => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                ],
            ),
            Pass::Data => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                ],
            ),
            Pass::Filter => (
                CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                ],
            ),
        };
        // The result is 1 times the convolution plus 0 times what was there.
        let values = [
            Value::Descriptor(&x),
            Value::Descriptor(&w),
            Value::Descriptor(&y),
            Value::Descriptor(&convolution),
            Value::Float(1.0),
            Value::Float(0.0),
        ];
        let attributes = names.into_iter().zip(values).collect::<Vec<_>>();
        let operation = Descriptor::finalized(kind, &attributes)?;
        Ok(Self { operation, _parts: [x, w, y, convolution] })
    }
}

/// Whether the engine of a configuration gives the same bits every time, and float32 for float32.
fn is_acceptable(configuration: &Descriptor, dtype: DType) -> Result<bool> {
    let unwanted = match dtype {
        DType::BF16 => &[CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC][..],
        // Tensor cores multiply float32 as TF32, which has fewer bits.
        _ => &[
            CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
            CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
            CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        ],
    };
    let engines =
        configuration.descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let Some(engine) = engines.first() else { return Ok(false) };
    let notes = engine.numerical_notes()?;
    Ok(!unwanted.iter().any(|&note| notes.contains(&(note as u32))))
}

/// The configurations for a graph, in the order in which the heuristics recommend them.
fn configurations(graph: &Descriptor, mode: HeuristicMode) -> Result<Vec<Descriptor>> {
    let heuristics = Descriptor::if_supported(
        CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
        &[
            (CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Value::Descriptor(graph)),
            (CUDNN_ATTR_ENGINEHEUR_MODE, Value::HeuristicMode(mode)),
        ],
    )?;
    match heuristics {
        Some(known) => {
            known.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
        }
        None => Ok(Vec::new()),
    }
}

/// How one pass of a convolution is computed. What the plan refers to lives as long as the plan;
/// the fields are dropped in their order.
struct Plan {
    plan: Descriptor,
    workspace: usize,
    _configuration: Descriptor,
    _graph: Descriptor,
    _operation: Operation,
}

impl Plan {
    /// The first that is acceptable. The fallback mode knows slower engines that take more shapes.
    fn choose(handle: cudnnHandle_t, operation: Operation, dtype: DType) -> Result<Option<Self>> {
        let graph = Descriptor::finalized(
            CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
            &[
                (CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(handle)),
                (CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptor(&operation.operation)),
            ],
        )?;
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            for configuration in configurations(&graph, mode)? {
                if !is_acceptable(&configuration, dtype)? {
                    continue;
                }
                let plan = Descriptor::if_supported(
                    CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                    &[
                        (CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(handle)),
                        (
                            CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                            Value::Descriptor(&configuration),
                        ),
                    ],
                )?;
                let Some(plan) = plan else { continue };
                let workspace = plan.integer(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
                let workspace = usize::try_from(workspace).unwrap_or(usize::MAX);
                if workspace <= MOST_WORKSPACE {
                    let (_configuration, _graph, _operation) = (configuration, graph, operation);
                    return Ok(Some(Self { plan, workspace, _configuration, _graph, _operation }));
                }
            }
        }
        Ok(None)
    }
}

/// cuDNN on one stream, and the plans that were made so far.
pub(super) struct Convolutions {
    handle: cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<(Geometry, Pass, DType, Order), Option<Plan>>,
}

// SAFETY: the handle and the descriptors have no other owner, and cuDNN binds them to no thread. It
// only forbids that two threads use them at once, which `&mut self` rules out. Each method makes
// the GPU's context that of the thread that calls it.
unsafe impl Send for Convolutions {}

impl Convolutions {
    /// Starts cuDNN on a stream.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
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
        let convolutions = Self { handle, stream, plans: HashMap::new() };
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
        let plan = match self.plans.entry((*g, pass, dtype, order)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.stream.context().bind_to_thread().map_err(Error::wrap)?;
                let plan = Operation::new(g, pass, dtype, order)
                    .and_then(|operation| Plan::choose(self.handle, operation, dtype))
                    .map_err(|error| {
                        error.context(format!("the {pass} of a {g} could not be planned"))
                    })?;
                entry.insert(plan)
            }
        };
        Ok(plan.as_ref().map(|plan| plan.workspace))
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
        if addresses.iter().any(|address| address % ALIGNMENT != 0) {
            bail!(
                "the {pass} of a {g} has tensors at {addresses:x?}, not at multiples of {ALIGNMENT}"
            );
        }
        let Some(Some(plan)) = self.plans.get(&(*g, pass, dtype, order)) else {
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
        let status = unsafe { sys::cudnnBackendExecute(self.handle, plan.plan.raw, pack.raw) };
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
