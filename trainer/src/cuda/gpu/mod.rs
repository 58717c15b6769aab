//! CUDA: a GPU that runs programs.
//!
//! The driver, NVRTC, cuDNN and cuBLASLt are loaded when a GPU is asked for, so a program built with this feature starts
//! on machines that have none of them. Kernels are compiled for the GPU at hand as it is opened.
//!
//! All work is on one stream; a second one copies the next batch from page-locked memory. A program that was run a few
//! times is recorded as a CUDA graph and replayed from then on.

mod compile;
mod convolutions;
mod memory;
mod products;
mod profile;
mod staging;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::sys as cublaslt;
use cudarc::cudnn::sys as cudnn;
use cudarc::driver::sys::{self as driver, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaStream, result};
use cudarc::nvrtc::sys as nvrtc;

use super::backend::{Backend, Outcome, Places};
use super::program::{Argument, Launch, Numbers, Op, Operand, Program, Work};
use crate::{Error, Result};
use convolutions::Convolutions;
use memory::Memory;
use products::Products;
pub use profile::Part;
use profile::Profile;
use staging::{Readback, Staging};

/// Runs of a program before it is recorded: libraries set themselves up meanwhile.
const RUNS_BEFORE_RECORDING: usize = 2;

/// Programs of fewer pieces of work are not worth recording.
const LEAST_RECORDED: usize = 3;

/// A failure of CUDA's libraries, with what was being done.
fn failed_with<E: std::fmt::Debug>(what: &str) -> impl Fn(E) -> Error {
    move |error| Error::Device(format!("{what}: {error:?}"))
}

/// A program's record.
enum Recording {
    /// Not made yet; runs so far.
    Runs(usize),
    /// To be replayed.
    Graph(CudaGraph),
    /// It could not be made.
    Refused,
}

/// A GPU and the libraries that drive it.
pub struct Gpu {
    // In the order in which they must be dropped: what was recorded and allocated goes before the context.
    recordings: HashMap<&'static str, Recording>,
    profile: Option<Profile>,
    convolutions: Convolutions,
    products: Products,
    staging: Staging,
    readback: Readback,
    workspace: Memory,
    allocated: Vec<Memory>,
    kernels: HashMap<&'static str, CudaFunction>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    record: bool,
}

/// Why the GPU of this number cannot be used, or `None` if it can.
pub fn why_not(number: usize) -> Option<String> {
    // SAFETY: these load libraries and let go of them.
    let libraries = unsafe {
        [
            ("the driver (libcuda.so.1)", driver::is_culib_present as unsafe fn() -> bool),
            ("NVRTC (libnvrtc.so)", nvrtc::is_culib_present),
            ("cuDNN 9 (libcudnn.so)", cudnn::is_culib_present),
            ("cuBLASLt (libcublasLt.so)", cublaslt::is_culib_present),
        ]
        .into_iter()
        .find(|(_, is_present)| !is_present())
    };
    if let Some((library, _)) = libraries {
        return Some(format!("{library} is not found; LD_LIBRARY_PATH may name its folder"));
    }
    match CudaContext::device_count() {
        Err(error) => Some(format!("the driver reports {error:?}")),
        Ok(count) if usize::try_from(count).is_ok_and(|count| number < count) => None,
        Ok(count) => Some(format!("there is no GPU {number}; the driver sees {count}")),
    }
}

impl Gpu {
    /// Opens the GPU of this number and compiles the kernels for maps of such numbers.
    ///
    /// # Errors
    /// If there is no such GPU, or a library is missing or fails.
    pub fn open(number: usize, numbers: Numbers) -> Result<Self> {
        if let Some(reason) = why_not(number) {
            return Err(Error::Option { option: "device", reason });
        }
        let context = CudaContext::new(number).map_err(failed_with("opening it"))?;
        let stream = context.new_stream().map_err(failed_with("making a stream"))?;
        let kernels = compile::kernels(&context, numbers)?;
        Ok(Self {
            recordings: HashMap::new(),
            profile: None,
            convolutions: Convolutions::new(&stream)?,
            products: Products::new()?,
            staging: Staging::new(&context)?,
            readback: Readback::new(&context)?,
            workspace: Memory::none(&context),
            allocated: Vec::new(),
            kernels,
            stream,
            context,
            record: true,
        })
    }

    /// The GPU's name.
    pub fn name(&self) -> Result<String> {
        self.context.name().map_err(failed_with("asking its name"))
    }

    /// Bytes of its memory: free, and in all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(failed_with("asking for its memory"))
    }

    /// Whether programs are recorded as graphs; they are unless told otherwise.
    pub fn record(&mut self, record: bool) {
        self.record = record;
        self.recordings.clear();
    }

    /// Begins to measure each piece of work, without recorded graphs.
    pub fn begin_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    /// The time that each part of the work took since [`Gpu::begin_profile`].
    pub fn end_profile(&mut self) -> Vec<Part> {
        self.profile.take().map(Profile::parts).unwrap_or_default()
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed_with("waiting for it"))
    }

    /// Counts what was allocated as free: it goes back when a learner cannot be made.
    fn with_allocated(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory { needed, free, fits } => {
                let allocated: usize = self.allocated.iter().map(Memory::bytes).sum();
                Error::OutOfMemory { needed, free: free + allocated, fits }
            }
            other => other,
        }
    }

    fn run_op(&self, op: &Op, program: &Program, places: &Places) -> Result<()> {
        let address = |operand| places.address(program, operand);
        match &op.work {
            Work::Launch(launch) => self.launch(launch, address),
            Work::Convolve(work) => {
                let operands = [work.input, work.filter, work.output].map(address);
                self.convolutions.run(work, operands, &self.workspace)
            }
            Work::Multiply(work) => {
                let operands = [work.left, work.right, work.result].map(address);
                self.products.run(work, operands, &self.workspace, &self.stream)
            }
            Work::Copy { from, to, bytes } => {
                let (from, to) = (address(*from), address(*to));
                // SAFETY: both places hold so many bytes, as the program says.
                unsafe { result::memcpy_dtod_async(to, from, *bytes, self.stream.cu_stream()) }
                    .map_err(failed_with("copying"))
            }
        }
    }

    fn launch(&self, launch: &Launch, address: impl Fn(Operand) -> u64) -> Result<()> {
        let mut words: Vec<[u8; 8]> = launch.arguments.iter().map(|a| argument_bytes(*a, &address)).collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| word.as_mut_ptr().cast()).collect();
        let ([x, y], [wide, high]) = (launch.grid, launch.block);
        let function = &self.kernels[launch.kernel];
        // SAFETY: the arguments are those of the kernel, which `kernels.rs` lists beside it; each points to eight bytes of
        // which the kernel's type takes the first, on a little-endian machine.
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, 1),
                (wide, high, 1),
                0,
                self.stream.cu_stream(),
                &mut pointers,
            )
        };
        launched.map_err(|error| Error::Device(format!("starting {}: {error:?}", launch.kernel)))
    }

    fn run_all(&mut self, program: &Program, places: &Places) -> Result<()> {
        if self.profile.is_none() {
            return program.ops.iter().try_for_each(|op| self.run_op(op, program, places));
        }
        let mut profile = self.profile.take().unwrap_or_default();
        for op in &program.ops {
            profile.measure(op.part, &self.context, &self.stream, || self.run_op(op, program, places))?;
        }
        profile.read()?;
        self.profile = Some(profile);
        Ok(())
    }

    /// Records a program as a graph, without running it; `None` where that cannot be done.
    fn recorded(&mut self, program: &Program, places: &Places) -> Option<CudaGraph> {
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).ok()?;
        let ran = self.run_all(program, places);
        // A record that was begun must be ended, whatever became of it.
        let graph = self.stream.end_capture(driver::CUgraphInstantiate_flags(0));
        ran.ok()?;
        graph.ok()?
    }

    /// How a program runs this time.
    fn recording(&mut self, program: &Program, places: &Places) -> &Recording {
        let runs = match self.recordings.get(program.name) {
            None => 0,
            Some(Recording::Runs(runs)) => *runs,
            Some(_) => return &self.recordings[program.name],
        };
        let next = match runs < RUNS_BEFORE_RECORDING {
            true => Recording::Runs(runs + 1),
            false => self.recorded(program, places).map_or(Recording::Refused, Recording::Graph),
        };
        self.recordings.insert(program.name, next);
        &self.recordings[program.name]
    }
}

fn argument_bytes(argument: Argument, address: impl Fn(Operand) -> u64) -> [u8; 8] {
    match argument {
        Argument::Place(place) => address(place).to_le_bytes(),
        Argument::Int(number) => i64::from(number).to_le_bytes(),
        Argument::Long(number) => number.to_le_bytes(),
        Argument::Float(number) => u64::from(number.to_bits()).to_le_bytes(),
    }
}

/// Whether a program's operands are the same each time.
fn is_fixed(program: &Program) -> bool {
    let staged = |op: &Op| op.operands().iter().any(|place| matches!(place, Operand::Staged(_)));
    program.ops.len() >= LEAST_RECORDED && !program.ops.iter().any(staged)
}

impl Backend for Gpu {
    fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let memory = Memory::zeros(&self.context, bytes).map_err(|error| self.with_allocated(error))?;
        let address = memory.address();
        self.allocated.push(memory);
        Ok(address)
    }

    fn prepare(&mut self, program: &Program) -> Result<()> {
        let mut needed = self.workspace.bytes();
        for op in &program.ops {
            needed = needed.max(match &op.work {
                Work::Convolve(work) => self.convolutions.prepare(work)?,
                Work::Multiply(work) => self.products.prepare(work)?,
                _ => 0,
            });
        }
        if needed > self.workspace.bytes() {
            self.workspace = Memory::none(&self.context);
            let workspace = Memory::zeros(&self.context, needed);
            self.workspace = workspace.map_err(|error| self.with_allocated(error))?;
        }
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        self.synchronize()?;
        // SAFETY: `to` lies in allocated memory that holds so many bytes.
        unsafe { result::memcpy_htod_sync(to, bytes) }.map_err(failed_with("copying to it"))?;
        // The call may return before the last bytes have arrived, and no stream of ours waits for them.
        self.context.synchronize().map_err(failed_with("copying to it"))
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        // SAFETY: `from` lies in allocated memory that holds so many bytes.
        unsafe { result::memcpy_dtoh_sync(bytes, from) }.map_err(failed_with("copying from it"))
    }

    fn stage(&mut self, description: &[u8], pixels: &[u8]) -> Result<[u64; 2]> {
        self.staging.stage(description, pixels, &self.stream)
    }

    fn run(&mut self, program: &Program, places: &Places) -> Result<()> {
        self.context.bind_to_thread().map_err(failed_with("turning to it"))?;
        let records = self.record && self.profile.is_none() && is_fixed(program);
        if records && let Recording::Graph(graph) = self.recording(program, places) {
            return graph.launch().map_err(failed_with("replaying a graph"));
        }
        self.run_all(program, places)
    }

    fn fetch(&mut self, from: u64) -> Result<()> {
        self.readback.fetch(from, &self.stream)
    }

    fn fetched(&mut self) -> Result<Outcome> {
        self.readback.fetched()
    }
}
