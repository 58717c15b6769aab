//! Weights of other programs: read to start from (`scrl-train --init`), and written for them (`scrl-export`).
//!
//! ```text
//! a checkpoint, backbone.safetensors ─ safetensors ─┐                            ┌─ initialize → a learner
//! torchvision's state dict ─── safetensors or pth ──┼→ names → Weights ──────────┤            ┌─ safetensors, pth_writer
//! the authors' checkpoint ───────────────── pth ────┘  (those of a checkpoint)   └─ export ───┴─ detectron2
//! ```

mod detectron2;
mod export;
mod names;
mod pickle;
mod pth;
mod pth_writer;
mod safetensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use scrl_schemas::named_choice;

use crate::model::{Arch, Backbone, Parameter, Parameters};
use crate::{Error, Result};

pub(crate) use export::backbone_metadata;
pub use export::{ExportFormat, Exported, export};
pub(crate) use safetensors::{checksum, write_safetensors};

use names::checkpoint_name;
use pth::PthFile;
use safetensors::SafetensorsFile;

named_choice! {
    /// Which of the two networks.
    pub enum Branch {
        /// The one that learns.
        Online = "online",
        /// The one that follows it.
        Target = "target",
    }
}

impl Branch {
    /// How the names of its backbone's tensors begin in a checkpoint.
    fn backbone(self) -> &'static str {
        match self {
            Self::Online => "online.backbone.",
            Self::Target => "target.backbone.",
        }
    }
}

/// The weights in a file, under the names of our checkpoints, as float32 in PyTorch's layouts.
///
/// Files of other programs hold one network, which counts as the online one, or as the authors' code both.
#[derive(Clone, Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a head's initial values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStart {
    /// From the file.
    File,
    /// Random, as the file has none.
    Random,
    /// Random, as the file's has other shapes: the first difference.
    Unfit(String),
}

/// Why tensors of a file are not those of a part of a network.
struct Misfit {
    /// The first tensor that is missing, of another shape, or too much, and what it is.
    first: String,
    /// Tensors that fit.
    fitting: usize,
    /// Tensors that the part has.
    expected: usize,
}

impl Weights {
    /// Reads a checkpoint, a torchvision state dict (safetensors, or written by `torch.save`), or a checkpoint of the
    /// authors' code. Velocities, classifiers and the like are left out.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind, or holds no backbone.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = WeightsFile::open(path)?;
        let names = file.names();
        let mut tensors = BTreeMap::new();
        for name in &names {
            let Some(known) = checkpoint_name(name) else { continue };
            if tensors.insert(known, file.tensor(name)?).is_some() {
                return Err(Error::checkpoint(
                    path,
                    format!("holds a tensor twice, the second time as {name}"),
                ));
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

    /// The file they are from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything of a network's backbone.
    pub fn has_backbone(&self, branch: Branch) -> bool {
        self.below(branch.backbone()).next().is_some()
    }

    /// A network's backbone: its architecture, and its tensors under torchvision's names in torchvision's order.
    ///
    /// # Errors
    /// If there is none, or it is not whole.
    pub fn backbone(&self, branch: Branch) -> Result<(Arch, Vec<(String, Tensor)>)> {
        if !self.has_backbone(branch) {
            let reason = format!("holds no {branch} network; --network {} does", other(branch));
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

    /// The architecture that a backbone has by the number and kind of its blocks.
    fn arch(&self, branch: Branch) -> Result<Arch> {
        let mut blocks = [0; 4];
        let mut bottleneck = false;
        for (name, _) in self.below(branch.backbone()) {
            let mut pieces = name.split('.').skip(2);
            let stage =
                pieces.next().and_then(|piece| piece.strip_prefix("layer")?.parse::<usize>().ok());
            let block = pieces.next().and_then(|piece| piece.parse::<usize>().ok());
            if let (Some(stage @ 1..=4), Some(block)) = (stage, block) {
                blocks[stage - 1] = blocks[stage - 1].max(block.saturating_add(1));
                bottleneck |= pieces.next() == Some("conv3");
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

    /// Refuses a backbone that is not that of `arch`, to which `parameters` belong.
    fn check_backbone(&self, branch: Branch, arch: Arch, parameters: &Parameters) -> Result<()> {
        let Some(misfit) = self.misfit(branch.backbone(), parameters) else { return Ok(()) };
        let Misfit { first, fitting, expected } = misfit;
        let advice = match self.arch(branch) {
            Ok(found) if found != arch => {
                format!("; it holds a {found}: use --arch {found}, or other weights")
            }
            _ => String::new(),
        };
        let reason =
            format!("no whole {arch}: {first}; {fitting} of {expected} tensors fit{advice}");
        Err(Error::checkpoint(&self.path, reason))
    }

    /// What is wrong with the tensors below `prefix` for those of `parameters` that are named so.
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
        let first = first.or_else(|| Some(format!("{} is too much", extra?.0)))?;
        Some(Misfit { first, fitting, expected: expected.len() })
    }

    /// Sets the backbone of a network from its tensors here; returns how many those are.
    ///
    /// # Errors
    /// If the backbone is of another architecture, or incomplete.
    pub(crate) fn load_backbone(
        &self,
        branch: Branch,
        arch: Arch,
        parameters: &Parameters,
    ) -> Result<usize> {
        self.check_backbone(branch, arch, parameters)?;
        self.load(branch.backbone(), parameters)
    }

    /// Sets the head below `prefix` where it is here in the same shapes.
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

    /// Sets the parameters below `prefix`, all of whose tensors are there; returns how many those are.
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

fn other(branch: Branch) -> Branch {
    match branch {
        Branch::Online => Branch::Target,
        Branch::Target => Branch::Online,
    }
}

/// A file of one of the kinds that can be read, told by how it begins.
enum WeightsFile {
    Safetensors(SafetensorsFile),
    Pth(PthFile),
}

impl WeightsFile {
    fn open(path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(pth::LEGACY_MAGIC.len() as u64)
            .read_to_end(&mut start)
            .map_err(Error::io(path))?;
        if start.starts_with(pth::ZIP_MAGIC) {
            Ok(Self::Pth(PthFile::open_zip(path)?))
        } else if start.starts_with(pth::LEGACY_MAGIC) {
            Ok(Self::Pth(PthFile::open_legacy(path)?))
        } else if start.get(8) == Some(&b'{') {
            Ok(Self::Safetensors(SafetensorsFile::open(path)?))
        } else {
            let reason = "neither a safetensors file nor one of torch.save; in Python: safetensors.torch.save_file";
            Err(Error::checkpoint(
                path,
                format!("{reason}(model.state_dict(), \"weights.safetensors\")"),
            ))
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Pth(file) => file.names(),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.tensor(name),
            Self::Pth(file) => file.tensor(name),
        }
    }
}
