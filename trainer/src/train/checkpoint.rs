//! `checkpoints/step-00000000.safetensors`: the complete state of a learner, under PyTorch's names
//! and layouts.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use scrl_schemas::Epoch;

use super::config::{Hyperparameters, TrainConfig};
use super::defaults::Recorded;
use super::learner::Learner;
use crate::data::Start;
use crate::model::Parameter;
use crate::weights::{checkpoints, checksum, write_safetensors};
use crate::{Error, Result};

/// The version of a checkpoint's names and layouts.
const FORMAT: &str = "1";

/// The metadata key of the CRC-32C of all tensor data.
const CHECKSUM: &str = "crc32c";

/// The metadata key of [`CheckpointInfo::held_out`], left out where it is 0.
const HELD_OUT: &str = "held_out";

/// Bytes read at a time when a file is checked.
const READ_BYTES: usize = 1 << 20;

/// The number of newest checkpoints that are kept.
const NEWEST_KEPT: usize = 3;

/// Of the older checkpoints, every tenth is kept.
const EVERY_KEPT: u64 = 10;

/// The position of a checkpoint in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Steps taken.
    pub step: u64,
    /// The epoch of the next step.
    pub epoch: u32,
    /// Pairs of that epoch already taken.
    pub position: u64,
    /// Rows of each epoch of the shards.
    pub rows_per_epoch: u64,
    /// Pairs at the end of epoch 0 that are held out from training; 0 if the run began without.
    pub held_out: u64,
    /// The options whose defaults depend on the shards.
    pub recorded: Recorded,
}

impl CheckpointInfo {
    /// The start of a run that resumes here.
    pub fn start(&self) -> Start {
        Start { epoch: Epoch(self.epoch), rows_per_epoch: Some(self.rows_per_epoch) }
    }
}

/// A checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The file.
    pub path: PathBuf,
    /// Steps taken.
    pub step: u64,
}

/// The tensors of `parameters` by name, as a checkpoint holds them.
pub(super) fn checkpoint_tensors<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
) -> Result<BTreeMap<String, Tensor>> {
    parameters.map(|parameter| Ok((parameter.name.clone(), parameter.to_checkpoint()?))).collect()
}

impl Checkpoint {
    /// The file's name for a step.
    pub fn file_name(step: u64) -> String {
        format!("step-{step:08}.safetensors")
    }

    /// All checkpoints in `folder`, oldest first; none where there is no folder.
    pub fn list(folder: &Path) -> Result<Vec<Self>> {
        let found = checkpoints(folder)?.into_iter();
        Ok(found.map(|(step, path)| Self { path, step }).collect())
    }

    /// Writes the state of `learner` into `folder`, then removes checkpoints that need not be kept.
    pub(super) fn write(
        folder: &Path,
        learner: &Learner,
        config: &TrainConfig,
        info: CheckpointInfo,
    ) -> Result<()> {
        let path = folder.join(Self::file_name(info.step));
        let tensors = checkpoint_tensors(learner.state())?;
        let mut metadata = BTreeMap::from([
            ("scrl.format", FORMAT.to_owned()),
            ("step", info.step.to_string()),
            ("epoch", info.epoch.to_string()),
            ("position", info.position.to_string()),
            ("rows_per_epoch", info.rows_per_epoch.to_string()),
            ("seed", config.hyperparameters.seed.to_string()),
            ("options", config.hyperparameters.to_table().to_string()),
            (CHECKSUM, format!("{:08x}", checksum(&tensors)?)),
        ]);
        if info.held_out > 0 {
            metadata.insert(HELD_OUT, info.held_out.to_string());
        }
        write_safetensors(&path, &tensors, &metadata)?;
        Self::prune(folder, config.checkpoint_every)
    }

    /// Removes older checkpoints.
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

    /// The checkpoint's position, from a file whose header, size and checksum are correct.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a file that was cut off, overwritten or has changed; others if it is
    /// of another version or cannot be read.
    pub(super) fn info(&self) -> Result<CheckpointInfo> {
        let file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let size = file.metadata().map_err(Error::io(&self.path))?.len();
        self.parse_info(&self.read_metadata(BufReader::with_capacity(READ_BYTES, file), size)?)
    }

    /// The safetensors metadata, once the file's size and checksum agree with its header.
    fn read_metadata(
        &self,
        mut content: impl BufRead,
        size: u64,
    ) -> Result<HashMap<String, String>> {
        let io = || Error::io(&self.path);
        let damaged = |reason: &str| Error::damaged(&self.path, reason);
        let mut length = [0; 8];
        if size < length.len() as u64 {
            return Err(damaged("too short"));
        }
        content.read_exact(&mut length).map_err(io())?;
        let (length, rest) = (u64::from_le_bytes(length), size - length.len() as u64);
        if length > rest {
            return Err(damaged("its header is cut off"));
        }
        let mut header = Vec::new();
        content.by_ref().take(length).read_to_end(&mut header).map_err(io())?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
        let (expected, found) = (header.data_len() as u64, rest - length);
        if expected != found {
            return Err(damaged(&format!(
                "it holds {found} bytes of tensors instead of {expected}"
            )));
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        let recorded = self.text(&metadata, CHECKSUM)?;
        let found = format!("{:08x}", checksum_of_rest(content).map_err(io())?);
        if found != recorded {
            return Err(damaged(&format!("its checksum is {found} instead of {recorded}")));
        }
        Ok(metadata)
    }

    fn parse_info(&self, metadata: &HashMap<String, String>) -> Result<CheckpointInfo> {
        if self.text(metadata, "scrl.format")? != FORMAT {
            return Err(Error::checkpoint(&self.path, "written by another version"));
        }
        let number = |key: &str| -> Result<u64> {
            let text = self.text(metadata, key)?;
            text.parse().map_err(|_| Error::checkpoint(&self.path, format!("{key} is no number")))
        };
        Ok(CheckpointInfo {
            step: number("step")?,
            epoch: number("epoch")? as u32,
            position: number("position")?,
            rows_per_epoch: number("rows_per_epoch")?,
            held_out: match metadata.contains_key(HELD_OUT) {
                true => number(HELD_OUT)?,
                false => 0,
            },
            recorded: toml::from_str(self.text(metadata, "options")?)
                .map_err(|error| Error::checkpoint(&self.path, error.message()))?,
        })
    }

    fn text<'a>(&self, metadata: &'a HashMap<String, String>, key: &str) -> Result<&'a str> {
        let missing = || Error::checkpoint(&self.path, format!("has no {key} in its metadata"));
        Ok(metadata.get(key).ok_or_else(missing)?)
    }

    /// Loads the state into `learner`.
    ///
    /// # Errors
    /// If the file is damaged, or was made with other options than `hyperparameters`.
    pub(super) fn load(&self, learner: &Learner, hyperparameters: &Hyperparameters) -> Result<()> {
        let bytes = fs::read(&self.path).map_err(Error::io(&self.path))?;
        let metadata = self.read_metadata(bytes.as_slice(), bytes.len() as u64)?;
        self.check_options(self.text(&metadata, "options")?, hyperparameters)?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| Error::damaged(&self.path, error))?;
        for parameter in learner.state() {
            let value = self.tensor(&tensors, &parameter.name, &Device::Cpu)?;
            parameter
                .set_from_checkpoint(&value)
                .map_err(|error| Error::checkpoint(&self.path, error))?;
        }
        Ok(())
    }

    /// Refuses options that would change what the steps compute.
    fn check_options(&self, found: &str, hyperparameters: &Hyperparameters) -> Result<()> {
        let found: toml::Table = toml::from_str(found)
            .map_err(|error| Error::checkpoint(&self.path, error.message()))?;
        for (option, value) in hyperparameters.to_table() {
            let before = found.get(&option).map_or_else(|| "nothing".to_owned(), |v| v.to_string());
            if before != value.to_string() {
                let reason = format!("made with {option} = {before}, this run has {value}");
                return Err(Error::checkpoint(
                    &self.path,
                    format!("{reason}; use the same options, or another --out"),
                ));
            }
        }
        Ok(())
    }

    fn tensor(&self, tensors: &SafeTensors, name: &str, device: &Device) -> Result<Tensor> {
        let missing = |error| Error::checkpoint(&self.path, format!("{name}: {error}"));
        let view = tensors.tensor(name).map_err(missing)?;
        if view.dtype() != Dtype::F32 {
            return Err(Error::checkpoint(&self.path, format!("{name}: not float32")));
        }
        Ok(Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), device)?)
    }
}

/// The CRC-32C of the bytes that are not read yet.
fn checksum_of_rest(mut content: impl BufRead) -> std::io::Result<u32> {
    let mut sum = 0;
    loop {
        let bytes = content.fill_buf()?;
        if bytes.is_empty() {
            return Ok(sum);
        }
        sum = crc32c::crc32c_append(sum, bytes);
        let length = bytes.len();
        content.consume(length);
    }
}
