//! `checkpoints/step-00000000.safetensors`: a learner's whole state, under PyTorch's names and layouts.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors, View};
use scrl_schemas::atomic::TEMPORARY_MARK;

use super::TrainConfig;
use crate::learner::Learner;
use crate::model::Parameter;
use crate::{Error, Result};

/// The version of the checkpoint's names and layouts.
const FORMAT: &str = "1";

/// The newest checkpoints that are kept.
const NEWEST_KEPT: usize = 3;

/// Of the older ones, each whose number is a multiple of this is kept.
const EVERY_KEPT: u64 = 10;

/// Where in the run a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Steps taken.
    pub step: u64,
    /// The epoch of the next step.
    pub epoch: u32,
    /// Pairs of that epoch already taken.
    pub position: u64,
}

/// A checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The file.
    pub path: PathBuf,
    /// Steps taken.
    pub step: u64,
}

/// A tensor on its way into a file.
struct Stored {
    shape: Vec<usize>,
    tensor: Tensor,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>());
        // A float32 tensor of a learner can always be copied to the host.
        let values = values.expect("a float32 tensor");
        Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * 4
    }
}

/// Writes tensors under their checkpoint names (as `rename` gives them) to `path`, whole or not at all.
pub(super) fn write_tensors<'a>(
    path: &Path,
    parameters: impl Iterator<Item = &'a Parameter>,
    metadata: HashMap<String, String>,
    rename: impl Fn(String) -> String,
) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for parameter in parameters {
        for (name, tensor) in parameter.to_checkpoint()? {
            tensors.insert(rename(name), Stored { shape: tensor.dims().to_vec(), tensor });
        }
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!("{TEMPORARY_MARK}{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let publish = || -> Result<()> {
        safetensors::serialize_to_file(tensors, Some(metadata), &temporary)
            .map_err(|error| Error::checkpoint(path, error))?;
        File::open(&temporary).and_then(|file| file.sync_all()).map_err(Error::io(&temporary))?;
        fs::rename(&temporary, path).map_err(Error::io(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
    };
    publish().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

impl Checkpoint {
    /// The file's name for a step.
    pub fn file_name(step: u64) -> String {
        format!("step-{step:08}.safetensors")
    }

    /// All checkpoints in `folder`, oldest first.
    pub fn list(folder: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let step = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
            if let Some(step) = step.and_then(|step| step.parse().ok()) {
                found.push(Self { path, step });
            }
        }
        found.sort_by_key(|checkpoint| checkpoint.step);
        Ok(found)
    }

    /// Writes the state of `learner` into `folder`, then removes checkpoints that need not be kept.
    pub fn write(
        folder: &Path,
        learner: &Learner,
        config: &TrainConfig,
        info: CheckpointInfo,
    ) -> Result<Self> {
        let path = folder.join(Self::file_name(info.step));
        let metadata = HashMap::from([
            ("scrl.format".to_owned(), FORMAT.to_owned()),
            ("step".to_owned(), info.step.to_string()),
            ("epoch".to_owned(), info.epoch.to_string()),
            ("position".to_owned(), info.position.to_string()),
            ("seed".to_owned(), config.seed.to_string()),
            ("options".to_owned(), config.to_toml()),
        ]);
        write_tensors(&path, learner.state(), metadata, |name| name)?;
        Self::prune(folder, config.checkpoint_every)?;
        Ok(Self { path, step: info.step })
    }

    fn prune(folder: &Path, every: u64) -> Result<()> {
        let all = Self::list(folder)?;
        let older = all.len().saturating_sub(NEWEST_KEPT);
        for checkpoint in &all[..older] {
            if checkpoint.step % (every * EVERY_KEPT) != 0 {
                fs::remove_file(&checkpoint.path).map_err(Error::io(&checkpoint.path))?;
            }
        }
        Ok(())
    }

    /// Loads the state into `learner` and returns where the run stood.
    ///
    /// # Errors
    /// If the file is damaged, or of a learner with other options than `config`.
    pub fn load(&self, learner: &Learner, config: &TrainConfig) -> Result<CheckpointInfo> {
        let bytes = fs::read(&self.path).map_err(Error::io(&self.path))?;
        let broken = |error: safetensors::SafeTensorError| Error::checkpoint(&self.path, error);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| {
            metadata.get(key).cloned().ok_or_else(|| Error::checkpoint(&self.path, format!("no {key} in it")))
        };
        if text("scrl.format")? != FORMAT {
            return Err(Error::checkpoint(&self.path, "written by another version"));
        }
        let number = |key: &str| -> Result<u64> {
            text(key)?.parse().map_err(|_| Error::checkpoint(&self.path, format!("{key} is no number")))
        };
        let info = CheckpointInfo {
            step: number("step")?,
            epoch: number("epoch")? as u32,
            position: number("position")?,
        };
        self.check_options(&text("options")?, config)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
        for parameter in learner.state() {
            let parts: Vec<Tensor> = parameter
                .checkpoint_names()
                .iter()
                .map(|name| self.tensor(&tensors, name, learner.device()))
                .collect::<Result<_>>()?;
            parameter.set_from_checkpoint(&parts).map_err(|error| Error::checkpoint(&self.path, error))?;
        }
        Ok(info)
    }

    /// The options that decide what the steps compute must be those the checkpoint was made with.
    fn check_options(&self, found: &str, config: &TrainConfig) -> Result<()> {
        let found: TrainConfig =
            toml::from_str(found).map_err(|error| Error::checkpoint(&self.path, error.message()))?;
        let same = TrainConfig {
            shards: found.shards.clone(),
            out: found.out.clone(),
            max_steps: found.max_steps,
            images: found.images.clone(),
            checkpoint_every: found.checkpoint_every,
            log_every: found.log_every,
            threads: found.threads,
            device: found.device.clone(),
            ..config.clone()
        };
        let (old, new) = (found.to_toml(), same.to_toml());
        let difference = old.lines().zip(new.lines()).find(|(old, new)| old != new);
        match difference {
            None => Ok(()),
            Some((old, new)) => Err(Error::checkpoint(
                &self.path,
                format!("made with {old}, this run has {new}; use the same options, or another --out"),
            )),
        }
    }

    fn tensor(&self, tensors: &SafeTensors, name: &str, device: &Device) -> Result<Tensor> {
        let missing = |error| Error::checkpoint(&self.path, format!("{name}: {error}"));
        let view = tensors.tensor(name).map_err(missing)?;
        if view.dtype() != Dtype::F32 {
            return Err(Error::checkpoint(&self.path, format!("{name}: not float32")));
        }
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Tensor::from_vec(values, view.shape(), device)?)
    }
}
