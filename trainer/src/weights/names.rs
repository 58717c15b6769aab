//! torchvision's names of tensors, and those of Detectron2 and transformers for the same tensors.

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
