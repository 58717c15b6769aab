//! safetensors files: the header's length, the header in JSON, the numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use scrl_schemas::store::AtomicFile;
use serde_json::json;

use super::file::Entry;
use crate::{Error, Result};

/// A file whose tensors are loaded one at a time.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    tensors: BufferedSafetensors,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let tensors = BufferedSafetensors::new(bytes).map_err(|error| {
            Error::checkpoint(path, format!("not a complete safetensors file: {error}"))
        })?;
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// The tensors in the order of their names.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(name, tensor): (String, TensorView<'_>)| Entry {
            name,
            shape: tensor.shape().to_vec(),
        };
        let mut entries: Vec<_> = self.tensors.tensors().into_iter().map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// A tensor, as float32.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let unusable = |reason: String| Error::checkpoint(&self.path, format!("{name}: {reason}"));
        let tensor =
            self.tensors.load(name, &Device::Cpu).map_err(|error| unusable(error.to_string()))?;
        match tensor.dtype() {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => Ok(tensor.to_dtype(DType::F32)?),
            other => Err(unusable(format!("is of type {}, not a float", other.as_str()))),
        }
    }
}

/// Writes tensors of float32 or int64 under their names to `path`, completely or not at all.
///
/// The header is made here because the `safetensors` crate writes the metadata in an order that
/// changes from run to run, and the same tensors must give the same bytes.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<&str, String>,
) -> Result<()> {
    let mut header = BTreeMap::from([("__metadata__", json!(metadata))]);
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let dtype = if tensor.dtype() == DType::I64 { "I64" } else { "F32" };
        let entry = json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let mut header = serde_json::to_vec(&header).expect("plain values");
    // The numbers begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = AtomicFile::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    file.write_all(&header).map_err(Error::io(path))?;
    for tensor in tensors.values() {
        let bytes = match tensor.dtype() {
            DType::I64 => int64_bytes(tensor)?,
            _ => float32_bytes(tensor)?,
        };
        file.write_all(&bytes).map_err(Error::io(path))?;
    }
    Ok(file.commit()?)
}

/// The CRC-32C of the numbers of float32 tensors, as [`write_safetensors`] writes them after the
/// header.
pub(crate) fn checksum(tensors: &BTreeMap<String, Tensor>) -> Result<u32> {
    tensors
        .values()
        .try_fold(0, |sum, tensor| Ok(crc32c::crc32c_append(sum, &float32_bytes(tensor)?)))
}

/// The numbers of a float32 tensor in row-major order, little-endian.
pub(super) fn float32_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// The same of an int64 tensor.
fn int64_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = tensor.flatten_all()?.to_vec1::<i64>()?;
    Ok(values.into_iter().flat_map(i64::to_le_bytes).collect())
}
