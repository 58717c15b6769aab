//! Convolutions by cuDNN, on maps and filters whose channels lie side by side.
//!
//! The algorithm of each shape is chosen once, by cuDNN's own ranking, from those that give the same bits each time; a
//! choice by measured times could differ from run to run.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use cudarc::cudnn::result;
use cudarc::cudnn::sys::{
    self, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
    cudnnDataType_t, cudnnDeterminism_t, cudnnMathType_t, cudnnStatus_t, cudnnTensorFormat_t,
};
use cudarc::driver::CudaStream;

use super::failed_with;
use super::memory::Memory;
use crate::cuda::program::{ConvolutionShape, Convolve, Numbers, Pass};
use crate::{Error, Result};

/// The most bytes that a convolution may use beside its tensors.
const MOST_WORKSPACE: usize = 1 << 30;

/// Algorithms that cuDNN is asked to rank: more than it has.
const RANKED: usize = 10;

const MAPS: cudnnTensorFormat_t = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// How one of a convolution's computations is done.
#[derive(Clone, Copy)]
enum Algorithm {
    Forward(cudnnConvolutionFwdAlgo_t),
    Data(cudnnConvolutionBwdDataAlgo_t),
    Filter(cudnnConvolutionBwdFilterAlgo_t),
}

/// The descriptions of a convolution's tensors.
struct Descriptions {
    input: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    output: sys::cudnnTensorDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

struct Plan {
    descriptions: Descriptions,
    algorithm: Algorithm,
    workspace: usize,
}

/// The library and its plans.
pub struct Convolutions {
    handle: sys::cudnnHandle_t,
    plans: HashMap<(ConvolutionShape, Pass), Plan>,
}

fn data_type(numbers: Numbers) -> cudnnDataType_t {
    match numbers {
        Numbers::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        Numbers::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
    }
}

/// Tensor cores for bfloat16; plain float32, no TF32, for float32.
fn math(numbers: Numbers) -> cudnnMathType_t {
    match numbers {
        Numbers::Bf16 => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        Numbers::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
    }
}

impl Descriptions {
    fn new(shape: &ConvolutionShape) -> Result<Self> {
        let what = "describing a convolution";
        let described = Self {
            input: result::create_tensor_descriptor().map_err(failed_with(what))?,
            filter: result::create_filter_descriptor().map_err(failed_with(what))?,
            output: result::create_tensor_descriptor().map_err(failed_with(what))?,
            convolution: result::create_convolution_descriptor().map_err(failed_with(what))?,
        };
        let &ConvolutionShape { n, side, inputs, outputs, kernel, stride, numbers } = shape;
        let kind = data_type(numbers);
        let ints = |sizes: [usize; 4]| sizes.map(|size| size as c_int);
        let out_side = shape.out_side();
        let [padding, stride] = [shape.padding(), stride].map(|size| size as c_int);
        // SAFETY: the descriptions were made above.
        unsafe {
            let Self { input, filter, output, convolution } = described;
            result::set_tensor4d_descriptor(input, MAPS, kind, ints([n, inputs, side, side]))
                .and_then(|()| {
                    let sizes = ints([outputs, inputs, kernel, kernel]);
                    result::set_filter4d_descriptor(filter, kind, MAPS, sizes)
                })
                .and_then(|()| {
                    let sizes = ints([n, outputs, out_side, out_side]);
                    result::set_tensor4d_descriptor(output, MAPS, kind, sizes)
                })
                .and_then(|()| {
                    result::set_convolution2d_descriptor(
                        convolution,
                        padding,
                        padding,
                        stride,
                        stride,
                        1,
                        1,
                        sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                        cudnnDataType_t::CUDNN_DATA_FLOAT,
                    )
                })
                .and_then(|()| result::set_convolution_math_type(convolution, math(numbers)))
        }
        .map_err(failed_with(what))?;
        Ok(described)
    }
}

impl Drop for Descriptions {
    fn drop(&mut self) {
        // SAFETY: they were made by `new`, and nobody else destroys them.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.input);
            let _ = result::destroy_filter_descriptor(self.filter);
            let _ = result::destroy_tensor_descriptor(self.output);
            let _ = result::destroy_convolution_descriptor(self.convolution);
        }
    }
}

/// What cuDNN says of an algorithm, whatever the computation.
struct Ranked<A> {
    algorithm: A,
    status: cudnnStatus_t,
    determinism: cudnnDeterminism_t,
    math: cudnnMathType_t,
    workspace: usize,
}

impl<A> Ranked<A> {
    /// Whether it works, repeats its bits, computes as asked, and does not need too much memory.
    fn fits(&self, numbers: Numbers) -> bool {
        use cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH};
        self.status == cudnnStatus_t::CUDNN_STATUS_SUCCESS
            && self.determinism == cudnnDeterminism_t::CUDNN_DETERMINISTIC
            && (numbers == Numbers::Bf16 || matches!(self.math, CUDNN_DEFAULT_MATH | CUDNN_FMA_MATH))
            && self.workspace <= MOST_WORKSPACE
    }
}

/// Asks cuDNN for its ranking of one computation: the first that fits, and the kind of arithmetic that it was ranked for.
macro_rules! rank {
    ($ask:path, $kind:ty, $numbers:expr, ($($description:expr),+)) => {{
        let mut found = [const { std::mem::MaybeUninit::<$kind>::zeroed() }; RANKED];
        let mut count: c_int = 0;
        // SAFETY: the descriptions are whole, and there is room for as many answers as are asked for.
        unsafe { $ask($($description),+, RANKED as c_int, &mut count, found.as_mut_ptr().cast()) }
            .map_err(failed_with("ranking a convolution's algorithms"))?;
        let mut ranked = found.iter().take(count as usize).map(|answer| {
            // SAFETY: cuDNN has written as many answers as it says.
            let answer = unsafe { answer.assume_init_ref() };
            Ranked {
                algorithm: answer.algo,
                status: answer.status,
                determinism: answer.determinism,
                math: answer.mathType,
                workspace: answer.memory,
            }
        });
        ranked.find(|ranked| ranked.fits($numbers)).map(|ranked| (ranked.algorithm, ranked.math))
    }};
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, shape: &ConvolutionShape, pass: Pass) -> Result<Self> {
        let descriptions = Descriptions::new(shape)?;
        let none = || {
            Error::Device(format!("cuDNN has no algorithm that repeats its bits for {pass:?} of {shape:?}"))
        };
        let (algorithm, math) = descriptions.choose(handle, pass, shape.numbers)?.ok_or_else(none)?;
        if shape.numbers == Numbers::Bf16 {
            // SAFETY: the description was made above.
            unsafe { result::set_convolution_math_type(descriptions.convolution, math) }
                .map_err(failed_with("planning a convolution"))?;
        }
        let workspace = descriptions.workspace(handle, algorithm)?;
        Ok(Self { descriptions, algorithm, workspace })
    }
}

impl Descriptions {
    fn choose(
        &self,
        handle: sys::cudnnHandle_t,
        pass: Pass,
        numbers: Numbers,
    ) -> Result<Option<(Algorithm, cudnnMathType_t)>> {
        let &Self { input, filter, output, convolution } = self;
        Ok(match pass {
            Pass::Forward => rank!(
                result::get_convolution_forward_algorithm,
                sys::cudnnConvolutionFwdAlgoPerf_t,
                numbers,
                (handle, input, filter, convolution, output)
            )
            .map(|(algorithm, math)| (Algorithm::Forward(algorithm), math)),
            Pass::Data => rank!(
                result::get_convolution_backward_data_algorithm,
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                numbers,
                (handle, filter, output, convolution, input)
            )
            .map(|(algorithm, math)| (Algorithm::Data(algorithm), math)),
            Pass::Filter => rank!(
                result::get_convolution_backward_filter_algorithm,
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                numbers,
                (handle, input, output, convolution, filter)
            )
            .map(|(algorithm, math)| (Algorithm::Filter(algorithm), math)),
        })
    }

    /// Bytes that an algorithm needs beside the tensors.
    fn workspace(&self, handle: sys::cudnnHandle_t, algorithm: Algorithm) -> Result<usize> {
        let &Self { input, filter, output, convolution } = self;
        // SAFETY: the descriptions are whole.
        unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => result::get_convolution_forward_workspace_size(
                    handle,
                    input,
                    filter,
                    convolution,
                    output,
                    algorithm,
                ),
                Algorithm::Data(algorithm) => result::get_convolution_backward_data_workspace_size(
                    handle,
                    filter,
                    output,
                    convolution,
                    input,
                    algorithm,
                ),
                Algorithm::Filter(algorithm) => result::get_convolution_backward_filter_workspace_size(
                    handle,
                    input,
                    output,
                    convolution,
                    filter,
                    algorithm,
                ),
            }
        }
        .map_err(failed_with("planning a convolution"))
    }
}

impl Convolutions {
    pub fn new(stream: &CudaStream) -> Result<Self> {
        let handle = result::create_handle().map_err(failed_with("starting cuDNN"))?;
        // SAFETY: both are valid; the stream lives as long as the GPU that owns this.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(failed_with("starting cuDNN"))?;
        Ok(Self { handle, plans: HashMap::new() })
    }

    /// Chooses how a convolution is computed, and returns the bytes that it needs beside its tensors.
    pub fn prepare(&mut self, work: &Convolve) -> Result<usize> {
        let key = (work.shape, work.pass);
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan.workspace);
        }
        let plan = Plan::new(self.handle, &work.shape, work.pass)?;
        let workspace = plan.workspace;
        self.plans.insert(key, plan);
        Ok(workspace)
    }

    /// Starts a convolution that was prepared.
    pub fn run(&self, work: &Convolve, operands: [u64; 3], workspace: &Memory) -> Result<()> {
        let plan = &self.plans[&(work.shape, work.pass)];
        let Descriptions { input, filter, output, convolution } = &plan.descriptions;
        let [x, w, y] = operands.map(|address| address as *mut c_void);
        let (one, kept) = (1.0f32, if work.accumulate { 1.0f32 } else { 0.0 });
        let (one, kept) = ((&raw const one).cast(), (&raw const kept).cast());
        let (space, bytes) = (workspace.address() as *mut c_void, plan.workspace);
        let handle = self.handle;
        // SAFETY: the tensors have the sizes of the plan, as the program says, and the workspace those of all plans.
        let started = unsafe {
            match plan.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle,
                    one,
                    *input,
                    x,
                    *filter,
                    w,
                    *convolution,
                    algorithm,
                    space,
                    bytes,
                    kept,
                    *output,
                    y,
                ),
                Algorithm::Data(algorithm) => result::convolution_backward_data(
                    handle,
                    one,
                    *filter,
                    w,
                    *output,
                    y,
                    *convolution,
                    algorithm,
                    space,
                    bytes,
                    kept,
                    *input,
                    x,
                ),
                Algorithm::Filter(algorithm) => result::convolution_backward_filter(
                    handle,
                    one,
                    *input,
                    x,
                    *output,
                    y,
                    *convolution,
                    algorithm,
                    space,
                    bytes,
                    kept,
                    *filter,
                    w,
                ),
            }
        };
        started.map_err(|error| failed_with(&format!("starting {:?} of {:?}", work.pass, work.shape))(error))
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nobody else destroys it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
