//! Where each project puts a ResNet in its files, and how it names the tensors.
//!
//! Keys of nested dictionaries are joined by dots: `state_dict.module.encoder_q.layer1.0.bn1.bias`
//! is the wrappers `state_dict.module`, which may be anywhere in front, the prefix `encoder_q` of
//! [`LAYOUTS`], and a name in one of the styles of [`Style`], which become torchvision's names.

use super::branch::Branch;

/// A network of a project.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// What is in front of a tensor's name, without wrappers.
    pub prefix: &'static str,
    /// Which of the two networks it is. Those of networks that are trained by gradients count as
    /// online; EMAs and momentum encoders as target.
    pub network: Branch,
    /// Who writes such files.
    pub projects: &'static str,
}

const fn online(prefix: &'static str, projects: &'static str) -> Layout {
    Layout { prefix, network: Branch::Online, projects }
}

const fn target(prefix: &'static str, projects: &'static str) -> Layout {
    Layout { prefix, network: Branch::Target, projects }
}

/// The layouts. A file with several networks gives the one that comes first here, which is the one
/// that people use of such a file, unless `--network` says otherwise.
pub(super) const LAYOUTS: &[Layout] = &[
    online("online.backbone", OURS),
    target("target.backbone", OURS),
    online("online_network_state_dict.encoder", AUTHORS),
    target("target_network_state_dict.encoder", AUTHORS),
    // DINO evaluates the teacher.
    target("teacher.backbone", "DINO"),
    online("student.backbone", "DINO"),
    target("teacher_backbone", "Lightly's DINO"),
    online("student_backbone", "Lightly's DINO"),
    online("encoder_q", "MoCo or ReSim"),
    online("encoder_q.0", "OpenSelfSup's MoCo"),
    online("base_encoder", "MoCo v3"),
    online("online_encoder.net", "byol-pytorch"),
    online("online_net.0", "OpenSelfSup's BYOL"),
    online("trunk._feature_blocks", "VISSL"),
    online("_feature_blocks", "VISSL"),
    online("resnet.net", "SimCLR v2 in PyTorch"),
    online("encoder", "PixPro, SoCo, InfoMin or SimSiam"),
    online("backbone.bottom_up", "Detectron2"),
    online("backbone.body", "torchvision's detectors"),
    online("backbone.0.body", "DETR"),
    online("backbone.conv_encoder", "DETR in transformers"),
    online("backbone", "Lightly, solo-learn, OpenMMLab, VICReg or others"),
    // timm and torchvision publish the EMAs.
    target("state_dict_ema", "timm"),
    target("model_ema", "torchvision's training scripts"),
    online("net", "byol-pytorch or SimCLR v2 in PyTorch"),
    online("resnet", "transformers"),
    online("", ""),
    target("encoder_k", "MoCo, ReSim or PixPro"),
    target("encoder_k.0", "OpenSelfSup's MoCo"),
    target("momentum_encoder", "MoCo v3 or solo-learn"),
    target("momentum_encoder.0", "mmselfsup's MoCo"),
    target("target_encoder.net", "byol-pytorch"),
    target("target_net.0", "OpenSelfSup's and mmselfsup's BYOL"),
    target("model_ema.encoder", "InfoMin or SoCo"),
    target("backbone_momentum", "Lightly"),
    target("momentum_backbone", "solo-learn"),
    target("backbone_k", "InsLoc"),
];

const OURS: &str = "scrl-train";
const AUTHORS: &str = "the paper's authors";

/// The most levels of a prefix.
const DEEPEST: usize = 3;

/// Levels of names that PyTorch and its users put around models and state dicts.
const WRAPPERS: [&str; 10] = [
    "module",
    "model",
    "state_dict",
    "model_state_dict",
    "base_model",
    "classy_state_dict",
    "learner",
    "timm_model",
    "_orig_mod",
    "_fsdp_wrapped_module",
];

/// How the tensors of a ResNet are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Torchvision,
    /// An `nn.Sequential` of torchvision's children: 2 is the ReLU, 3 the max pooling, 8 the average
    /// pooling.
    Sequential,
    /// `embedder.embedder.convolution`, `encoder.stages.0.layers.0.layer.0.convolution`.
    Transformers,
    /// `stem.conv1`, `res2.0.conv1.norm`.
    Detectron2,
    /// `0.0`, `1.blocks.0.net.0`, of github.com/Separius/SimCLRv2-Pytorch.
    SimClr,
}

impl Style {
    /// Whose names they are.
    fn description(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision's names",
            Self::Sequential => "torchvision's layers in an nn.Sequential",
            Self::Transformers => "transformers' names",
            Self::Detectron2 => "Detectron2's names",
            Self::SimClr => "names of SimCLR v2 in PyTorch",
        }
    }
}

/// A tensor of a ResNet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResNetTensor {
    /// The number of its layout in [`LAYOUTS`].
    pub layout: usize,
    pub style: Style,
    /// torchvision's name.
    pub name: String,
    /// The tensor's own name up to the style's.
    pub group: String,
}

impl ResNetTensor {
    /// The tensor of a ResNet that `name` is, by its layout and style; `None` for all others.
    pub fn of(name: &str) -> Option<Self> {
        let levels = levels(name);
        (0..=DEEPEST.min(levels.len())).rev().find_map(|count| {
            let prefix = levels[..count].join(".");
            let layout = LAYOUTS.iter().position(|layout| layout.prefix == prefix)?;
            let rest = &levels[count..];
            let (style, torchvision) = torchvision_name(rest)?;
            let group = name.strip_suffix(&rest.join(".")).unwrap_or_default().to_owned();
            Some(Self { layout, style, name: torchvision, group })
        })
    }
}

impl Layout {
    /// Whether its files may have heads that fit scrl-train's.
    pub fn has_our_heads(&self) -> bool {
        [OURS, AUTHORS].contains(&self.projects)
    }

    /// Such as `encoder_q of MoCo`.
    pub fn description(&self, style: Style) -> String {
        match self.prefix {
            "" => style.description().to_owned(),
            prefix => format!("{prefix} of {}", self.projects),
        }
    }
}

/// The levels of a name without wrappers.
pub(super) fn levels(name: &str) -> Vec<&str> {
    name.split('.').filter(|level| !WRAPPERS.contains(level)).collect()
}

/// The name in a checkpoint of a head's tensor in a checkpoint or in a file of the authors.
pub(super) fn head_name(name: &str) -> Option<String> {
    let levels = levels(name);
    let (head, rest) = match levels.as_slice() {
        ["predictor" | "predictor_state_dict", rest @ ..] => ("predictor", rest),
        ["online" | "online_network_state_dict", "projector", rest @ ..] => {
            ("online.projector", rest)
        }
        ["target" | "target_network_state_dict", "projector", rest @ ..] => {
            ("target.projector", rest)
        }
        _ => return None,
    };
    // The authors' heads have their layers in a submodule `net`.
    let rest = rest.strip_prefix(&["net"]).unwrap_or(rest);
    Some(format!("{head}.{}", rest.join(".")))
}

/// The style of a tensor of a ResNet, and torchvision's name. No name is of two styles.
fn torchvision_name(levels: &[&str]) -> Option<(Style, String)> {
    let (style, name) = match *levels {
        [first, _, ..] if is_child(first) => (Style::Torchvision, levels.join(".")),
        ["embedder" | "encoder", ..] => (Style::Transformers, of_transformers(levels)?),
        ["stem", ..] => (Style::Detectron2, of_detectron2(levels)?),
        [first, ..] if first.starts_with("res") => (Style::Detectron2, of_detectron2(levels)?),
        ["0", "0" | "1", ..] | [_, "blocks", ..] => (Style::SimClr, of_simclr(levels)?),
        [_, _, ..] => (Style::Sequential, of_sequential(levels)?),
        _ => return None,
    };
    Some((style, name))
}

fn is_child(level: &str) -> bool {
    ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"].contains(&level)
}

fn of_sequential(levels: &[&str]) -> Option<String> {
    let child = match levels {
        ["0", _] => "conv1",
        ["1", _] => "bn1",
        ["4", _, _, ..] => "layer1",
        ["5", _, _, ..] => "layer2",
        ["6", _, _, ..] => "layer3",
        ["7", _, _, ..] => "layer4",
        _ => return None,
    };
    Some(format!("{child}.{}", levels[1..].join(".")))
}

fn of_transformers(levels: &[&str]) -> Option<String> {
    let layer = |kind: &str, number: usize| match kind {
        "convolution" => Some(format!("conv{number}")),
        "normalization" => Some(format!("bn{number}")),
        _ => None,
    };
    match *levels {
        ["embedder", "embedder", kind, last] => Some(format!("{}.{last}", layer(kind, 1)?)),
        ["encoder", "stages", stage, "layers", block, ref rest @ ..] => {
            let stage = number(stage)?.checked_add(1)?;
            let name = match *rest {
                ["layer", index, kind, last] => {
                    format!("{}.{last}", layer(kind, number(index)?.checked_add(1)?)?)
                }
                ["shortcut", "convolution", last] => format!("downsample.0.{last}"),
                ["shortcut", "normalization", last] => format!("downsample.1.{last}"),
                _ => return None,
            };
            Some(format!("layer{stage}.{block}.{name}"))
        }
        _ => None,
    }
}

fn of_detectron2(levels: &[&str]) -> Option<String> {
    let layer = |levels: &[&str]| match *levels {
        ["shortcut", "norm", last] => Some(format!("downsample.1.{last}")),
        ["shortcut", last] => Some(format!("downsample.0.{last}")),
        [conv, "norm", last] => Some(format!("bn{}.{last}", conv.strip_prefix("conv")?)),
        [conv, last] if conv.starts_with("conv") => Some(format!("{conv}.{last}")),
        _ => None,
    };
    match levels {
        ["stem", rest @ ..] => layer(rest),
        [stage, block, rest @ ..] => {
            let stage = number(stage.strip_prefix("res")?)?.checked_sub(1)?;
            Some(format!("layer{stage}.{block}.{}", layer(rest)?))
        }
        _ => None,
    }
}

fn of_simclr(levels: &[&str]) -> Option<String> {
    match *levels {
        ["0", "0", last] => Some(format!("conv1.{last}")),
        ["0", "1", "0", last] => Some(format!("bn1.{last}")),
        [stage @ ("1" | "2" | "3" | "4"), "blocks", block, ref rest @ ..] => {
            let name = match *rest {
                ["projection", "shortcut", last] => format!("downsample.0.{last}"),
                ["projection", "bn", "0", last] => format!("downsample.1.{last}"),
                // Convolutions and batch norms in turns.
                ["net", index, last] if number(index)? % 2 == 0 => {
                    format!("conv{}.{last}", number(index)? / 2 + 1)
                }
                ["net", index, "0", last] => format!("bn{}.{last}", number(index)? / 2 + 1),
                _ => return None,
            };
            Some(format!("layer{stage}.{block}.{name}"))
        }
        _ => None,
    }
}

fn number(level: &str) -> Option<usize> {
    level.parse().ok()
}

/// Parts of names of ResNets that are not torchvision's.
const OTHER_RESNETS: [(&str, &str); 2] = [
    ("attnpool.", "CLIP's ResNet, which has another stem than torchvision's"),
    (
        "mixing_conv.",
        "SimCLR v2 with selective kernels, another network than torchvision's; its r50_1x_sk0 is a \
         resnet50",
    ),
];

/// Parts of names of networks that are no ResNets.
const OTHER_NETWORKS: [(&str, &str); 8] = [
    ("attn.qkv.", TRANSFORMER),
    ("attention.query.", TRANSFORMER),
    ("attention.attention.", TRANSFORMER),
    ("in_proj_weight", TRANSFORMER),
    ("patch_embed", TRANSFORMER),
    ("relative_position_bias_table", TRANSFORMER),
    ("dwconv.", "a ConvNeXt"),
    ("depthwise", "a network of depthwise convolutions"),
];

const TRANSFORMER: &str = "a vision transformer";

/// Why a ResNet with this tensor is not torchvision's, if its name says so.
pub(super) fn other_resnet(name: &str) -> Option<&'static str> {
    OTHER_RESNETS.iter().find(|(part, _)| name.contains(part)).map(|(_, network)| *network)
}

/// What a network without a ResNet seems to be that has this tensor.
pub(super) fn other_network(name: &str) -> Option<&'static str> {
    OTHER_NETWORKS.iter().find(|(part, _)| name.contains(part)).map(|(_, network)| *network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::names::{detectron2_name, transformers_name};

    /// Networks, styles and names. The names were taken from the projects' sources.
    const NAMES: [(&str, Branch, Style, &str, &str); 45] = {
        use Branch::{Online, Target};
        use Style::{Detectron2, Sequential, SimClr, Torchvision, Transformers};
        [
            (
                "online.backbone.layer1.0.conv1.weight",
                Online,
                Torchvision,
                "layer1.0.conv1.weight",
                "scrl-train",
            ),
            ("target.backbone.bn1.bias", Target, Torchvision, "bn1.bias", "scrl-train"),
            ("conv1.weight", Online, Torchvision, "conv1.weight", "names"),
            ("module.layer4.2.bn3.bias", Online, Torchvision, "layer4.2.bn3.bias", "names"),
            (
                "state_dict.module.layer2.0.downsample.1.bias",
                Online,
                Torchvision,
                "layer2.0.downsample.1.bias",
                "names",
            ),
            (
                "online_network_state_dict.encoder.0.weight",
                Online,
                Sequential,
                "conv1.weight",
                "authors",
            ),
            (
                "online_network_state_dict.module.encoder.1.bias",
                Online,
                Sequential,
                "bn1.bias",
                "authors",
            ),
            (
                "target_network_state_dict.encoder.7.1.bn2.weight",
                Target,
                Sequential,
                "layer4.1.bn2.weight",
                "authors",
            ),
            (
                "state_dict.module.encoder_q.layer1.0.conv1.weight",
                Online,
                Torchvision,
                "layer1.0.conv1.weight",
                "MoCo",
            ),
            (
                "state_dict.module.encoder_k.conv1.weight",
                Target,
                Torchvision,
                "conv1.weight",
                "MoCo",
            ),
            (
                "state_dict.module.base_encoder.bn1.weight",
                Online,
                Torchvision,
                "bn1.weight",
                "MoCo v3",
            ),
            (
                "state_dict.module.momentum_encoder.bn1.weight",
                Target,
                Torchvision,
                "bn1.weight",
                "MoCo v3",
            ),
            (
                "model.module.encoder.layer1.0.bn1.bias",
                Online,
                Torchvision,
                "layer1.0.bn1.bias",
                "PixPro",
            ),
            (
                "model.module.encoder_k.layer1.0.bn1.bias",
                Target,
                Torchvision,
                "layer1.0.bn1.bias",
                "PixPro",
            ),
            (
                "model_ema.encoder.layer1.0.bn1.bias",
                Target,
                Torchvision,
                "layer1.0.bn1.bias",
                "InfoMin",
            ),
            (
                "teacher.backbone.layer1.0.bn1.bias",
                Target,
                Torchvision,
                "layer1.0.bn1.bias",
                "DINO",
            ),
            ("student.module.backbone.conv1.weight", Online, Torchvision, "conv1.weight", "DINO"),
            (
                "classy_state_dict.base_model.model.trunk._feature_blocks.conv1.weight",
                Online,
                Torchvision,
                "conv1.weight",
                "VISSL",
            ),
            (
                "_feature_blocks.layer1.0.conv1.weight",
                Online,
                Torchvision,
                "layer1.0.conv1.weight",
                "VISSL",
            ),
            ("state_dict.backbone.0.weight", Online, Sequential, "conv1.weight", "Lightly"),
            (
                "state_dict.backbone.4.0.conv1.weight",
                Online,
                Sequential,
                "layer1.0.conv1.weight",
                "Lightly",
            ),
            (
                "state_dict.backbone_momentum.1.running_var",
                Target,
                Sequential,
                "bn1.running_var",
                "Lightly",
            ),
            ("0.weight", Online, Sequential, "conv1.weight", "nn.Sequential"),
            (
                "online_encoder.net.conv1.weight",
                Online,
                Torchvision,
                "conv1.weight",
                "byol-pytorch",
            ),
            (
                "state_dict.learner.target_encoder.net.bn1.bias",
                Target,
                Torchvision,
                "bn1.bias",
                "byol-pytorch",
            ),
            ("net.layer1.0.bn1.bias", Online, Torchvision, "layer1.0.bn1.bias", "byol-pytorch"),
            ("resnet.net.0.0.weight", Online, SimClr, "conv1.weight", "SimCLR"),
            ("resnet.net.0.1.0.running_mean", Online, SimClr, "bn1.running_mean", "SimCLR"),
            (
                "resnet.net.1.blocks.0.projection.shortcut.weight",
                Online,
                SimClr,
                "layer1.0.downsample.0.weight",
                "SimCLR",
            ),
            ("resnet.net.4.blocks.2.net.5.0.bias", Online, SimClr, "layer4.2.bn3.bias", "SimCLR"),
            ("net.2.blocks.0.net.2.weight", Online, SimClr, "layer2.0.conv2.weight", "SimCLR"),
            (
                "resnet.embedder.embedder.convolution.weight",
                Online,
                Transformers,
                "conv1.weight",
                "transformers",
            ),
            (
                "encoder.stages.2.layers.22.layer.1.normalization.bias",
                Online,
                Transformers,
                "layer3.22.bn2.bias",
                "transformers",
            ),
            (
                "model.backbone.bottom_up.res2.0.conv1.norm.weight",
                Online,
                Detectron2,
                "layer1.0.bn1.weight",
                "Detectron2",
            ),
            ("stem.conv1.weight", Online, Detectron2, "conv1.weight", "Detectron2"),
            (
                "model.backbone.body.layer1.0.conv1.weight",
                Online,
                Torchvision,
                "layer1.0.conv1.weight",
                "detectors",
            ),
            (
                "model.backbone.0.body.layer1.0.conv1.weight",
                Online,
                Torchvision,
                "layer1.0.conv1.weight",
                "DETR",
            ),
            ("state_dict.backbone.conv1.weight", Online, Torchvision, "conv1.weight", "OpenMMLab"),
            ("state_dict.backbone_k.conv1.weight", Target, Torchvision, "conv1.weight", "InsLoc"),
            (
                "state_dict.momentum_backbone.conv1.weight",
                Target,
                Torchvision,
                "conv1.weight",
                "solo-learn",
            ),
            (
                "state_dict.encoder_q.0.conv1.weight",
                Online,
                Torchvision,
                "conv1.weight",
                "OpenSelfSup",
            ),
            (
                "state_dict.target_net.module.0.conv1.weight",
                Target,
                Torchvision,
                "conv1.weight",
                "mmselfsup",
            ),
            (
                "state_dict.momentum_encoder.module.0.conv1.weight",
                Target,
                Torchvision,
                "conv1.weight",
                "mmselfsup",
            ),
            ("state_dict_ema.conv1.weight", Target, Torchvision, "conv1.weight", "timm"),
            ("state_dict._orig_mod.conv1.weight", Online, Torchvision, "conv1.weight", "names"),
        ]
    };

    #[test]
    fn names_of_all_layouts_become_torchvisions() {
        for (name, network, style, expected, project) in NAMES {
            let found = ResNetTensor::of(name).unwrap_or_else(|| panic!("{name}"));
            let layout = &LAYOUTS[found.layout];
            assert_eq!(
                (layout.network, found.style, &*found.name),
                (network, style, expected),
                "{name}"
            );
            assert!(
                layout.description(style).contains(project),
                "{name}: {}",
                layout.description(style)
            );
            assert!(name.starts_with(&found.group) && !found.group.ends_with("conv1."));
        }
    }

    #[test]
    fn names_of_our_exports_are_read_again() {
        for name in [
            "conv1.weight",
            "bn1.running_var",
            "layer1.0.conv1.weight",
            "layer4.2.bn3.bias",
            "layer3.22.bn2.running_mean",
            "layer3.0.downsample.0.weight",
            "layer2.0.downsample.1.weight",
        ] {
            for exported in [name.to_owned(), detectron2_name(name), transformers_name(name)] {
                assert_eq!(ResNetTensor::of(&exported).unwrap().name, name, "{exported}");
            }
        }
    }

    #[test]
    fn other_tensors_are_none_of_a_resnet() {
        for name in [
            "momentum.online.backbone.conv1.weight",
            "classifier.weight",
            "fc.weight",
            "evaluator_state_dict.linear.weight",
            "optimizer_state_dict.state.momentum_buffer",
            "encoder.3.weight",
            "encoder_q.fc.0.weight",
            "encoder.layer.0.attention.query.weight",
            "net.4.weight",
            "epoch",
            "",
            "...",
        ] {
            assert_eq!(ResNetTensor::of(name), None, "{name}");
        }
    }

    #[test]
    fn heads_are_those_of_scrl() {
        for (name, expected) in [
            ("target.projector.1.running_mean", Some("target.projector.1.running_mean")),
            ("predictor.3.weight", Some("predictor.3.weight")),
            ("online_network_state_dict.projector.net.3.weight", Some("online.projector.3.weight")),
            ("target_network_state_dict.projector.0.weight", Some("target.projector.0.weight")),
            ("predictor_state_dict.module.net.0.bias", Some("predictor.0.bias")),
            ("projector.0.weight", None),
            ("momentum.online.projector.0.weight", None),
        ] {
            assert_eq!(head_name(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn each_prefix_stands_in_the_table_once() {
        for (number, layout) in LAYOUTS.iter().enumerate() {
            let levels: Vec<_> = layout.prefix.split('.').collect();
            assert!(
                levels.len() <= DEEPEST && levels.iter().all(|level| !WRAPPERS.contains(level))
            );
            let first = LAYOUTS.iter().position(|other| other.prefix == layout.prefix);
            assert_eq!(first, Some(number), "{}", layout.prefix);
        }
    }
}
