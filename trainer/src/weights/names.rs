//! The names of tensors: those of other files turned into those of our checkpoints, and of torchvision into Detectron2's.
//!
//! | file | a name in it | the same tensor in a checkpoint |
//! |---|---|---|
//! | a checkpoint | `online.projector.0.weight` | `online.projector.0.weight` |
//! | torchvision | `layer1.0.bn1.bias` | `online.backbone.layer1.0.bn1.bias` |
//! | the authors' code | `target_network_state_dict.encoder.4.0.bn1.bias` | `target.backbone.layer1.0.bn1.bias` |
//! | | `online_network_state_dict.projector.net.3.weight` | `online.projector.3.weight` |
//! | | `predictor_state_dict.net.0.bias` | `predictor.0.bias` |
//!
//! Dictionaries inside one another are joined by dots. Around each of them there may be what PyTorch and its users wrap
//! around a network: `module`, `model`, `state_dict`.

/// The name in a checkpoint of what another file calls `name`; `None` for all but weights of the two networks and the
/// predictor: optimisers, classifiers, counters of batches.
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

/// The authors' heads have their layers in a part called `net`.
fn head_layer(name: &str) -> &str {
    let name = name.strip_prefix("module.").unwrap_or(name);
    name.strip_prefix("net.").unwrap_or(name)
}

/// The authors' encoder is `nn.Sequential` of a ResNet's children: 2 is a ReLU, 3 the pooling, 8 the average.
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

/// Detectron2's name of what torchvision calls `name`: stages are counted from the stem, `res2` to `res5`; a batch norm
/// belongs to its convolution; the branch that changes shape is the `shortcut`.
pub(super) fn detectron2_name(name: &str) -> String {
    let mut pieces = name.split('.').peekable();
    let mut found = Vec::new();
    while let Some(piece) = pieces.next() {
        if let Some(stage) =
            piece.strip_prefix("layer").and_then(|number| number.parse::<u32>().ok())
        {
            found.push(format!("res{}", stage + 1));
        } else if let Some(number) = piece.strip_prefix("bn") {
            found.push(format!("conv{number}.norm"));
        } else if piece == "downsample" {
            found.push("shortcut".to_owned());
            if pieces.next() == Some("1") {
                found.push("norm".to_owned());
            }
        } else {
            found.push(piece.to_owned());
        }
    }
    if !name.starts_with("layer") {
        found.insert(0, "stem".to_owned());
    }
    found.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_file_lead_to_those_of_a_checkpoint() {
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
    fn what_is_no_weight_of_a_network_has_no_name() {
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
}
