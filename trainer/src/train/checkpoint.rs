//! `checkpoints/step-00000000.safetensors`: a learner's whole state, under PyTorch's names and layouts.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use scrl_schemas::Epoch;

use super::TrainConfig;
use crate::data::Begin;
use crate::model::Parameter;
use crate::train::Learner;
use crate::weights::{checksum, write_safetensors};
use crate::{Error, Result};

/// The version of the checkpoint's names and layouts.
const FORMAT: &str = "1";

/// The metadata's entry for the CRC-32C of all numbers.
const CHECKSUM: &str = "crc32c";

/// Bytes read at a time where a file is checked.
const READ_BYTES: usize = 1 << 20;

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
    /// Rows of each epoch of the shards; `None` in checkpoints of versions that did not note them.
    pub rows_per_epoch: Option<u64>,
}

impl CheckpointInfo {
    /// Where a training goes on from here.
    pub fn begin(&self) -> Begin {
        Begin { epoch: Epoch(self.epoch), rows_per_epoch: self.rows_per_epoch }
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

/// All `parameters` as a checkpoint holds them.
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
        let mut found = Vec::new();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(Error::io(folder)(error)),
        };
        for entry in entries {
            let path = entry.map_err(Error::io(folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let step =
                name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
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
        let mut metadata = BTreeMap::from([
            ("scrl.format", FORMAT.to_owned()),
            ("step", info.step.to_string()),
            ("epoch", info.epoch.to_string()),
            ("position", info.position.to_string()),
            ("seed", config.seed.to_string()),
            ("options", config.computation().to_string()),
        ]);
        if let Some(rows) = info.rows_per_epoch {
            metadata.insert("rows_per_epoch", rows.to_string());
        }
        let tensors = checkpoint_tensors(learner.state())?;
        metadata.insert(CHECKSUM, format!("{:08x}", checksum(&tensors)?));
        write_safetensors(&path, &tensors, &metadata)?;
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

    /// Where the run stood, from a file that is whole: its header, its size and its checksum say so.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a file that was cut off, overwritten or has changed; others if it is of another version or
    /// cannot be read.
    pub fn info(&self) -> Result<CheckpointInfo> {
        let file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let size = file.metadata().map_err(Error::io(&self.path))?.len();
        self.parse_info(&self.read_metadata(BufReader::with_capacity(READ_BYTES, file), size)?)
    }

    /// The safetensors metadata, from the content of the file, of which size and numbers are what its header says.
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
                "{found} bytes of tensors where there should be {expected}"
            )));
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        // Earlier versions noted none.
        if let Some(noted) = metadata.get(CHECKSUM) {
            let found = format!("{:08x}", checksum_of_rest(content).map_err(io())?);
            if found != *noted {
                return Err(damaged(&format!(
                    "its numbers have the checksum {found} where it should be {noted}"
                )));
            }
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
        let rows = "rows_per_epoch";
        Ok(CheckpointInfo {
            step: number("step")?,
            epoch: number("epoch")? as u32,
            position: number("position")?,
            rows_per_epoch: metadata.contains_key(rows).then(|| number(rows)).transpose()?,
        })
    }

    fn text<'a>(&self, metadata: &'a HashMap<String, String>, key: &str) -> Result<&'a str> {
        let missing = || Error::checkpoint(&self.path, format!("no {key} in it"));
        Ok(metadata.get(key).ok_or_else(missing)?)
    }

    /// Loads the state into `learner` and returns where the run stood.
    ///
    /// # Errors
    /// If the file is damaged, or of a learner with other options than `config`.
    pub fn load(&self, learner: &Learner, config: &TrainConfig) -> Result<CheckpointInfo> {
        let bytes = fs::read(&self.path).map_err(Error::io(&self.path))?;
        let metadata = self.read_metadata(bytes.as_slice(), bytes.len() as u64)?;
        let info = self.parse_info(&metadata)?;
        self.check_options(self.text(&metadata, "options")?, config)?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| Error::damaged(&self.path, error))?;
        for parameter in learner.state() {
            let value = self.tensor(&tensors, &parameter.name, &Device::Cpu)?;
            parameter
                .set_from_checkpoint(&value)
                .map_err(|error| Error::checkpoint(&self.path, error))?;
        }
        Ok(info)
    }

    /// The options that decide what the steps compute must be those the checkpoint was made with.
    fn check_options(&self, found: &str, config: &TrainConfig) -> Result<()> {
        let found: toml::Table = toml::from_str(found)
            .map_err(|error| Error::checkpoint(&self.path, error.message()))?;
        for (option, value) in config.computation() {
            let before = match (found.get(&option), option.as_str()) {
                (Some(value), _) => value.to_string(),
                // Versions without this option did without what it switches on.
                (None, "online-eval") => "\"off\"".to_owned(),
                (None, _) => "nothing".to_owned(),
            };
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

/// The CRC-32C of what has not been read yet.
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
