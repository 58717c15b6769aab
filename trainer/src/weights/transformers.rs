//! The folder that `ResNetBackbone.from_pretrained` and `AutoBackbone.from_pretrained` of Hugging
//! Face's transformers load.
//!
//! ```text
//! config.json               the architecture: a ResNetConfig
//! model.safetensors         the tensors under the names of ResNetBackbone
//! preprocessor_config.json  how images become input, for AutoImageProcessor
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use scrl_schemas::store;
use serde::Serialize;

use super::export::backbone_metadata;
use super::names::transformers_name;
use super::safetensors::write_safetensors;
use crate::model::{Arch, STEM_CHANNELS};
use crate::ops::{IMAGENET_MEAN, IMAGENET_STD};
use crate::{Error, Result};

/// The running statistic of each batch norm, beside which transformers expects a count of batches.
const VARIANCE: &str = "running_var";

/// The name of the tensors' file.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// The name of the configuration's file.
pub(super) const CONFIG: &str = "config.json";

/// The fields of transformers' `ResNetConfig`.
#[derive(Serialize)]
pub(super) struct ResNetConfig {
    architectures: [&'static str; 1],
    model_type: &'static str,
    num_channels: usize,
    embedding_size: usize,
    hidden_sizes: [usize; 4],
    depths: [usize; 4],
    layer_type: &'static str,
    hidden_act: &'static str,
    downsample_in_first_stage: bool,
    downsample_in_bottleneck: bool,
    out_features: [&'static str; 4],
}

impl ResNetConfig {
    /// The configuration of `arch`. All four feature maps are returned: FPNs need them, and a
    /// caller that needs fewer passes `out_features` to `from_pretrained`.
    pub(super) fn of(arch: Arch) -> Self {
        Self {
            architectures: ["ResNetBackbone"],
            model_type: "resnet",
            num_channels: 3,
            embedding_size: STEM_CHANNELS,
            hidden_sizes: arch.stage_channels(),
            depths: arch.blocks(),
            layer_type: if arch.expansion() == 1 { "basic" } else { "bottleneck" },
            hidden_act: "relu",
            downsample_in_first_stage: false,
            // The stride is in the 3×3 convolution, as in torchvision.
            downsample_in_bottleneck: false,
            out_features: ["stage1", "stage2", "stage3", "stage4"],
        }
    }
}

/// The fields of transformers' `ConvNextImageProcessor`, which it uses for ResNets.
#[derive(Serialize)]
struct Preprocessor {
    image_processor_type: &'static str,
    do_resize: bool,
    size: Size,
    crop_pct: f32,
    resample: u8,
    do_rescale: bool,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

#[derive(Serialize)]
struct Size {
    shortest_edge: u32,
}

/// As `scrl-eval linear` prepares images: the shorter side resized to 256 pixels, and the center of
/// 224 × 224.
const PREPROCESSOR: Preprocessor = Preprocessor {
    image_processor_type: "ConvNextImageProcessor",
    do_resize: true,
    size: Size { shortest_edge: 224 },
    // 224 / 256.
    crop_pct: 0.875,
    // Pillow's number of bicubic resampling.
    resample: 3,
    do_rescale: true,
    do_normalize: true,
    image_mean: IMAGENET_MEAN,
    image_std: IMAGENET_STD,
};

/// Writes the folder for a backbone whose tensors have torchvision's names, and makes it where it
/// is missing. The configuration goes first and comes last: a folder that has one is complete.
pub(super) fn write_transformers(
    folder: &Path,
    arch: Arch,
    tensors: Vec<(String, Tensor)>,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let config = folder.join(CONFIG);
    store::remove(&config)?;
    let mut renamed: BTreeMap<_, _> =
        tensors.into_iter().map(|(name, tensor)| (transformers_name(&name), tensor)).collect();
    add_batch_counts(&mut renamed)?;
    write_safetensors(&folder.join(WEIGHTS), &renamed, &backbone_metadata(arch))?;
    store::write(&folder.join("preprocessor_config.json"), &to_json(&PREPROCESSOR))?;
    Ok(store::write(&config, &to_json(&ResNetConfig::of(arch)))?)
}

/// Adds PyTorch's count of batches to each batch norm: 0, since nothing reads it while batch norms
/// have a momentum. transformers warns of weights that a file lacks.
fn add_batch_counts(tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let count = Tensor::zeros((), DType::I64, &Device::Cpu)?;
    let norms: Vec<_> =
        tensors.keys().filter_map(|name| name.strip_suffix(VARIANCE)).map(str::to_owned).collect();
    tensors.extend(norms.into_iter().map(|norm| (norm + "num_batches_tracked", count.clone())));
    Ok(())
}

/// Indented JSON with a line feed at its end.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain values");
    text.push(b'\n');
    text
}
