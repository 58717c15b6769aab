//! The output folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::write_tensors;
use super::{Checkpoint, Resume, TrainConfig};
use crate::learner::Learner;
use crate::{Error, Result};

/// The paths inside an output folder.
#[derive(Clone, Debug)]
pub struct Output {
    root: PathBuf,
}

impl Output {
    /// Makes the folder where it is missing.
    pub fn create(root: &Path) -> Result<Self> {
        let output = Self { root: root.to_owned() };
        let checkpoints = output.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        Ok(output)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `backbone.safetensors`.
    pub fn backbone(&self) -> PathBuf {
        self.root.join("backbone.safetensors")
    }

    /// The checkpoint to go on from.
    pub fn checkpoint_to_resume(&self, resume: &Resume) -> Result<Option<Checkpoint>> {
        match resume {
            Resume::From(path) => Ok(Some(Checkpoint { path: path.clone(), step: 0 })),
            Resume::Auto => Ok(Checkpoint::list(&self.checkpoints())?.pop()),
            Resume::No if Checkpoint::list(&self.checkpoints())?.is_empty() => Ok(None),
            Resume::No => Err(Error::Option {
                option: "resume",
                reason: format!("{} already holds a run; choose another --out", self.root.display()),
            }),
        }
    }

    /// Writes `config.toml`.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        Ok(scrl_schemas::atomic::write(&self.config(), config.to_toml().as_bytes())?)
    }

    /// Writes `backbone.safetensors`: the online backbone under torchvision's names.
    pub fn write_backbone(&self, learner: &Learner, config: &TrainConfig) -> Result<()> {
        const PREFIX: &str = "online.backbone.";
        let parameters = learner.online_parameters().0.iter().filter(|p| p.layer.starts_with(PREFIX));
        let metadata = [("arch", config.arch.to_string()), ("format", "pt".to_owned())];
        write_tensors(&self.backbone(), parameters, metadata.into(), |name| name[PREFIX.len()..].to_owned())
    }
}
