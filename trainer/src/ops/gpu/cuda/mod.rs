//! CUDA: candle's device, set up for training, and what runs on it.

mod cudnn;
mod descriptor;
mod engines;
mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
mod operation;
mod plan;
mod products;
pub(super) mod transfer;

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use candle_core::cuda::DeviceId;
use candle_core::{CudaDevice, Device, Error, Result, Shape, Tensor, bail};
use cudarc::driver::sys::{
    self, CUdevice_attribute_enum as Attribute, CUmemPool_attribute_enum as PoolAttribute,
};
use cudarc::driver::{CudaContext, DevicePtr, result};

use self::cudnn::Convolutions;
pub use self::cudnn::version as cudnn_version;
pub use self::engines::{Engines, engines_without_device};
use self::operation::{Order, Work};
pub use self::plan::Engine;
pub(crate) use self::products::multiply;
use super::PeakMemory;
use super::address::address;
use super::grid::Grid;
use crate::ops::geometry::{Geometry, Pass};

/// The compute capability that the kernels were compiled for, times ten.
const COMPUTE_CAPABILITY: &str = env!("SCRL_COMPUTE_CAP");

/// The CUDA version of the toolkit, as `CUDA_VERSION` of `cuda.h`. Its PTX needs a driver that is
/// at least as new.
const CUDA_VERSION: &str = env!("SCRL_CUDA_VERSION");

/// From this compute capability on, kernels are compiled for features of just one.
const FIRST_SPECIFIC: i32 = 90;

/// The oldest compute capability that multiplies bfloat16.
const OLDEST: i32 = 80;

/// Both modules of kernels: their names and their PTX.
const MODULES: [(&str, &str); 2] = [("scrl_f32", kernels::F32), ("scrl_bf16", kernels::BF16)];

/// A kernel that both modules have.
const ANY_KERNEL: &str = "add";

/// The devices that were opened. They are kept to the end of the process, as the destructors of
/// cuBLAS's and cuRAND's handles panic after an error of the GPU, and would hide its cause.
static OPENED: Mutex<BTreeMap<usize, CudaDevice>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// cuDNN and its plans, for each device.
    static CONVOLUTIONS: RefCell<HashMap<DeviceId, Convolutions>> = RefCell::new(HashMap::new());
}

/// The number of GPUs that the driver lets this process use; 0 without a driver.
pub fn count() -> usize {
    CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Why the GPU of this number cannot be used, or `None` if it can.
pub fn why_not(number: usize) -> Option<String> {
    match check(number) {
        Ok(reason) => reason,
        Err(error) => Some(format!("the CUDA driver reports {:?}", error.0)),
    }
}

fn check(number: usize) -> std::result::Result<Option<String>, result::DriverError> {
    let count = CudaContext::device_count()?;
    if usize::try_from(count).is_ok_and(|count| number >= count) {
        return Ok(Some(format!("there is no GPU {number}: the driver sees {count}")));
    }
    let mut driver: c_int = 0;
    // SAFETY: `driver` is a place for the version.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result()?;
    let needed: c_int = CUDA_VERSION.parse().unwrap_or(0);
    if driver < needed {
        let version = |number: c_int| format!("{}.{}", number / 1000, number % 1000 / 10);
        let (driver, needed) = (version(driver), version(needed));
        return Ok(Some(format!(
            "the driver knows CUDA {driver}, this program is of CUDA {needed}: update it"
        )));
    }
    let gpu = result::device::get(number as c_int)?;
    let [major, minor] = [
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    ]
    // SAFETY: the driver returned this device.
    .map(|attribute| unsafe { result::device::get_attribute(gpu, attribute) });
    let (major, minor) = (major?, minor?);
    let (found, built) = (10 * major + minor, COMPUTE_CAPABILITY.parse().unwrap_or(0));
    if found < OLDEST {
        return Ok(Some(format!(
            "GPU {number} has compute capability {major}.{minor}, 8.0 or newer is needed"
        )));
    }
    if found != built && (found < built || built >= FIRST_SPECIFIC) {
        let reason =
            format!("GPU {number} has compute capability {found}, this program is for {built}");
        return Ok(Some(format!("{reason}: build with CUDA_COMPUTE_CAP={found}")));
    }
    let (major, minor, _) = cudnn::version();
    if major < cudnn::OLDEST {
        return Ok(Some(format!("cuDNN is {major}.{minor}, {} or newer is needed", cudnn::OLDEST)));
    }
    Ok(None)
}

/// The GPU of this number as a device of candle's with a stream of its own, with its kernels
/// loaded, for which the driver compiles them when they run on a kind of GPU for the first time.
/// Every call gives the same device.
///
/// # Errors
/// If it cannot be used, see [`why_not`].
pub fn open(number: usize) -> Result<Device> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&number) {
        return Ok(Device::Cuda(device.clone()));
    }
    if let Some(reason) = why_not(number) {
        bail!("{reason}");
    }
    let device = CudaDevice::new_with_stream(number)?;
    opened.insert(number, device.clone());
    // SAFETY: tensors are made and used on this one stream; `transfer.rs` orders the copies to and
    // from them itself.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device).map_err(Error::wrap)?;
    products::set_up(&device)?;
    for (module, ptx) in MODULES {
        device.get_or_load_custom_func(ANY_KERNEL, module, ptx)?;
    }
    Ok(Device::Cuda(device))
}

/// A GPU's model; `None` for the CPU.
pub fn model(device: &Device) -> Result<Option<String>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    device.cuda_stream().context().name().map(Some).map_err(Error::wrap)
}

/// The machine and the id of a GPU, which no other one has; empty for the CPU.
pub fn place(device: &Device) -> Result<String> {
    let Device::Cuda(device) = device else { return Ok(String::new()) };
    let id = device.cuda_stream().context().uuid().map_err(Error::wrap)?;
    let id: String = id.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("GPU {id} of {}", host.trim()))
}

/// Bytes of the GPU's memory that no program uses, and those that the pool keeps for this one;
/// `None` on the CPU.
pub fn free_memory(device: &Device) -> Result<Option<usize>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    let (free, _) = device.cuda_stream().context().mem_get_info().map_err(Error::wrap)?;
    let kept = match memory_pool(device).map_err(Error::wrap)? {
        Some(pool) => bytes_of_pool(pool, PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
            .saturating_sub(bytes_of_pool(pool, PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?),
        None => 0,
    };
    Ok(Some(free + kept as usize))
}

/// The most memory of a GPU that tensors and workspaces have taken so far; `None` on the CPU, and
/// on GPUs without memory pools.
pub fn peak_memory(device: &Device) -> Result<Option<PeakMemory>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    let Some(pool) = memory_pool(device).map_err(Error::wrap)? else { return Ok(None) };
    Ok(Some(PeakMemory {
        used: bytes_of_pool(pool, PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
        reserved: bytes_of_pool(pool, PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?,
    }))
}

/// One of the sizes of a device's own pool.
fn bytes_of_pool(pool: sys::CUmemoryPool, attribute: PoolAttribute) -> Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the pool lives as long as the device, and its sizes are 64-bit numbers.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
        .map(|()| bytes)
        .map_err(Error::wrap)
}

/// The pool that the device's memory comes from. Some virtual GPUs have none.
fn memory_pool(
    device: &CudaDevice,
) -> std::result::Result<Option<sys::CUmemoryPool>, result::DriverError> {
    let stream = device.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device is that of a context that lives.
    unsafe { result::device::get_default_mem_pool(stream.context().cu_device()) }.map(Some)
}

/// Lets the pool keep what was freed, instead of giving it back to the system whenever the host
/// waits for the device.
fn keep_memory(device: &CudaDevice) -> std::result::Result<(), result::DriverError> {
    let Some(pool) = memory_pool(device)? else { return Ok(()) };
    let mut threshold = u64::MAX;
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is a device's own, and the threshold is of the attribute's type.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) }
}

/// Starts a kernel.
pub(super) fn launch(
    device: &CudaDevice,
    kernel: &'static str,
    bf16: bool,
    grid: Grid,
    arguments: &mut [*mut c_void],
) -> Result<()> {
    let (module, ptx) = MODULES[usize::from(bf16)];
    let function = device.get_or_load_custom_func(kernel, module, ptx)?;
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let ([x, y], [wide, high]) = (grid.blocks, grid.threads);
    // SAFETY: the arguments are those of the kernel, as the op that launches it says, and tensors
    // outlive the launch, as their memory is freed in the order of the stream.
    unsafe {
        result::launch_kernel(
            function.cu_function(),
            (x, y, 1),
            (wide, high, 1),
            0,
            stream.cu_stream(),
            arguments,
        )
    }
    .map_err(|error| Error::msg(format!("starting the kernel {kernel}: {error}")))
}

/// One pass of a convolution from its two operands, in the order of [`Pass`], by cuDNN.
pub(crate) fn convolve(
    device: &CudaDevice,
    g: &Geometry,
    pass: Pass,
    shape: Shape,
    a: &Tensor,
    b: &Tensor,
) -> Result<Tensor> {
    CONVOLUTIONS.with_borrow_mut(|all| {
        let convolutions = match all.entry(device.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Convolutions::new(device.cuda_stream())?),
        };
        if let Some(workspace) = convolutions.plan(g, pass, a.dtype(), Order::Nhwc)? {
            return run(device, convolutions, g, (pass, Order::Nhwc, workspace), shape, a, b);
        }
        // For float32 there may be an engine that repeats its bits for the other order only.
        let Some(workspace) = convolutions.plan(g, pass, a.dtype(), Order::Nchw)? else {
            bail!(
                "cuDNN has no engine that repeats its bits for the {pass} of a {g} in {:?}",
                a.dtype()
            );
        };
        let swapped = |tensor: &Tensor| tensor.permute((0, 3, 1, 2))?.contiguous();
        let (n, h, w, c) = shape.dims4()?;
        let plan = (pass, Order::Nchw, workspace);
        let result =
            run(device, convolutions, g, plan, (n, c, h, w).into(), &swapped(a)?, &swapped(b)?)?;
        result.permute((0, 2, 3, 1))?.contiguous()
    })
}

/// A line for each pass that this thread has planned: its engine, and how cuDNN ranks it.
pub fn plans() -> Vec<String> {
    let line = |(&(g, pass, dtype, order), engine): (&Work, Option<&Engine>)| {
        let engine = engine.map_or("no engine".to_owned(), Engine::to_string);
        format!("{pass} of a {g}, {dtype:?} {order:?}: {engine}")
    };
    let mut lines: Vec<String> = CONVOLUTIONS.with_borrow(|all| {
        all.values().flat_map(|convolutions| convolutions.engines().map(line)).collect()
    });
    lines.sort();
    lines
}

/// Starts a planned pass.
fn run(
    device: &CudaDevice,
    convolutions: &mut Convolutions,
    g: &Geometry,
    (pass, order, workspace): (Pass, Order, usize),
    shape: Shape,
    a: &Tensor,
    b: &Tensor,
) -> Result<Tensor> {
    // SAFETY: cuDNN writes all of it.
    let result = unsafe { Tensor::empty(shape, a.dtype(), &Device::Cuda(device.clone())) }?;
    // SAFETY: cuDNN writes before it reads.
    let workspace = unsafe { device.alloc::<u8>(workspace.max(1)) }?;
    let [a, b, computed] = [address(a)?, address(b)?, address(&result)?];
    let addresses = match pass {
        Pass::Forward => [a, b, computed],
        Pass::Data => [computed, b, a],
        Pass::Filter => [a, computed, b],
    };
    let scratch = workspace.device_ptr(workspace.stream()).0;
    convolutions.run(g, pass, result.dtype(), order, addresses, scratch)?;
    Ok(result)
}
