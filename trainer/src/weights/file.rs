//! A file of weights, whatever its format.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::Tensor;

use super::pth::{LEGACY_MAGIC, PICKLE_MAGIC, PthFile, ZIP_MAGIC};
use super::safetensors::SafetensorsFile;
use crate::{Error, Result};

/// A file of weights in a format that can be read.
pub(super) enum WeightsFile {
    Safetensors(SafetensorsFile),
    Pth(PthFile),
}

/// The name and shape of a tensor.
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
}

impl WeightsFile {
    /// Opens a file; its format is detected from its content.
    pub fn open(path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(LEGACY_MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::io(path))?;
        // The header of a safetensors file is shorter than 4 GiB.
        if start.get(4..9) == Some(b"\0\0\0\0{") {
            Ok(Self::Safetensors(SafetensorsFile::open(path)?))
        } else if start.starts_with(ZIP_MAGIC) {
            Ok(Self::Pth(PthFile::open_zip(path)?))
        } else if start.starts_with(LEGACY_MAGIC) {
            Ok(Self::Pth(PthFile::open_legacy(path)?))
        } else if matches!(*start, [PICKLE_MAGIC, 2..=5, ..]) {
            Ok(Self::Pth(PthFile::open_pickle(path)?))
        } else {
            let advice = "safetensors.torch.save_file(model.state_dict(), \"weights.safetensors\")";
            let reason =
                "neither a safetensors file, nor one of torch.save, nor a pickle; in Python:";
            Err(Error::checkpoint(path, format!("{reason} {advice}")))
        }
    }

    /// The tensors in the order of their names.
    pub fn entries(&self) -> Vec<Entry> {
        match self {
            Self::Safetensors(file) => file.entries(),
            Self::Pth(file) => file.entries(),
        }
    }

    /// The `__author__` that Detectron2's files have.
    pub fn author(&self) -> Option<&str> {
        match self {
            Self::Safetensors(_) => None,
            Self::Pth(file) => file.text("__author__"),
        }
    }

    /// Whether a configuration in the file says that it is of Caffe's style.
    pub fn has_caffe_style(&self) -> bool {
        match self {
            Self::Safetensors(_) => false,
            Self::Pth(file) => file.has_caffe_style(),
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
