//! Reading weights: of a checkpoint, or of any project of the table of layouts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::branch::Branch;
use super::file::{Entry, WeightsFile};
use super::folder::{check_config, weights_file};
use super::layouts::{
    LAYOUTS, ResNetTensor, Style, head_name, levels, other_network, other_resnet,
};
use super::report::{LeftOut, Report};
use crate::model::{Arch, Backbone, Parameter, Parameters};
use crate::{Error, Result};

/// The weights in a file under scrl-train's names, float32, in PyTorch's layouts.
/// Files of most projects have one network or two, an online network and its EMA; see
/// `LAYOUTS` for which counts as which.
#[derive(Clone, Debug)]
pub struct Weights {
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// The networks; first the one that is taken where nobody says which.
    pub(super) networks: Vec<FoundNetwork>,
    /// The number of all other tensors by a part of their names.
    pub(super) others: BTreeMap<String, usize>,
}

/// Why weights are refused.
const CAFFE2: &str = "weights of Caffe2, for images in BGR and with the stride in the first \
                      convolution of a bottleneck; take torchvision's, or others in its style";
const MODEL_ZOO: &str = "weights of Detectron2's model zoo, for images in BGR and most of them with \
                         the stride in the first convolution of a bottleneck; take torchvision's, or \
                         others in its style";
const CAFFE_STYLE: &str = "its configuration has the style \"caffe\": for images in BGR and with the \
                           stride in the first convolution of a bottleneck; take weights of the \
                           style \"pytorch\"";
const BGR: &str = "the weights are for images in BGR that are not divided by a standard deviation; \
                   take those for normalized RGB";
const DEEP_STEM: &str = "a stem of three convolutions, as ResNet-C and ResNet-D have it, is not \
                         torchvision's";

/// A network in a file.
#[derive(Clone, Debug)]
pub(super) struct FoundNetwork {
    /// The number of its layout.
    layout: usize,
    style: Style,
    /// The names of its tensors in the file begin with this.
    group: String,
}

impl FoundNetwork {
    pub fn branch(&self) -> Branch {
        LAYOUTS[self.layout].network
    }

    pub fn description(&self) -> String {
        LAYOUTS[self.layout].description(self.style)
    }

    /// That of torchvision's state dicts.
    #[cfg(test)]
    pub fn of_torchvision() -> Self {
        let ResNetTensor { layout, style, group, .. } = ResNetTensor::of("conv1.weight").unwrap();
        Self { layout, style, group }
    }
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
    /// Reads the networks of a file or folder (see [`weights_file`]). Momentum, classifiers and the
    /// like are left out, and heads as well unless they are scrl-train's or the authors'.
    ///
    /// # Errors
    /// If the file cannot be read, is of another format, has no backbone, or says that its weights
    /// are for images in BGR or for another ResNet than torchvision's.
    pub fn read(path: &Path) -> Result<Self> {
        let path = &weights_file(path)?;
        check_config(path)?;
        let mut file = WeightsFile::open(path)?;
        // PyTorch's counters of batches are no weights.
        let mut entries = file.entries();
        entries.retain(|entry| !entry.name.ends_with("num_batches_tracked"));
        refuse_other_networks(path, &mut file, &entries)?;
        let found: Vec<_> = entries.iter().map(|entry| ResNetTensor::of(&entry.name)).collect();
        let networks = networks(path, &found)?;
        let Some(first) = networks.first() else { return Err(no_resnet(path, &entries)) };
        let has_our_heads = LAYOUTS[first.layout].has_our_heads();
        let (mut tensors, mut others) = (BTreeMap::new(), BTreeMap::new());
        for (entry, found) in entries.iter().zip(&found) {
            let network = networks.iter().find(|network| {
                found.as_ref().is_some_and(|found| {
                    (found.layout, &found.group) == (network.layout, &network.group)
                })
            });
            let name = match (network, found) {
                (Some(network), Some(found)) => {
                    Some(format!("{}{}", network.branch().backbone(), found.name))
                }
                _ => head_name(&entry.name).filter(|_| has_our_heads),
            };
            match name {
                Some(name) => {
                    if tensors.insert(name, file.tensor(&entry.name)?).is_some() {
                        let reason =
                            format!("has a tensor twice, the second time as {}", entry.name);
                        return Err(Error::checkpoint(path, reason));
                    }
                }
                None => *others.entry(part(&entry.name, &networks)).or_default() += 1,
            }
        }
        Ok(Self { path: path.to_owned(), tensors, networks, others })
    }

    /// The weights as a run starts from them: both networks of scrl-train's and the authors' files;
    /// of others the network that is taken where nobody says which, as the online network.
    pub(crate) fn into_start(mut self) -> Self {
        let first = &self.networks[0];
        if !LAYOUTS[first.layout].has_our_heads() {
            let prefix = first.branch().backbone();
            self.tensors = (self.tensors.into_iter())
                .filter_map(|(name, tensor)| {
                    let name = name.strip_prefix(prefix)?;
                    Some((format!("{}{name}", Branch::Online.backbone()), tensor))
                })
                .collect();
        }
        self
    }

    /// The network of `branch`, or the one that is taken where nobody says which.
    fn network(&self, branch: Option<Branch>) -> Result<&FoundNetwork> {
        let mut networks = self.networks.iter();
        let found = networks.find(|network| branch.is_none_or(|branch| branch == network.branch()));
        found.ok_or_else(|| {
            let other = self.networks[0].branch();
            let reason = format!("has no {} network; use --network {other}", other.other());
            Error::checkpoint(&self.path, reason)
        })
    }

    /// What [`Weights::backbone`] takes and what it leaves out.
    ///
    /// # Errors
    /// If the file has no such network.
    pub fn report(&self, branch: Option<Branch>) -> Result<Report> {
        let taken = self.network(branch)?;
        let count = |network: &FoundNetwork| self.below(network.branch().backbone()).count();
        let is_other = |network: &&FoundNetwork| network.branch() != taken.branch();
        let mut left_out: Vec<_> = (self.networks.iter().filter(is_other))
            .map(|network| LeftOut {
                tensors: count(network),
                part: network.description(),
                network: Some(network.branch()),
            })
            .collect();
        let others = self.others.iter();
        left_out.extend(others.map(|(part, tensors)| LeftOut {
            tensors: *tensors,
            part: part.clone(),
            network: None,
        }));
        Ok(Report {
            path: self.path.clone(),
            arch: self.arch(taken.branch())?,
            tensors: count(taken),
            network: taken.description(),
            left_out,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file has tensors of a network's backbone.
    pub fn has_backbone(&self, branch: Branch) -> bool {
        self.below(branch.backbone()).next().is_some()
    }

    /// The backbone of a network, or of the one that people use of such files: its architecture,
    /// and its tensors under torchvision's names in torchvision's order.
    ///
    /// # Errors
    /// If the file has no such backbone, or an incomplete one.
    pub fn backbone(&self, branch: Option<Branch>) -> Result<(Arch, Vec<(String, Tensor)>)> {
        let branch = self.network(branch)?.branch();
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

    /// Sets the parameters of a backbone.
    ///
    /// # Errors
    /// If the file's backbone has another architecture, or is incomplete.
    pub(crate) fn load_backbone(
        &self,
        branch: Branch,
        arch: Arch,
        parameters: &Parameters,
    ) -> Result<()> {
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

    /// Sets the parameters below `prefix`, all of which fit.
    fn load(&self, prefix: &str, parameters: &Parameters) -> Result<()> {
        for parameter in below(parameters, prefix) {
            parameter.set_from_checkpoint(&self.tensors[&parameter.name])?;
        }
        Ok(())
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

/// The networks among the tensors, in the order of the layouts: of each branch the first.
fn networks(path: &Path, found: &[Option<ResNetTensor>]) -> Result<Vec<FoundNetwork>> {
    let mut groups = BTreeMap::new();
    for tensor in found.iter().flatten() {
        // One layer, such as a head's first, is no ResNet.
        let is_in_block = tensor.name.starts_with("layer") && tensor.name.split('.').count() > 2;
        *groups.entry((tensor.layout, &tensor.group)).or_insert(false) |= is_in_block;
    }
    let style = |layout, group: &String| {
        let mut tensors = found.iter().flatten();
        tensors.find(|tensor| tensor.layout == layout && tensor.group == *group).map(|t| t.style)
    };
    let mut networks: Vec<FoundNetwork> = Vec::new();
    for ((layout, group), _) in groups.into_iter().filter(|(_, has_blocks)| *has_blocks) {
        if let Some(other) = networks.iter().find(|network| network.layout == layout) {
            let reason = format!(
                "has two networks of the same kind, {} and {}; save one of them alone",
                name_of_group(&other.group),
                name_of_group(group)
            );
            return Err(Error::checkpoint(path, reason));
        }
        if let Some(style) = style(layout, group) {
            networks.push(FoundNetwork { layout, style, group: group.clone() });
        }
    }
    // Of two prefixes for the same branch, as of a module with two names, the first.
    let mut branches = Vec::new();
    networks.retain(|network| {
        let is_first = !branches.contains(&network.branch());
        branches.push(network.branch());
        is_first
    });
    Ok(networks)
}

fn name_of_group(group: &str) -> &str {
    if group.is_empty() { "conv1.weight …" } else { group.trim_end_matches('.') }
}

/// The part of a file to which a tensor that is left out belongs: `fc` beside a network's layers,
/// or the first level of its name.
fn part(name: &str, networks: &[FoundNetwork]) -> String {
    let below = networks.iter().filter_map(|network| name.strip_prefix(&network.group));
    let rest = below.min_by_key(|rest| rest.len()).unwrap_or(name);
    levels(rest).first().unwrap_or(&rest).to_string()
}

/// Refuses weights of which the file says, or a name in it, that they are for another network than
/// torchvision's, or for other images than RGB.
fn refuse_other_networks(path: &Path, file: &mut WeightsFile, entries: &[Entry]) -> Result<()> {
    let refuse = |reason: &str| Err(Error::checkpoint(path, reason));
    match file.author() {
        Some("Caffe2") => return refuse(CAFFE2),
        Some("Detectron2 Model Zoo") => return refuse(MODEL_ZOO),
        _ => {}
    }
    if file.has_caffe_style() {
        return refuse(CAFFE_STYLE);
    }
    for Entry { name, .. } in entries {
        if name.contains("_branch2a") {
            return refuse(CAFFE2);
        }
        if let Some(ResNetTensor { name: torchvision, .. }) = ResNetTensor::of(name)
            && torchvision == "conv1.0.weight"
        {
            let reason = format!("{name}: {DEEP_STEM}");
            return refuse(&reason);
        }
        if let Some(network) = other_resnet(name) {
            return refuse(&format!("{name}: {network}"));
        }
        if levels(name).last() == Some(&"pixel_std") {
            let std = file.tensor(name)?.flatten_all()?.to_vec1::<f32>()?;
            if std.iter().all(|value| *value == 1.0) {
                return refuse(&format!("{name} is 1: {BGR}"));
            }
        }
    }
    Ok(())
}

/// The error for a file without a ResNet.
fn no_resnet(path: &Path, entries: &[Entry]) -> Error {
    const SHOWN: usize = 3;
    let first: Vec<_> = (entries.iter().take(SHOWN))
        .map(|Entry { name, shape }| format!("{name} {shape:?}"))
        .collect();
    let first = match first.as_slice() {
        [] => String::new(),
        [first] => format!(", the first is {first}"),
        first => format!(", the first are {}", first.join(", ")),
    };
    let seems = entries.iter().find_map(|entry| other_network(&entry.name));
    let seems = seems.map_or(String::new(), |network| format!("; it looks like {network}"));
    let reason = format!("no ResNet among its {} tensors{first}{seems}", entries.len());
    let known = "names such as layer1.0.conv1.weight are understood, below the prefixes of many \
                 projects (docs/weights.md)";
    Error::checkpoint(path, format!("{reason}; {known}"))
}
