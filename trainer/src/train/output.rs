//! The output folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use scrl_cli::Reporter;
use scrl_schemas::store;
use scrl_schemas::store::atomic::TEMPORARY_MARK;

use super::checkpoint::{Checkpoint, CheckpointInfo, checkpoint_tensors};
use super::config::TrainConfig;
use super::learner::Learner;
use super::options::Resume;
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

    /// Makes the folders where they are missing, and removes the half-written checkpoints of runs
    /// that were killed.
    pub(super) fn create(&self) -> Result<()> {
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        for name in store::names(&checkpoints)? {
            if name.starts_with("step-") && name.contains(TEMPORARY_MARK) {
                let path = checkpoints.join(name);
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `metrics.svg`.
    pub fn drawing(&self) -> PathBuf {
        self.root.join("metrics.svg")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `backbone.safetensors`.
    pub fn backbone(&self) -> PathBuf {
        self.root.join("backbone.safetensors")
    }

    /// The checkpoint to resume from and its position. Of those in the folder it is the newest
    /// intact one; each damaged one that is skipped is reported.
    ///
    /// # Errors
    /// If there are checkpoints and none of them is intact: to start again unasked would lose the
    /// run.
    pub fn checkpoint_to_resume(
        &self,
        resume: &Resume,
        reporter: &Reporter,
    ) -> Result<Option<(Checkpoint, CheckpointInfo)>> {
        let all = || Checkpoint::list(&self.checkpoints());
        match resume {
            Resume::From(path) => {
                let checkpoint = Checkpoint { path: path.clone(), step: 0 };
                let info = checkpoint.info().map_err(advise("give another one with --resume"))?;
                Ok(Some((checkpoint, info)))
            }
            Resume::Auto => newest_intact(all()?, reporter),
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
    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<()> {
        let path = self.config();
        let text = config.to_toml().map_err(|error| Error::checkpoint(&path, error))?;
        Ok(scrl_schemas::store::write(&path, text.as_bytes())?)
    }

    /// Writes `backbone.safetensors`: the online backbone under torchvision's names.
    pub(super) fn write_backbone(&self, learner: &Learner) -> Result<()> {
        const PREFIX: &str = "online.backbone.";
        let parameters =
            learner.online_parameters().0.iter().filter(|p| p.name.starts_with(PREFIX));
        let tensors = checkpoint_tensors(parameters)?
            .into_iter()
            .map(|(name, tensor)| (name[PREFIX.len()..].to_owned(), tensor))
            .collect();
        write_safetensors(&self.backbone(), &tensors, &backbone_metadata(learner.config().arch))
    }
}

fn newest_intact(
    mut checkpoints: Vec<Checkpoint>,
    reporter: &Reporter,
) -> Result<Option<(Checkpoint, CheckpointInfo)>> {
    while let Some(checkpoint) = checkpoints.pop() {
        match checkpoint.info() {
            Ok(info) => return Ok(Some((checkpoint, info))),
            Err(error @ Error::Damaged { .. }) if !checkpoints.is_empty() => {
                reporter.say(format_args!("warning: {error}; trying an older checkpoint"));
            }
            Err(error) => {
                let advice = "no checkpoint here is intact; start again with another --out";
                return Err(advise(advice)(error));
            }
        }
    }
    Ok(None)
}

/// Adds advice to the error of a damaged checkpoint.
fn advise(advice: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Damaged { path, reason } => {
            Error::checkpoint(&path, format!("damaged: {reason}; {advice}"))
        }
        other => other,
    }
}
