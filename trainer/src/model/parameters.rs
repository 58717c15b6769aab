//! The parameters of a network: their initial values, names and layouts.
//!
//! In memory a convolution's filter is `[O, kh, kw, I]`; in checkpoints it has PyTorch's layout,
//! `[O, I, kh, kw]`. All other tensors have the same layout in both.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use scrl_preprocess::views::rng::{Purpose, Stream};

use crate::ops::gpu::to_host;
use crate::ops::weight_copies::{Copied, forget};

/// Takes the place of the epoch in the keys of the random numbers: initial weights belong to none.
const NO_EPOCH: u32 = u32::MAX;

/// A tensor and its name in a checkpoint, such as `online.backbone.layer1.0.conv1.weight`. Clones
/// share its memory.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// The value, float32.
    var: Var,
    _copied: Arc<Copied>,
}

impl Parameter {
    /// A parameter of this name with the value and the memory of `var`, float32, which nothing else
    /// may change.
    pub fn new(name: impl Into<String>, var: Var) -> Self {
        let copied = Arc::new(Copied::new(&var));
        Self { name: name.into(), var, _copied: copied }
    }

    /// The value in the layout of the network.
    pub fn tensor(&self) -> &Tensor {
        self.var.as_tensor()
    }

    /// Whether it is decayed, and LARS adapts its learning rate: rank above 1.
    pub fn is_decayed(&self) -> bool {
        self.var.rank() > 1
    }

    /// Whether it is optimized: everything but a batch norm's running statistics.
    pub fn is_optimized(&self) -> bool {
        !self.name.ends_with(".running_mean") && !self.name.ends_with(".running_var")
    }

    /// A momentum buffer of zeros for it, named `momentum.<its name>`.
    pub fn velocity(&self) -> Result<Self> {
        let var = Var::zeros(self.var.shape(), DType::F32, self.var.device())?;
        Ok(Self::new(format!("momentum.{}", self.name), var))
    }

    /// The value in PyTorch's layout, on the CPU.
    pub fn to_checkpoint(&self) -> Result<Tensor> {
        let value = to_host(&self.var.detach())?;
        if value.rank() == 4 { value.permute((0, 3, 1, 2))?.contiguous() } else { Ok(value) }
    }

    /// The shape in PyTorch's layout.
    pub fn checkpoint_shape(&self) -> Vec<usize> {
        match *self.var.dims() {
            [outputs, height, width, inputs] => vec![outputs, inputs, height, width],
            ref dims => dims.to_vec(),
        }
    }

    /// Overwrites the value with one in PyTorch's layout.
    ///
    /// # Errors
    /// If its shape is not this parameter's.
    pub fn set_from_checkpoint(&self, value: &Tensor) -> Result<()> {
        if value.dims() != self.checkpoint_shape() {
            bail!(
                "{}: {:?} where {:?} is expected",
                self.name,
                value.dims(),
                self.checkpoint_shape()
            );
        }
        match value.rank() {
            4 => self.set(&value.permute((0, 2, 3, 1))?),
            _ => self.set(value),
        }
    }

    /// Overwrites the value.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        forget(&self.var);
        self.var.set(&value.detach().to_device(self.var.device())?.contiguous()?)
    }
}

/// All parameters of a network, in the order in which its layers ask for them.
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    /// Builds a model with parameters on `device`, and returns both. The initial values depend on
    /// the seed and each tensor's name alone. Without a seed random values are zeros, for a model
    /// whose weights come from a file.
    pub fn build<M>(
        seed: Option<u64>,
        device: &Device,
        model: impl FnOnce(VarBuilder) -> Result<M>,
    ) -> Result<(M, Self)> {
        let made = Arc::default();
        let backend = SeededBackend { seed, made: Arc::clone(&made) };
        let model = model(VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone()))?;
        let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((model, Self(made)))
    }

    /// The parameters that are optimized.
    pub fn optimized(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter().filter(|parameter| parameter.is_optimized())
    }
}

/// A backend of [`VarBuilder`] that initializes each parameter a layer asks for, and records it.
struct SeededBackend {
    seed: Option<u64>,
    made: Arc<Mutex<Vec<Parameter>>>,
}

impl SeededBackend {
    fn values(&self, shape: &Shape, name: &str, init: Init) -> Result<Vec<f32>> {
        let count = shape.elem_count();
        let mut stream = match (init, self.seed) {
            (Init::Const(value), _) => return Ok(vec![value as f32; count]),
            (_, None) => return Ok(vec![0.0; count]),
            (_, Some(seed)) => {
                Stream::new(seed, NO_EPOCH, fnv1a(name.as_bytes()), Purpose::WeightInit)
            }
        };
        match init {
            Init::Randn { mean, stdev } => {
                Ok((0..count).map(|_| (mean + stdev * stream.normal()) as f32).collect())
            }
            Init::Uniform { lo, up } => {
                Ok((0..count).map(|_| stream.uniform(lo, up) as f32).collect())
            }
            init => bail!("{name}: initialization by {init:?} is not supported"),
        }
    }
}

impl SimpleBackend for SeededBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        _: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let values = self.values(&shape, name, init)?;
        let values = match *shape.dims() {
            [_, height, width, inputs] => channels_last(&values, height * width, inputs),
            _ => values,
        };
        let var = Var::from_vec(values, shape, device)?;
        let tensor = var.as_tensor().clone();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(Parameter::new(name, var));
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name}: a parameter needs a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Filters from PyTorch's layout, `[O, I, kh·kw]`, in which they are initialized, to
/// `[O, kh·kw, I]`: initial weights in checkpoints do not depend on the layout in memory.
fn channels_last(values: &[f32], taps: usize, inputs: usize) -> Vec<f32> {
    let filter = |filter: &'_ [f32]| -> Vec<f32> {
        (0..taps * inputs).map(|index| filter[index % inputs * taps + index / inputs]).collect()
    };
    values.chunks_exact(taps * inputs).flat_map(filter).collect()
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
