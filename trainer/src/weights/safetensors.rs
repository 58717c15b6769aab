//! safetensors files: a length, a JSON header, the numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use scrl_schemas::atomic::AtomicFile;
use serde_json::json;

use crate::{Error, Result};

/// A file whose tensors are read one at a time.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the numbers begin.
    start: usize,
    header: Metadata,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let (header_size, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            Error::checkpoint(path, format!("no whole safetensors file: {error}"))
        })?;
        // The header's length is a number of eight bytes.
        Ok(Self { path: path.to_owned(), bytes, start: 8 + header_size, header })
    }

    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// A tensor, as float32.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let wrong = |reason: &str| Error::checkpoint(&self.path, format!("{name}: {reason}"));
        let info = self.header.info(name).ok_or_else(|| wrong("missing"))?;
        let dtype = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(wrong(&format!(
                    "of type {other:?}, which is no number of 16 bits or more"
                )));
            }
        };
        let (begin, end) = info.data_offsets;
        let bytes =
            self.bytes.get(self.start + begin..self.start + end).ok_or_else(|| wrong("cut off"))?;
        let tensor = Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

/// Writes float32 tensors under their names to `path`, whole or not at all.
///
/// The header is made here rather than by the `safetensors` crate because that one lists the metadata in an order that
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
        end += tensor.elem_count() * size_of::<f32>();
        let entry = json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let mut header = serde_json::to_vec(&header).expect("plain values");
    // The numbers begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = AtomicFile::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    file.write_all(&header).map_err(Error::io(path))?;
    for tensor in tensors.values() {
        file.write_all(&float32_bytes(tensor)?).map_err(Error::io(path))?;
    }
    Ok(file.commit()?)
}

/// The CRC-32C of what [`write_safetensors`] writes behind the header.
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
