//! A backbone that no longer learns.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::model::{Arch, Backbone, Parameter, Parameters};
use crate::ops::{Normalization, Tape};
use crate::weights::{Branch, Weights, checksum};

/// Where a backbone's weights are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A file that [`Weights::read`] reads, and the network in it.
    File(PathBuf, Branch),
    /// Those that `scrl-train` begins with for this architecture and seed.
    Random(Arch, u64),
}

/// Such as `run/backbone.safetensors` or `random`.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "{}", path.display()),
            Self::Random(..) => f.write_str("random"),
        }
    }
}

/// The backbone.
pub struct FrozenBackbone {
    arch: Arch,
    backbone: Backbone,
    parameters: Parameters,
}

impl FrozenBackbone {
    /// Reads or draws the weights.
    ///
    /// # Errors
    /// If the file cannot be read or holds no whole backbone.
    pub fn new(start: &Start) -> Result<Self> {
        let (arch, seed, tensors) = match start {
            Start::File(path, branch) => {
                let (arch, tensors) = Weights::read(path)?.backbone(*branch)?;
                (arch, None, tensors)
            }
            Start::Random(arch, seed) => (*arch, Some(*seed), Vec::new()),
        };
        let (backbone, parameters) = Parameters::build(seed, &Device::Cpu, |vb| {
            Backbone::new(arch, &vb.pp("online").pp("backbone"))
        })?;
        for (parameter, (_, tensor)) in parameters.0.iter().zip(tensors) {
            parameter.set_from_checkpoint(&tensor)?;
        }
        Ok(Self { arch, backbone, parameters })
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The CRC-32C of its weights and running statistics.
    pub fn checksum(&self) -> Result<u32> {
        let tensors: BTreeMap<String, Tensor> = self
            .parameters
            .0
            .iter()
            .enumerate()
            .map(|(i, p)| (format!("{i:04}"), p.tensor().clone()))
            .collect();
        checksum(&tensors)
    }

    /// The running means and variances of its batch norms, by the layers' order.
    pub fn statistics(&self) -> BTreeMap<String, Tensor> {
        self.tracked().map(|(name, parameter)| (name, parameter.tensor().clone())).collect()
    }

    /// Takes over [`FrozenBackbone::statistics`] of earlier; false if they are not those of such a backbone.
    pub fn set_statistics(&self, statistics: &BTreeMap<String, Tensor>) -> Result<bool> {
        for (name, parameter) in self.tracked() {
            match statistics.get(&name) {
                Some(tensor) if tensor.dims() == parameter.tensor().dims() => {
                    parameter.set(tensor)?
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn tracked(&self) -> impl Iterator<Item = (String, &Parameter)> {
        let layers = self.parameters.0.iter().filter(|parameter| !parameter.is_optimized());
        layers.enumerate().map(|(number, parameter)| (format!("{number:04}"), parameter))
    }

    /// Sends a batch `[N, S, S, 3]`, normalised, through with the batch's own statistics. The running ones become their
    /// mean over batches `0..=number`, as with PyTorch's `momentum=None` after `reset_running_stats()`.
    pub fn track(&self, pictures: &Tensor, number: usize) -> Result<()> {
        let momentum = 1.0 / (number as f32 + 1.0);
        let mut tape = Tape::normalizing(Normalization::Batch { momentum });
        self.backbone.forward(&mut tape, pictures)?;
        Ok(())
    }

    /// `[N, S, S, 3]`, normalised, → `[N, S/32, S/32, C]`, with the running statistics.
    pub fn map(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.backbone.forward(&mut Tape::normalizing(Normalization::Running), pictures)?)
    }
}
