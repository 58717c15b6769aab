//! A backbone that no longer learns.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;

use super::inputs::Inputs;
use crate::Result;
use crate::model::{Arch, Backbone, Classifier, Parameter, Parameters};
use crate::ops::gpu::{Array, Fetch, Transfers};
use crate::ops::{Normalization, Op, RoiAlign, Tape, keep_freed_memory, normalize_pixels};
use crate::train::{DeviceConfig, open_device};
use crate::weights::{Branch, Weights, checksum};

/// Where a backbone's weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackboneSource {
    /// A file or folder that [`Weights::read`] reads, and the network in it if it is not the usual
    /// one.
    File(PathBuf, Option<Branch>),
    /// The weights with which `scrl-train` begins for this architecture and seed.
    Random(Arch, u64),
}

/// Such as `run/backbone.safetensors` or `random`.
impl fmt::Display for BackboneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "{}", path.display()),
            Self::Random(..) => f.write_str("random"),
        }
    }
}

/// A backbone whose weights are fixed, on its device. Only the running statistics of its batch norms
/// can change.
pub struct FrozenBackbone {
    arch: Arch,
    backbone: Backbone,
    parameters: Parameters,
    device: Device,
    /// The type of its maps.
    dtype: DType,
    transfers: RefCell<Transfers>,
}

impl FrozenBackbone {
    /// Reads or initializes the weights.
    ///
    /// # Errors
    /// If the file cannot be read or has no complete backbone, or the device cannot be opened.
    pub fn new(
        source: &BackboneSource,
        device: &DeviceConfig,
        reporter: &Reporter,
    ) -> Result<Self> {
        let dtype = device.precision.dtype();
        let device = open_device(&device.name, reporter)?;
        if device.is_cpu() {
            keep_freed_memory();
        }
        let (arch, seed, tensors) = match source {
            BackboneSource::File(path, branch) => {
                let weights = Weights::read(path)?;
                let (arch, tensors) = weights.backbone(*branch)?;
                reporter.say(format_args!("weights: {}", weights.report(*branch)?));
                (arch, None, tensors)
            }
            BackboneSource::Random(arch, seed) => (*arch, Some(*seed), Vec::new()),
        };
        let (backbone, parameters) = Parameters::build(seed, &device, |vb| {
            Backbone::new(arch, &vb.pp("online").pp("backbone"))
        })?;
        for (parameter, (_, tensor)) in parameters.0.iter().zip(tensors) {
            parameter.set_from_checkpoint(&tensor)?;
        }
        let transfers = RefCell::new(Transfers::new(&device)?);
        Ok(Self { arch, backbone, parameters, device, dtype, transfers })
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Where its maps lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The CRC-32C of the weights and running statistics.
    pub fn checksum(&self) -> Result<u32> {
        let all = self.parameters.0.iter().enumerate();
        checksum(&on_cpu(all.map(|(number, parameter)| (format!("{number:04}"), parameter)))?)
    }

    /// The running means and variances of the batch norms, numbered in the order of the layers.
    pub fn statistics(&self) -> Result<BTreeMap<String, Tensor>> {
        on_cpu(self.running())
    }

    /// Sets the running statistics to those that [`FrozenBackbone::statistics`] returned earlier;
    /// false if they belong to another architecture.
    pub fn set_statistics(&self, statistics: &BTreeMap<String, Tensor>) -> Result<bool> {
        for (name, parameter) in self.running() {
            match statistics.get(&name) {
                Some(tensor) if tensor.dims() == parameter.tensor().dims() => {
                    parameter.set(tensor)?;
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn running(&self) -> impl Iterator<Item = (String, &Parameter)> {
        let layers = self.parameters.0.iter().filter(|parameter| !parameter.is_optimized());
        layers.enumerate().map(|(number, parameter)| (format!("{number:04}"), parameter))
    }

    /// Updates the running statistics with batches of `images` inputs each. They become the mean over
    /// these and the `before` earlier ones, as PyTorch's `momentum=None` computes it after
    /// `reset_running_stats()`.
    pub fn update_statistics(&self, inputs: &Inputs, images: usize, before: usize) -> Result<()> {
        let views = self.upload(inputs, None)?.0;
        let mut tape = Tape::normalizing(Normalization::Batches { images, before });
        self.backbone.forward(&mut tape, &views)?;
        Ok(())
    }

    /// Features `[n, C]`, float32, with the running statistics: of each of `boxes`, five numbers as
    /// [`RoiAlign`] takes them, or of each input the mean of its map.
    pub fn features(&self, inputs: &Inputs, boxes: Option<&[f32]>) -> Result<Tensor> {
        let (views, boxes) = self.upload(inputs, boxes)?;
        let map = self.backbone.forward(&mut Tape::normalizing(Normalization::Running), &views)?;
        Ok(match boxes {
            Some(boxes) => RoiAlign.forward([&map, &boxes])?.to_dtype(DType::F32)?,
            None => Classifier::features(&map)?,
        })
    }

    /// The last map of an input, with the running statistics: its elements and its shape
    /// `[H, W, C]`.
    pub fn map(&self, input: &RgbImage) -> Result<(Vec<f32>, [usize; 3])> {
        let inputs = Inputs { pixels: input.pixels.clone(), size: input.size.width as usize };
        let views = self.upload(&inputs, None)?.0;
        let map = self.backbone.forward(&mut Tape::normalizing(Normalization::Running), &views)?;
        let (_, height, width, channels) = map.dims4()?;
        let map = map.to_dtype(DType::F32)?.flatten_all()?.to_device(&Device::Cpu)?;
        Ok((map.to_vec1()?, [height, width, channels]))
    }

    /// Begins to copy features to the host.
    pub fn fetch(&self, features: &Tensor) -> Result<Fetch> {
        Ok(self.transfers.borrow_mut().fetch(features)?)
    }

    /// The normalized inputs, and the boxes, on the device.
    fn upload(&self, inputs: &Inputs, boxes: Option<&[f32]>) -> Result<(Tensor, Option<Tensor>)> {
        let Inputs { pixels, size } = inputs;
        let shape = (pixels.len() / (size * size * 3), *size, *size, 3);
        let mut arrays = vec![(Array::U8(pixels), shape.into())];
        arrays.extend(boxes.map(|boxes| (Array::F32(boxes), (boxes.len() / 5, 5).into())));
        let tensors = self.transfers.borrow_mut().upload(&arrays)?;
        Ok((normalize_pixels(&tensors[0], self.dtype)?, tensors.into_iter().nth(1)))
    }
}

/// Values of named parameters.
fn on_cpu<'a>(
    named: impl Iterator<Item = (String, &'a Parameter)>,
) -> Result<BTreeMap<String, Tensor>> {
    named.map(|(name, parameter)| Ok((name, parameter.tensor().to_device(&Device::Cpu)?))).collect()
}
