//! A file of weights, whatever its format.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::Tensor;

use super::pth::{LEGACY_MAGIC, PthFile, ZIP_MAGIC};
use super::safetensors::SafetensorsFile;
use crate::{Error, Result};

/// A file of weights in a format that can be read.
pub(super) enum WeightsFile {
    Safetensors(SafetensorsFile),
    Pth(PthFile),
}

impl WeightsFile {
    /// Opens a file; its format is detected from its content.
    pub fn open(path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(LEGACY_MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::io(path))?;
        if start.starts_with(ZIP_MAGIC) {
            Ok(Self::Pth(PthFile::open_zip(path)?))
        } else if start.starts_with(LEGACY_MAGIC) {
            Ok(Self::Pth(PthFile::open_legacy(path)?))
        } else if start.get(8) == Some(&b'{') {
            Ok(Self::Safetensors(SafetensorsFile::open(path)?))
        } else {
            let advice = "safetensors.torch.save_file(model.state_dict(), \"weights.safetensors\")";
            let reason = "neither a safetensors file nor one of torch.save; in Python:";
            Err(Error::checkpoint(path, format!("{reason} {advice}")))
        }
    }

    /// The tensors' names.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Pth(file) => file.names(),
        }
    }

    /// A tensor as float32.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.tensor(name),
            Self::Pth(file) => file.tensor(name),
        }
    }
}
