//! The output folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use scrl_schemas::atomic::TEMPORARY_MARK;

use super::checkpoint::checkpoint_tensors;
use super::{Checkpoint, CheckpointInfo, Resume, TrainConfig};
use crate::train::Learner;
use crate::weights::{backbone_metadata, write_safetensors};
use crate::{Error, Result};

/// The paths inside an output folder.
#[derive(Clone, Debug)]
pub struct Output {
    root: PathBuf,
}

impl Output {
    /// An output folder at `root`; touches nothing.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the folders where they are missing, and removes the half-written checkpoints of runs that were killed.
    pub fn create(&self) -> Result<()> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        for entry in fs::read_dir(&checkpoints).map_err(Error::io(&checkpoints))? {
            let path = entry.map_err(Error::io(&checkpoints))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("step-") && name.contains(TEMPORARY_MARK) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
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

    /// The checkpoint to go on from, and where the run stood. Of those in the folder it is the newest whole one;
    /// `damaged` is told of each that was passed over.
    ///
    /// # Errors
    /// If there are checkpoints and none of them is whole: to begin anew without being told to would lose the run.
    pub fn checkpoint_to_resume(
        &self,
        resume: &Resume,
        damaged: &mut dyn FnMut(&Error),
    ) -> Result<Option<(Checkpoint, CheckpointInfo)>> {
        let all = || Checkpoint::list(&self.checkpoints());
        match resume {
            Resume::From(path) => {
                let checkpoint = Checkpoint { path: path.clone(), step: 0 };
                let info = checkpoint.info().map_err(advise("name another one in --resume"))?;
                Ok(Some((checkpoint, info)))
            }
            Resume::Auto => newest_whole(all()?, damaged),
            Resume::No if all()?.is_empty() => Ok(None),
            Resume::No => Err(Error::Option {
                option: "resume",
                reason: format!(
                    "{} already holds a run; choose another --out",
                    self.root.display()
                ),
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
        let parameters =
            learner.online_parameters().0.iter().filter(|p| p.name.starts_with(PREFIX));
        let tensors = checkpoint_tensors(parameters)?
            .into_iter()
            .map(|(name, tensor)| (name[PREFIX.len()..].to_owned(), tensor))
            .collect();
        write_safetensors(&self.backbone(), &tensors, &backbone_metadata(config.arch))
    }
}

fn newest_whole(
    mut checkpoints: Vec<Checkpoint>,
    damaged: &mut dyn FnMut(&Error),
) -> Result<Option<(Checkpoint, CheckpointInfo)>> {
    while let Some(checkpoint) = checkpoints.pop() {
        match checkpoint.info() {
            Ok(info) => return Ok(Some((checkpoint, info))),
            Err(error @ Error::Damaged { .. }) if !checkpoints.is_empty() => damaged(&error),
            Err(error) => {
                return Err(advise("no checkpoint here is whole; train anew with another --out")(
                    error,
                ));
            }
        }
    }
    Ok(None)
}

/// Adds to the news of a damaged checkpoint what can be done.
fn advise(advice: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Damaged { path, reason } => {
            Error::checkpoint(&path, format!("damaged: {reason}; {advice}"))
        }
        other => other,
    }
}
