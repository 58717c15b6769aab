//! Devices that run the kernels of `kernels/`: CUDA's, or in tests an emulation on the CPU.
//!
//! The emulation compiles the same sources as C++ and runs them through the very launches of the
//! ops, so that grids, arguments and arithmetic are tested without a GPU. Inside [`emulate`],
//! tensors on the CPU, float32 or bfloat16, count as the device's.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::address::address;
#[cfg(feature = "cuda")]
use super::cuda;
use super::grid::Grid;

/// Runs kernels in place of a GPU.
pub trait Emulator {
    /// Runs a kernel of `f32.cu`, or with `bf16` of `bf16.cu`, on memory of the CPU. `arguments`
    /// points to each argument, as for `cuLaunchKernel`.
    fn launch(
        &self,
        bf16: bool,
        kernel: &str,
        blocks: [u32; 2],
        threads: [u32; 2],
        arguments: &mut [*mut c_void],
    );
}

thread_local! {
    static EMULATOR: RefCell<Option<Rc<dyn Emulator>>> = const { RefCell::new(None) };
}

/// Runs `work` with its ops on tensors of the CPU computed as on a device, their kernels by
/// `emulator`.
pub fn emulate<R>(emulator: Rc<dyn Emulator>, work: impl FnOnce() -> R) -> R {
    let before = EMULATOR.replace(Some(emulator));
    let result = work();
    EMULATOR.set(before);
    result
}

/// A device that runs the kernels.
#[derive(Clone)]
pub(crate) enum Gpu {
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaDevice),
    Emulated(Rc<dyn Emulator>),
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// The address of a contiguous tensor, which is read or written.
    Tensor(&'a Tensor),
    /// The address of nothing.
    Null,
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// A struct.
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    /// A size, which the kernels count in 32 bits.
    pub fn int(size: usize) -> Result<Self> {
        match i32::try_from(size) {
            Ok(size) => Ok(Self::Int(size)),
            Err(_) => {
                bail!("{size} is too large for a device's kernels: use a smaller --batch-size")
            }
        }
    }
}

impl Gpu {
    /// The device whose kernels compute on `tensor`; `None` on the CPU.
    pub fn of(tensor: &Tensor) -> Option<Self> {
        match tensor.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Some(Self::Cuda(device.clone())),
            Device::Cpu => EMULATOR.with_borrow(|emulator| emulator.clone().map(Self::Emulated)),
            _ => None,
        }
    }

    /// A tensor whose numbers must be written before they are read.
    pub fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        if shape.elem_count() == 0 {
            // CUDA allocates no memory of no size.
            return self.empty(1, dtype)?.narrow(0, 0, 0)?.reshape(shape);
        }
        match self {
            // SAFETY: every kernel writes all of its results.
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => unsafe {
                Tensor::empty(shape, dtype, &Device::Cuda(device.clone()))
            },
            // NaN, so that nothing unwritten is read unnoticed.
            Self::Emulated(_) if dtype.is_float() => {
                Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)
            }
            Self::Emulated(_) => Tensor::zeros(shape, dtype, &Device::Cpu),
        }
    }

    /// Starts a kernel for maps of `dtype`, with its arguments in the kernel's order. A grid without
    /// blocks is that of a map without rows, of which there is nothing to compute.
    pub fn launch(
        &self,
        kernel: &'static str,
        dtype: DType,
        grid: Grid,
        arguments: &[Arg],
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let bf16 = match dtype {
            DType::BF16 => true,
            DType::F32 => false,
            dtype => bail!("{kernel}: maps are float32 or bfloat16, not {dtype:?}"),
        };
        let words: Vec<[u8; 8]> = arguments.iter().map(word).collect::<Result<_>>()?;
        // A number's first bytes are the number as a shorter type, on a little-endian machine.
        let pointer = |(argument, word): (&Arg, &[u8; 8])| match argument {
            Arg::Bytes(bytes) => bytes.as_ptr() as *mut c_void,
            _ => word.as_ptr() as *mut c_void,
        };
        let mut pointers: Vec<*mut c_void> = arguments.iter().zip(&words).map(pointer).collect();
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => cuda::launch(device, kernel, bf16, grid, &mut pointers),
            Self::Emulated(emulator) => {
                emulator.launch(bf16, kernel, grid.blocks, grid.threads, &mut pointers);
                Ok(())
            }
        }
    }
}

/// The bytes of an argument.
fn word(argument: &Arg) -> Result<[u8; 8]> {
    Ok(match argument {
        Arg::Tensor(tensor) => address(tensor)?.to_le_bytes(),
        Arg::Null | Arg::Bytes(_) => [0; 8],
        Arg::Int(number) => i64::from(*number).to_le_bytes(),
        Arg::Long(number) => number.to_le_bytes(),
        Arg::Float(number) => u64::from(number.to_bits()).to_le_bytes(),
        Arg::Double(number) => number.to_le_bytes(),
    })
}
