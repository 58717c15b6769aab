//! The engines that cuDNN has for a convolution, to compare them; training uses the first.

use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};
use cudarc::driver::DevicePtr;
use scrl_preprocess::views::rng::{Purpose, Stream};

use super::cudnn::Convolutions;
use super::operation::{Order, Work};
use super::plan::{Engine, Plans, Target};
use crate::ops::geometry::{Geometry, Pass};
use crate::ops::gpu::address::address;

/// The engine that computes each pass in a step on a GPU of these properties, which need not be
/// there; `None` where no engine is acceptable. `properties` is the JSON that cuDNN itself writes
/// for a device.
///
/// # Errors
/// If cuDNN takes the properties or a pass for invalid, or is older than 9.8.
pub fn engines_without_device(
    properties: &str,
    dtype: DType,
    passes: &[(Geometry, Pass)],
) -> Result<Vec<Option<Engine>>> {
    let target = Target::of_properties(properties)?;
    let engine = |&(g, pass): &(Geometry, Pass)| {
        let mut chosen = Plans::choose(&target, (g, pass, dtype, Order::Nhwc), 1)?;
        Ok(chosen.plans.pop().map(|plan| plan.engine))
    };
    passes.iter().map(engine).collect()
}

/// Runs passes of convolutions with several engines each.
pub struct Engines {
    device: CudaDevice,
    convolutions: Convolutions,
}

impl Engines {
    /// Up to `most` engines for each pass.
    ///
    /// # Errors
    /// On the CPU, or if cuDNN does not start.
    pub fn new(device: &Device, most: usize) -> Result<Self> {
        let Device::Cuda(device) = device else { bail!("cuDNN needs a GPU") };
        let convolutions = Convolutions::with_plans(device.cuda_stream(), most)?;
        Ok(Self { device: device.clone(), convolutions })
    }

    /// Calls `measure` with each engine for a pass, that of a step first, and with a function that
    /// enqueues the pass on random tensors.
    ///
    /// # Errors
    /// Those of `measure`, of cuDNN, and of memory.
    pub fn each(
        &mut self,
        (g, pass): (Geometry, Pass),
        dtype: DType,
        mut measure: impl FnMut(&Engine, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let work: Work = (g, pass, dtype, Order::Nhwc);
        let plans = self.convolutions.plans(work)?;
        let engines: Vec<Engine> = plans.iter().map(|plan| plan.engine.clone()).collect();
        let device = Device::Cuda(self.device.clone());
        let mut stream = Stream::new(0, 0, 0, Purpose::View1);
        let mut random = |shape: (usize, usize, usize, usize)| {
            let count = shape.0 * shape.1 * shape.2 * shape.3;
            let numbers = (0..count).map(|_| stream.uniform(-1.0, 1.0) as f32).collect();
            Tensor::from_vec(numbers, shape, &device)?.to_dtype(dtype)
        };
        let filter = random((g.o, g.kh, g.kw, g.i))?;
        // The same view again and again, as the numbers come from the CPU.
        let mut views = |h, w, c| random((1, h, w, c))?.broadcast_as((g.n, h, w, c))?.contiguous();
        let x = views(g.h, g.w, g.i)?;
        let y = views(g.out_h, g.out_w, g.o)?;
        let addresses = [address(&x)?, address(&filter)?, address(&y)?];
        for (index, engine) in engines.iter().enumerate() {
            // SAFETY: cuDNN writes before it reads.
            let workspace = unsafe { self.device.alloc::<u8>(engine.workspace.max(1)) }?;
            let scratch = workspace.device_ptr(workspace.stream()).0;
            let mut run = || self.convolutions.run_plan(index, work, addresses, scratch);
            measure(engine, &mut run)?;
        }
        Ok(())
    }
}
