//! A backbone that no longer learns.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::model::{Arch, Backbone, Parameter, Parameters};
use crate::ops::{Normalization, Tape, keep_freed_memory};
use crate::weights::{Branch, Weights, checksum};

/// Where a backbone's weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackboneSource {
    /// A file that [`Weights::read`] reads, and the network in it.
    File(PathBuf, Branch),
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

/// A backbone whose weights are fixed. Only the running statistics of its batch norms can change.
pub struct FrozenBackbone {
    arch: Arch,
    backbone: Backbone,
    parameters: Parameters,
}

impl FrozenBackbone {
    /// Reads or initializes the weights.
    ///
    /// # Errors
    /// If the file cannot be read or has no complete backbone.
    pub fn new(source: &BackboneSource) -> Result<Self> {
        keep_freed_memory();
        let (arch, seed, tensors) = match source {
            BackboneSource::File(path, branch) => {
                let (arch, tensors) = Weights::read(path)?.backbone(*branch)?;
                (arch, None, tensors)
            }
            BackboneSource::Random(arch, seed) => (*arch, Some(*seed), Vec::new()),
        };
        let (backbone, parameters) = Parameters::build(seed, &Device::Cpu, |vb| {
            Backbone::new(arch, &vb.pp("online").pp("backbone"))
        })?;
        for (parameter, (_, tensor)) in parameters.0.iter().zip(tensors) {
            parameter.set_from_checkpoint(&tensor)?;
        }
        Ok(Self { arch, backbone, parameters })
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The CRC-32C of the weights and running statistics.
    pub fn checksum(&self) -> Result<u32> {
        let numbered = self.parameters.0.iter().enumerate();
        let tensors: BTreeMap<String, Tensor> = numbered
            .map(|(number, parameter)| (format!("{number:04}"), parameter.tensor().clone()))
            .collect();
        checksum(&tensors)
    }

    /// The running means and variances of the batch norms, numbered in the order of the layers.
    pub fn statistics(&self) -> BTreeMap<String, Tensor> {
        self.running().map(|(name, parameter)| (name, parameter.tensor().clone())).collect()
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

    /// Updates the running statistics with batch `number`, `[N, S, S, 3]`, normalized. They become
    /// the mean over batches `0..=number`, as PyTorch's `momentum=None` computes it after
    /// `reset_running_stats()`.
    pub fn update_statistics(&self, inputs: &Tensor, number: usize) -> Result<()> {
        let momentum = 1.0 / (number as f32 + 1.0);
        let mut tape = Tape::normalizing(Normalization::Batch { momentum });
        self.backbone.forward(&mut tape, inputs)?;
        Ok(())
    }

    /// The last feature map, `[N, S, S, 3]`, normalized, → `[N, S/32, S/32, C]`, with the running
    /// statistics.
    pub fn forward(&self, inputs: &Tensor) -> Result<Tensor> {
        Ok(self.backbone.forward(&mut Tape::normalizing(Normalization::Running), inputs)?)
    }
}
