//! Folders in place of files: the file of weights in a run's folder, or in one of transformers.

use std::fs;
use std::path::{Path, PathBuf};

use scrl_schemas::store;
use serde_json::Value;

use super::transformers::{CONFIG, WEIGHTS};
use crate::{Error, Result};

/// transformers' list of the files that it has divided large weights into.
const SHARD_INDEX: &str = "model.safetensors.index.json";

/// transformers' older name of the weights, which `torch.save` writes.
const PYTORCH_WEIGHTS: &str = "pytorch_model.bin";

/// The file of weights that `path` means: the file itself; of a run's folder `backbone.safetensors`,
/// or its newest checkpoint before there is one; of a folder of checkpoints the newest; of a folder
/// of Hugging Face's transformers its `model.safetensors`.
///
/// # Errors
/// If a folder has none of these, or has weights that are divided into several files.
pub fn weights_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    for name in ["backbone.safetensors", WEIGHTS, PYTORCH_WEIGHTS] {
        let file = path.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    for folder in [path.join("checkpoints"), path.to_owned()] {
        if let Some((_, file)) = checkpoints(&folder)?.pop() {
            return Ok(file);
        }
    }
    let reason = if path.join(SHARD_INDEX).is_file() {
        format!(
            "its weights are divided into the files of {SHARD_INDEX}; load them with transformers \
             and save them with save_pretrained(FOLDER, max_shard_size=\"10GB\")"
        )
    } else {
        format!(
            "a folder without backbone.safetensors, checkpoints/step-….safetensors or {WEIGHTS}; \
             name a file of weights"
        )
    };
    Err(Error::checkpoint(path, reason))
}

/// The checkpoints in a folder, `step-00000000.safetensors`, by their steps, oldest first; none where
/// there is no folder.
pub(crate) fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step =
        |name: &str| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse::<u64>().ok();
    let names = store::names(folder)?.into_iter();
    let mut found: Vec<_> =
        names.filter_map(|name| Some((step(&name)?, folder.join(name)))).collect();
    found.sort();
    Ok(found)
}

/// Refuses weights of transformers whose configuration says that they compute something else than
/// torchvision's ResNet.
///
/// # Errors
/// If the `config.json` beside the file cannot be read, or is of another model.
pub(super) fn check_config(file: &Path) -> Result<()> {
    let path = file.with_file_name(CONFIG);
    let is_of_transformers = [WEIGHTS, PYTORCH_WEIGHTS].iter().any(|name| file.ends_with(name));
    if !is_of_transformers || !path.is_file() {
        return Ok(());
    }
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let config: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::checkpoint(&path, format!("not JSON: {error}")))?;
    let refuse = |reason: String| Err(Error::checkpoint(&path, reason));
    if let Some(kind) = config["model_type"].as_str().filter(|kind| *kind != "resnet") {
        return refuse(format!("a model of type {kind}, not a resnet"));
    }
    for (key, meaning) in [
        ("downsample_in_bottleneck", "the stride is in the first convolution of a bottleneck"),
        ("downsample_in_first_stage", "the first stage halves its input"),
    ] {
        if config[key] == true {
            return refuse(format!("{key} is true: {meaning}, unlike in torchvision's ResNets"));
        }
    }
    match config["hidden_act"].as_str() {
        None | Some("relu") => Ok(()),
        Some(other) => refuse(format!("hidden_act is {other}; only relu is known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these empty files.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_means_its_backbone_or_its_newest_checkpoint() {
        let checkpoints =
            ["checkpoints/step-00000009.safetensors", "checkpoints/step-00000010.safetensors"];
        let partial = "checkpoints/step-00000011.safetensors.tmp-1";
        for (names, expected) in [
            (vec!["backbone.safetensors", checkpoints[0]], "backbone.safetensors"),
            (vec![checkpoints[0], checkpoints[1], partial], checkpoints[1]),
            (vec!["step-00000003.safetensors", "log.txt"], "step-00000003.safetensors"),
            (vec!["config.json", WEIGHTS], WEIGHTS),
            (vec!["config.json", PYTORCH_WEIGHTS], PYTORCH_WEIGHTS),
        ] {
            let folder = folder(&names);
            assert_eq!(weights_file(folder.path()).unwrap(), folder.path().join(expected));
        }
        let file = Path::new("nowhere/a.pth");
        assert_eq!(weights_file(file).unwrap(), file);
    }

    #[test]
    fn folders_without_weights_are_refused() {
        for (names, words) in [
            (vec!["log.txt"], "name a file of weights"),
            (vec![SHARD_INDEX, "model-00001-of-00002.safetensors"], "max_shard_size"),
        ] {
            let message = weights_file(folder(&names).path()).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn configurations_of_other_networks_are_refused() {
        for (config, words) in [
            (r#"{"model_type": "resnet", "downsample_in_bottleneck": false}"#, ""),
            (r#"{"model_type": "vit"}"#, "a model of type vit"),
            (r#"{"downsample_in_bottleneck": true}"#, "downsample_in_bottleneck is true"),
            (r#"{"downsample_in_first_stage": true}"#, "downsample_in_first_stage is true"),
            (r#"{"hidden_act": "gelu"}"#, "hidden_act is gelu"),
            ("{", "not JSON"),
        ] {
            let folder = folder(&[WEIGHTS]);
            fs::write(folder.path().join(CONFIG), config).unwrap();
            let checked = check_config(&folder.path().join(WEIGHTS));
            match words {
                "" => checked.unwrap(),
                words => assert!(checked.unwrap_err().to_string().contains(words)),
            }
            check_config(&folder.path().join("other.safetensors")).unwrap();
        }
    }
}
