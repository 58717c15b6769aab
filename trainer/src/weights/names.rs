//! Names of tensors: from other files to scrl-train's checkpoints, and from torchvision to
//! Detectron2 and transformers.
//!
//! | file | a name in it | the same tensor in a checkpoint |
//! |---|---|---|
//! | checkpoint | `online.projector.0.weight` | `online.projector.0.weight` |
//! | torchvision | `layer1.0.bn1.bias` | `online.backbone.layer1.0.bn1.bias` |
//! | authors | `target_network_state_dict.encoder.0.weight` | `target.backbone.conv1.weight` |
//! | | `online_network_state_dict.projector.net.3.weight` | `online.projector.3.weight` |
//! | | `predictor_state_dict.net.0.bias` | `predictor.0.bias` |
//!
//! Keys of nested dictionaries are joined by dots. Any of them may have the wrappers of PyTorch and
//! its users around it: `module`, `model`, `state_dict`.

/// The name in a checkpoint of the tensor `name` of another file; `None` for all but weights of the
/// networks and the predictor: optimizers, classifiers, counters of batches.
pub(super) fn checkpoint_name(name: &str) -> Option<String> {
    if name.ends_with("num_batches_tracked") {
        return None;
    }
    let mut network = "online";
    let mut rest = name;
    loop {
        let (first, below) = rest.split_once('.')?;
        match first {
            "module" | "model" | "state_dict" | "backbone" => {}
            "online" | "online_network_state_dict" => network = "online",
            "target" | "target_network_state_dict" => network = "target",
            "predictor" | "predictor_state_dict" => {
                return Some(format!("predictor.{}", head_layer(below)));
            }
            "projector" => return Some(format!("{network}.projector.{}", head_layer(below))),
            "encoder" => return Some(format!("{network}.backbone.{}", child_of_resnet(below)?)),
            "conv1" | "bn1" | "layer1" | "layer2" | "layer3" | "layer4" => {
                return Some(format!("{network}.backbone.{rest}"));
            }
            _ => return None,
        }
        rest = below;
    }
}

/// The authors' heads have their layers in a submodule `net`.
fn head_layer(name: &str) -> &str {
    let name = name.strip_prefix("module.").unwrap_or(name);
    name.strip_prefix("net.").unwrap_or(name)
}

/// The authors' encoder is an `nn.Sequential` of a ResNet's children: 2 is the ReLU, 3 the max
/// pooling, 8 the average pooling.
fn child_of_resnet(name: &str) -> Option<String> {
    let (index, below) = name.split_once('.')?;
    let child = match index {
        "0" => "conv1",
        "1" => "bn1",
        "4" => "layer1",
        "5" => "layer2",
        "6" => "layer3",
        "7" => "layer4",
        _ => return None,
    };
    Some(format!("{child}.{below}"))
}

/// Detectron2's name of torchvision's tensor `name`: stages are counted from the stem, `res2` to
/// `res5`; a batch norm belongs to its convolution; `downsample` is the `shortcut`.
pub(super) fn detectron2_name(name: &str) -> String {
    let mut levels = name.split('.');
    let mut renamed = Vec::new();
    if !name.starts_with("layer") {
        renamed.push("stem".to_owned());
    }
    while let Some(level) = levels.next() {
        if let Some(stage) = level.strip_prefix("layer").and_then(|stage| stage.parse::<u32>().ok())
        {
            renamed.push(format!("res{}", stage + 1));
        } else if let Some(number) = level.strip_prefix("bn") {
            renamed.push(format!("conv{number}.norm"));
        } else if level == "downsample" {
            renamed.push("shortcut".to_owned());
            if levels.next() == Some("1") {
                renamed.push("norm".to_owned());
            }
        } else {
            renamed.push(level.to_owned());
        }
    }
    renamed.join(".")
}

/// transformers' name of torchvision's tensor `name`: the stem is the `embedder`; stages and the
/// layers of a block are counted from 0; `downsample` is the `shortcut`.
pub(super) fn transformers_name(name: &str) -> String {
    let in_stem = !name.starts_with("layer");
    let mut levels = name.split('.');
    let mut renamed = Vec::new();
    while let Some(level) = levels.next() {
        renamed.push(match level {
            "conv1" if in_stem => "embedder.embedder.convolution",
            "bn1" if in_stem => "embedder.embedder.normalization",
            "layer1" => "encoder.stages.0.layers",
            "layer2" => "encoder.stages.1.layers",
            "layer3" => "encoder.stages.2.layers",
            "layer4" => "encoder.stages.3.layers",
            "conv1" => "layer.0.convolution",
            "conv2" => "layer.1.convolution",
            "conv3" => "layer.2.convolution",
            "bn1" => "layer.0.normalization",
            "bn2" => "layer.1.normalization",
            "bn3" => "layer.2.normalization",
            "downsample" if levels.next() == Some("0") => "shortcut.convolution",
            "downsample" => "shortcut.normalization",
            level => level,
        });
    }
    renamed.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_files_become_those_of_a_checkpoint() {
        for (name, expected) in [
            ("online.backbone.layer1.0.conv1.weight", "online.backbone.layer1.0.conv1.weight"),
            ("target.projector.1.running_mean", "target.projector.1.running_mean"),
            ("predictor.3.weight", "predictor.3.weight"),
            ("conv1.weight", "online.backbone.conv1.weight"),
            ("module.layer4.2.bn3.bias", "online.backbone.layer4.2.bn3.bias"),
            (
                "state_dict.module.layer2.0.downsample.1.bias",
                "online.backbone.layer2.0.downsample.1.bias",
            ),
            ("online_network_state_dict.encoder.0.weight", "online.backbone.conv1.weight"),
            ("online_network_state_dict.module.encoder.1.bias", "online.backbone.bn1.bias"),
            (
                "target_network_state_dict.encoder.7.1.bn2.weight",
                "target.backbone.layer4.1.bn2.weight",
            ),
            ("online_network_state_dict.projector.net.3.weight", "online.projector.3.weight"),
            ("target_network_state_dict.projector.0.weight", "target.projector.0.weight"),
            ("predictor_state_dict.module.net.0.bias", "predictor.0.bias"),
        ] {
            assert_eq!(checkpoint_name(name).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_tensors_have_no_name_in_a_checkpoint() {
        for name in [
            "momentum.online.backbone.conv1.weight",
            "classifier.weight",
            "fc.weight",
            "bn1.num_batches_tracked",
            "online_network_state_dict.encoder.4.0.bn1.num_batches_tracked",
            "evaluator_state_dict.linear.weight",
            "optimizer_state_dict.state.momentum_buffer",
            "encoder.3.weight",
            "epoch",
        ] {
            assert_eq!(checkpoint_name(name), None, "{name}");
        }
    }

    #[test]
    fn detectron2_counts_stages_from_the_stem() {
        for (name, expected) in [
            ("conv1.weight", "stem.conv1.weight"),
            ("bn1.running_var", "stem.conv1.norm.running_var"),
            ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
            ("layer4.2.bn3.bias", "res5.2.conv3.norm.bias"),
            ("layer3.0.downsample.0.weight", "res4.0.shortcut.weight"),
            ("layer2.0.downsample.1.weight", "res3.0.shortcut.norm.weight"),
        ] {
            assert_eq!(detectron2_name(name), expected);
        }
    }

    #[test]
    fn transformers_counts_stages_and_layers_from_zero() {
        for (name, expected) in [
            ("conv1.weight", "embedder.embedder.convolution.weight"),
            ("bn1.running_var", "embedder.embedder.normalization.running_var"),
            ("layer1.0.conv1.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight"),
            ("layer4.2.bn3.bias", "encoder.stages.3.layers.2.layer.2.normalization.bias"),
            (
                "layer3.22.bn2.running_mean",
                "encoder.stages.2.layers.22.layer.1.normalization.running_mean",
            ),
            (
                "layer3.0.downsample.0.weight",
                "encoder.stages.2.layers.0.shortcut.convolution.weight",
            ),
            (
                "layer2.0.downsample.1.weight",
                "encoder.stages.1.layers.0.shortcut.normalization.weight",
            ),
        ] {
            assert_eq!(transformers_name(name), expected);
        }
    }
}
