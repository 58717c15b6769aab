//! Convolutions by cuDNN's backend API, which is also called its graph API.
//!
//! A convolution is described as a graph of one operation. cuDNN's heuristics then rank the engine
//! configurations that could compute it, and the first one that is acceptable becomes the plan. It
//! must give the same bits every time, it must compute float32 as float32, and it must not ask for
//! too much workspace. Nothing is chosen by measured time, because such a choice could differ from
//! run to run, and other engines give other bits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use candle_core::{Error, Result, bail};
use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;
use sys::cudnnBackendAttributeName_t::{self as Attribute, *};
use sys::cudnnBackendAttributeType_t::{self as AttributeType, *};
use sys::cudnnBackendDescriptorType_t::{self as DescriptorType, *};
use sys::cudnnBackendHeurMode_t::{self as HeuristicMode, *};
use sys::cudnnBackendNumericalNote_t::*;
use sys::cudnnStatus_t::{self as Status, *};
use sys::{cudnnBackendDescriptor_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnHandle_t};

/// The most workspace that a plan may use, in bytes.
const MOST_WORKSPACE: usize = 1 << 30;
/// The most elements that a tensor may have. Many engines index tensors with 32-bit integers.
const MOST_ELEMENTS: usize = i32::MAX as usize;
/// What the addresses of all tensors are multiples of. Engines count on it to load several elements
/// at a time.
const ALIGNMENT: u64 = 16;

/// The unique ids by which a plan knows its input, its filter, and its output.
const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;

/// cuDNN's version as (major, minor, patch).
pub(crate) fn version() -> (usize, usize, usize) {
    let version = result::get_version();
    match version {
        // Before version 9 the major number counted thousands.
        0..10_000 => (version / 1000, version / 100 % 10, version % 100),
        _ => (version / 10_000, version / 100 % 100, version % 100),
    }
}

/// The sizes of one convolution of `n` views, which all are `h` by `w` pixels of `inputs` channels.
/// Maps are `[N, H, W, C]`, filters are `[O, kernel, kernel, I]`, and the padding is on all sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvolutionShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl ConvolutionShape {
    pub fn out_h(&self) -> usize {
        self.out_side(self.h)
    }

    pub fn out_w(&self) -> usize {
        self.out_side(self.w)
    }

    /// An impossible shape gives 0.
    fn out_side(&self, side: usize) -> usize {
        let padded = side.saturating_add(self.padding.saturating_mul(2));
        let steps = padded.checked_sub(self.kernel);
        steps.and_then(|steps| steps.checked_div(self.stride)).map_or(0, |steps| steps + 1)
    }

    /// Fails if there is no such convolution, or if one of its tensors is too large for cuDNN.
    fn check(&self) -> Result<()> {
        let elements = |sizes: &[usize]| sizes.iter().copied().fold(1, usize::saturating_mul);
        let input = elements(&[self.h, self.w, self.inputs]);
        let output = elements(&[self.out_h(), self.out_w(), self.outputs]);
        let filter = elements(&[self.outputs, self.kernel, self.kernel, self.inputs]);
        if self.n.min(input).min(output).min(filter) == 0 {
            bail!("there is no such thing as a {self}");
        }
        let fits = MOST_ELEMENTS / input.max(output);
        if fits == 0 || filter > MOST_ELEMENTS {
            bail!("a {self} is too large for cuDNN even with a single view");
        }
        if self.n > fits {
            bail!(
                "a {self} has a tensor of more than {MOST_ELEMENTS} elements, but cuDNN can index no \
                 more, so there may be at most {fits} views: use a smaller --batch-size, with \
                 --accumulate to make up for it"
            );
        }
        Ok(())
    }
}

impl fmt::Display for ConvolutionShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, h, w, inputs, outputs, kernel, stride, padding } = self;
        write!(f, "convolution of {n} views of {h} x {w} x {inputs} with {outputs} filters of ")?;
        write!(f, "{kernel} x {kernel}, stride {stride}, padding {padding}")
    }
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// The output.
    Forward,
    /// The gradient of the input.
    Data,
    /// The gradient of the filter.
    Filter,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward pass",
            Self::Data => "input gradient",
            Self::Filter => "filter gradient",
        })
    }
}

/// The type of the elements of all three tensors. Sums are always float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Numbers {
    Bf16,
    F32,
}

/// The order in which all three tensors lie in memory. A filter counts as a batch of maps, one for
/// each output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// The channels of a pixel lie side by side.
    Nhwc,
    /// The pixels of a channel lie side by side.
    Nchw,
}

/// Fails unless the status is success. The error says what was being done.
fn check(status: Status, doing: impl FnOnce() -> String) -> Result<()> {
    if status == CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut message = [0u8; 1024];
    // SAFETY: cuDNN writes no more bytes than the buffer has.
    unsafe { sys::cudnnGetLastErrorString(message.as_mut_ptr().cast(), message.len()) };
    let message = CStr::from_bytes_until_nul(&message).map(CStr::to_string_lossy).unwrap_or_default();
    bail!("cuDNN failed at {}: {status:?} {}", doing(), message.trim())
}

/// Whether a status rejects what was described: as a bad parameter, as not supported, or by an
/// internal error such as a kernel that does not compile. The answer is then the same in every run,
/// so the next configuration may be tried. A failed allocation or a GPU that no longer works is no
/// such answer, and must not lead to another choice.
fn rejects(status: Status) -> bool {
    let allocation = [
        CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED,
        CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED,
    ];
    (2000..5000).contains(&(status as u32)) && !allocation.contains(&status)
}

/// The value of an attribute of a descriptor.
#[derive(Clone, Copy)]
enum Value<'a> {
    Integers(&'a [i64]),
    Float(f32),
    DataType(cudnnDataType_t),
    ConvolutionMode(cudnnConvolutionMode_t),
    HeuristicMode(HeuristicMode),
    Handle(cudnnHandle_t),
    Descriptor(&'a Descriptor),
    Addresses(&'a [u64]),
}

/// One of cuDNN's backend descriptors. Once its attributes are set, it is finalized and can be used.
struct Descriptor {
    raw: cudnnBackendDescriptor_t,
    kind: DescriptorType,
}

impl Descriptor {
    fn new(kind: DescriptorType) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for the new descriptor.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) };
        check(status, || format!("creating {kind:?}"))?;
        Ok(Self { raw, kind })
    }

    /// Sets the attributes, finalizes, and gives the status of that.
    fn build(kind: DescriptorType, attributes: &[(Attribute, Value)]) -> Result<(Self, Status)> {
        let descriptor = Self::new(kind)?;
        attributes.iter().try_for_each(|&(name, value)| descriptor.set(name, value))?;
        // SAFETY: the descriptor lives, and so do those that its attributes name.
        let status = unsafe { sys::cudnnBackendFinalize(descriptor.raw) };
        Ok((descriptor, status))
    }

    /// A finalized descriptor, or an error if cuDNN rejects it.
    fn finalized(kind: DescriptorType, attributes: &[(Attribute, Value)]) -> Result<Self> {
        let (descriptor, status) = Self::build(kind, attributes)?;
        check(status, || format!("finalizing {kind:?}"))?;
        Ok(descriptor)
    }

    /// A finalized descriptor, or `None` if cuDNN rejects it.
    fn if_supported(kind: DescriptorType, attributes: &[(Attribute, Value)]) -> Result<Option<Self>> {
        let (descriptor, status) = Self::build(kind, attributes)?;
        if rejects(status) {
            return Ok(None);
        }
        check(status, || format!("finalizing {kind:?}"))?;
        Ok(Some(descriptor))
    }

    fn set(&self, name: Attribute, value: Value) -> Result<()> {
        let (kind, count, elements): (AttributeType, usize, *const c_void) = match &value {
            Value::Integers(values) => (CUDNN_TYPE_INT64, values.len(), values.as_ptr().cast()),
            Value::Addresses(values) => (CUDNN_TYPE_VOID_PTR, values.len(), values.as_ptr().cast()),
            Value::Float(value) => (CUDNN_TYPE_FLOAT, 1, ptr::from_ref(value).cast()),
            Value::DataType(value) => (CUDNN_TYPE_DATA_TYPE, 1, ptr::from_ref(value).cast()),
            Value::ConvolutionMode(value) => (CUDNN_TYPE_CONVOLUTION_MODE, 1, ptr::from_ref(value).cast()),
            Value::HeuristicMode(value) => (CUDNN_TYPE_HEUR_MODE, 1, ptr::from_ref(value).cast()),
            Value::Handle(value) => (CUDNN_TYPE_HANDLE, 1, ptr::from_ref(value).cast()),
            Value::Descriptor(value) => (CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, ptr::from_ref(&value.raw).cast()),
        };
        // SAFETY: `elements` points to `count` elements of that type, which cuDNN copies. A device
        // address is as wide as a pointer.
        let status = unsafe { sys::cudnnBackendSetAttribute(self.raw, name, kind, count as i64, elements) };
        check(status, || format!("setting {name:?} of {:?}", self.kind))
    }

    /// Reads an attribute, and tells how many elements it has.
    ///
    /// # Safety
    ///
    /// `elements` must point to room for so many elements of that type, or to nothing if it is 0.
    unsafe fn get(
        &self,
        name: Attribute,
        kind: AttributeType,
        room: usize,
        elements: *mut c_void,
    ) -> Result<usize> {
        let (raw, room, mut count) = (self.raw, room as i64, 0);
        // SAFETY: the caller answers for `elements`.
        let status = unsafe { sys::cudnnBackendGetAttribute(raw, name, kind, room, &mut count, elements) };
        check(status, || format!("getting {name:?} of {:?}", self.kind))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn integer(&self, name: Attribute) -> Result<i64> {
        let mut integer = 0i64;
        // SAFETY: there is room for one integer.
        unsafe { self.get(name, CUDNN_TYPE_INT64, 1, (&raw mut integer).cast()) }?;
        Ok(integer)
    }

    /// The numbers of the notes. They are not read as cudarc's enum, because a newer cuDNN may have
    /// notes that the enum lacks.
    fn numerical_notes(&self) -> Result<Vec<u32>> {
        let (name, kind) = (CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE);
        // SAFETY: nothing is read but the count.
        let count = unsafe { self.get(name, kind, 0, ptr::null_mut()) }?;
        let mut notes = vec![0; count];
        // SAFETY: the vector has so many elements.
        unsafe { self.get(name, kind, count, notes.as_mut_ptr().cast()) }?;
        Ok(notes)
    }

    /// Descriptors of one kind, which cuDNN fills in.
    fn descriptors(&self, name: Attribute, kind: DescriptorType) -> Result<Vec<Descriptor>> {
        let of = CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: nothing is read but the count.
        let count = unsafe { self.get(name, of, 0, ptr::null_mut()) }?;
        let mut descriptors = (0..count).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>>>()?;
        let mut raw = descriptors.iter().map(|descriptor| descriptor.raw).collect::<Vec<_>>();
        // SAFETY: the vector has so many descriptors.
        let filled = unsafe { self.get(name, of, count, raw.as_mut_ptr().cast()) }?;
        descriptors.truncate(filled);
        Ok(descriptors)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was made by `new`, and nothing else destroys it.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}

/// A tensor whose sizes are given as [N, C, H, W], or [O, I, kh, kw], whatever its order in memory.
fn tensor(id: i64, sizes: [usize; 4], numbers: Numbers, order: Order) -> Result<Descriptor> {
    let data_type = match numbers {
        Numbers::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        Numbers::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
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
    fn new(shape: &ConvolutionShape, pass: Pass, numbers: Numbers, order: Order) -> Result<Self> {
        let &ConvolutionShape { n, h, w, inputs, outputs, kernel, stride, padding } = shape;
        let x = tensor(X, [n, inputs, h, w], numbers, order)?;
        let w = tensor(W, [outputs, inputs, kernel, kernel], numbers, order)?;
        let y = tensor(Y, [n, outputs, shape.out_h(), shape.out_w()], numbers, order)?;
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
fn is_acceptable(configuration: &Descriptor, numbers: Numbers) -> Result<bool> {
    let unwanted = match numbers {
        Numbers::Bf16 => &[CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC][..],
        // Tensor cores multiply float32 as TF32, which has fewer bits.
        Numbers::F32 => &[
            CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
            CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
            CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        ],
    };
    let engines = configuration.descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
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
        Some(known) => known.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR),
        None => Ok(Vec::new()),
    }
}

/// How one pass of a convolution is computed. What the plan refers to lives as long as the plan; the
/// fields are dropped in their order.
struct Plan {
    plan: Descriptor,
    workspace: usize,
    _configuration: Descriptor,
    _graph: Descriptor,
    _operation: Operation,
}

impl Plan {
    /// The first that is acceptable. The fallback mode knows slower engines that take more shapes.
    fn choose(handle: cudnnHandle_t, operation: Operation, numbers: Numbers) -> Result<Option<Self>> {
        let graph = Descriptor::finalized(
            CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
            &[
                (CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(handle)),
                (CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptor(&operation.operation)),
            ],
        )?;
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            for configuration in configurations(&graph, mode)? {
                if !is_acceptable(&configuration, numbers)? {
                    continue;
                }
                let plan = Descriptor::if_supported(
                    CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                    &[
                        (CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(handle)),
                        (CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, Value::Descriptor(&configuration)),
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
pub(crate) struct Convolutions {
    handle: cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<(ConvolutionShape, Pass, Numbers, Order), Option<Plan>>,
}

// SAFETY: the handle and the descriptors belong to nobody else, and cuDNN binds them to no thread. It
// only forbids that two threads use them at once, which `&mut self` rules out. Each method makes the
// GPU's context that of the thread that calls it.
unsafe impl Send for Convolutions {}

impl Convolutions {
    /// Starts cuDNN on a stream.
    pub fn new(stream: Arc<CudaStream>) -> Result<Self> {
        let (major, minor, patch) = version();
        // Before version 9, status codes had other numbers.
        if major < 9 {
            bail!("cuDNN is of version {major}.{minor}.{patch}, but 9 or newer is needed");
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

    /// The bytes of workspace that a pass needs. How it is computed is chosen when it is first asked
    /// for. `None` says that no engine of cuDNN is acceptable for this order.
    pub fn plan(
        &mut self,
        shape: ConvolutionShape,
        pass: Pass,
        numbers: Numbers,
        order: Order,
    ) -> Result<Option<usize>> {
        let plan = match self.plans.entry((shape, pass, numbers, order)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                shape.check()?;
                self.stream.context().bind_to_thread().map_err(Error::wrap)?;
                let plan = Operation::new(&shape, pass, numbers, order)
                    .and_then(|operation| Plan::choose(self.handle, operation, numbers))
                    .map_err(|error| {
                        error.context(format!("the {pass} of a {shape} could not be planned"))
                    })?;
                entry.insert(plan)
            }
        };
        Ok(plan.as_ref().map(|plan| plan.workspace))
    }

    /// Enqueues a pass that was planned. The addresses are those of the input, the filter and the
    /// output, or of their gradients, and the one that the pass computes is written. The workspace lies
    /// at a multiple of 256 and has as many bytes as [`Self::plan`] said.
    pub fn run(
        &mut self,
        shape: ConvolutionShape,
        pass: Pass,
        numbers: Numbers,
        order: Order,
        addresses: [u64; 3],
        workspace: u64,
    ) -> Result<()> {
        if addresses.iter().any(|address| address % ALIGNMENT != 0) {
            bail!("the {pass} of a {shape} has tensors at {addresses:x?}, not at multiples of {ALIGNMENT}");
        }
        let Some(Some(plan)) = self.plans.get(&(shape, pass, numbers, order)) else {
            bail!("the {pass} of a {shape} has no plan");
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
        // SAFETY: all three live, and the caller answers for the memory behind the addresses.
        let status = unsafe { sys::cudnnBackendExecute(self.handle, plan.plan.raw, pack.raw) };
        check(status, || format!("starting the {pass} of a {shape}"))
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        // There is nobody to tell of an error here.
        let _ = self.stream.context().bind_to_thread();
        self.plans.clear();
        // SAFETY: the handle was made by `new`, and all that refers to it is gone.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
