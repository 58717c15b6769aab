//! Reading the weights of a checkpoint, of torchvision or of the authors' code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::branch::Branch;
use super::file::WeightsFile;
use super::folder::{check_config, weights_file};
use super::names::checkpoint_name;
use crate::model::{Arch, Backbone, Parameter, Parameters};
use crate::{Error, Result};

/// The weights in a file under scrl-train's names, float32, in PyTorch's layouts.
/// Files of torchvision have one network, which counts as the online one; checkpoints of the
/// authors' code have both.
#[derive(Clone, Debug)]
pub struct Weights {
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// Where a head's initial values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStart {
    /// From the file.
    File,
    /// Random, as the file has none.
    Random,
    /// Random, as the file's has other shapes, of which this is the first.
    Unfit(String),
}

/// How the tensors of a file differ from those of a backbone or head.
struct Misfit {
    /// The first tensor that is missing, unexpected, or of another shape.
    first: String,
    /// The number of tensors that fit.
    fitting: usize,
    /// The number of tensors of the backbone or head.
    expected: usize,
}

impl Weights {
    /// Reads a checkpoint, a torchvision state dict (safetensors, or written by `torch.save`), or a
    /// checkpoint of the authors' code. Momentum, classifiers and the like are left out.
    ///
    /// # Errors
    /// If the file cannot be read, is of another format, or has no backbone.
    pub fn read(path: &Path) -> Result<Self> {
        let path = &weights_file(path)?;
        check_config(path)?;
        let mut file = WeightsFile::open(path)?;
        let names = file.names();
        let mut tensors = BTreeMap::new();
        for name in &names {
            let Some(known) = checkpoint_name(name) else { continue };
            if tensors.insert(known, file.tensor(name)?).is_some() {
                let reason = format!("has a tensor twice, the second time as {name}");
                return Err(Error::checkpoint(path, reason));
            }
        }
        let weights = Self { path: path.to_owned(), tensors };
        if !Branch::ALL.iter().any(|branch| weights.has_backbone(*branch)) {
            let first =
                names.first().map_or(String::new(), |name| format!(", the first is {name}"));
            let reason =
                format!("no ResNet among its {} tensors{first}; names such as", names.len());
            let known =
                "layer1.0.conv1.weight or online.backbone.layer1.0.conv1.weight are understood";
            return Err(Error::checkpoint(path, format!("{reason} {known}")));
        }
        Ok(weights)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file has tensors of a network's backbone.
    pub fn has_backbone(&self, branch: Branch) -> bool {
        self.below(branch.backbone()).next().is_some()
    }

    /// A network's backbone: its architecture, and its tensors under torchvision's names in
    /// torchvision's order.
    ///
    /// # Errors
    /// If the file has no such backbone, or an incomplete one.
    pub fn backbone(&self, branch: Branch) -> Result<(Arch, Vec<(String, Tensor)>)> {
        if !self.has_backbone(branch) {
            let reason = format!("has no {branch} network; use --network {}", branch.other());
            return Err(Error::checkpoint(&self.path, reason));
        }
        let arch = self.arch(branch)?;
        let prefix = branch.backbone();
        let (_, parameters) = Parameters::build(None, &Device::Cpu, |vb| {
            Backbone::new(arch, &vb.set_prefix(prefix.trim_end_matches('.')))
        })?;
        self.check_backbone(branch, arch, &parameters)?;
        let tensor =
            |p: &Parameter| (p.name[prefix.len()..].to_owned(), self.tensors[&p.name].clone());
        Ok((arch, parameters.0.iter().map(tensor).collect()))
    }

    /// The architecture, from the number and kind of the blocks.
    fn arch(&self, branch: Branch) -> Result<Arch> {
        let mut blocks = [0; 4];
        let mut bottleneck = false;
        for (name, _) in self.below(branch.backbone()) {
            // Such as online.backbone.layer1.0.conv3.weight.
            let mut levels = name.split('.').skip(2);
            let stage =
                levels.next().and_then(|level| level.strip_prefix("layer")?.parse::<usize>().ok());
            let block = levels.next().and_then(|level| level.parse::<usize>().ok());
            if let (Some(stage @ 1..=4), Some(block)) = (stage, block) {
                blocks[stage - 1] = blocks[stage - 1].max(block.saturating_add(1));
                bottleneck |= levels.next() == Some("conv3");
            }
        }
        Arch::of_blocks(blocks, bottleneck).ok_or_else(|| {
            let kind = if bottleneck { "bottlenecks" } else { "basic blocks" };
            let known: Vec<_> = Arch::ALL.iter().map(|arch| arch.name()).collect();
            let reason =
                format!("its four stages have {blocks:?} {kind}: none of {}", known.join(", "));
            Error::checkpoint(&self.path, reason)
        })
    }

    /// Refuses a backbone whose tensors are not `parameters`, those of `arch`.
    fn check_backbone(&self, branch: Branch, arch: Arch, parameters: &Parameters) -> Result<()> {
        let Some(misfit) = self.misfit(branch.backbone(), parameters) else { return Ok(()) };
        let Misfit { first, fitting, expected } = misfit;
        let advice = match self.arch(branch) {
            Ok(found) if found != arch => {
                format!("; it is a {found}: use --arch {found}, or other weights")
            }
            _ => String::new(),
        };
        let reason =
            format!("not a complete {arch}: {first}; {fitting} of {expected} tensors fit{advice}");
        Err(Error::checkpoint(&self.path, reason))
    }

    /// How the tensors below `prefix` differ from the parameters below it; `None` if they fit.
    fn misfit(&self, prefix: &str, parameters: &Parameters) -> Option<Misfit> {
        let (mut first, mut fitting, mut expected) = (None, 0, BTreeMap::new());
        for parameter in below(parameters, prefix) {
            let (name, shape) = (parameter.name.clone(), parameter.checkpoint_shape());
            let wrong = match self.tensors.get(&name) {
                None => Some(format!("{name} is missing")),
                Some(found) if found.dims() != shape => {
                    Some(format!("{name} is {:?} where {shape:?} is expected", found.dims()))
                }
                Some(_) => None,
            };
            fitting += usize::from(wrong.is_none());
            first = first.or(wrong);
            expected.insert(name, shape);
        }
        let extra = self.below(prefix).find(|(name, _)| !expected.contains_key(*name));
        let first = first.or_else(|| Some(format!("{} is unexpected", extra?.0)))?;
        Some(Misfit { first, fitting, expected: expected.len() })
    }

    /// Sets the parameters of a backbone; returns their number.
    ///
    /// # Errors
    /// If the file's backbone has another architecture, or is incomplete.
    pub(crate) fn load_backbone(
        &self,
        branch: Branch,
        arch: Arch,
        parameters: &Parameters,
    ) -> Result<usize> {
        self.check_backbone(branch, arch, parameters)?;
        self.load(branch.backbone(), parameters)
    }

    /// Sets the parameters of the head below `prefix`, if the file has it in the same shapes.
    pub(crate) fn load_head(&self, prefix: &str, parameters: &Parameters) -> Result<HeadStart> {
        if self.below(prefix).next().is_none() {
            return Ok(HeadStart::Random);
        }
        if let Some(misfit) = self.misfit(prefix, parameters) {
            return Ok(HeadStart::Unfit(misfit.first));
        }
        self.load(prefix, parameters)?;
        Ok(HeadStart::File)
    }

    /// Sets the parameters below `prefix`, all of which fit; returns their number.
    fn load(&self, prefix: &str, parameters: &Parameters) -> Result<usize> {
        let mut count = 0;
        for parameter in below(parameters, prefix) {
            parameter.set_from_checkpoint(&self.tensors[&parameter.name])?;
            count += 1;
        }
        Ok(count)
    }

    /// The tensors whose names begin with `prefix`.
    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Tensor)> {
        self.tensors.iter().filter(move |(name, _)| name.starts_with(prefix))
    }
}

/// The parameters whose names begin with `prefix`.
fn below<'a>(parameters: &'a Parameters, prefix: &'a str) -> impl Iterator<Item = &'a Parameter> {
    parameters.0.iter().filter(move |parameter| parameter.name.starts_with(prefix))
}
