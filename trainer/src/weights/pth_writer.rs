//! Writing files for `torch.load`, also with `weights_only=True`: a zip archive with a pickle and
//! an entry for each tensor.
//!
//! ```text
//! archive/data.pkl     {"conv1.weight": _rebuild_tensor_v2(storage "0", 0, (64, 3, 7, 7), strides,
//!                                                          False, OrderedDict()), …}
//! archive/byteorder    little
//! archive/data/0 …     float32, each beginning at a multiple of 64 bytes
//! archive/version      3
//! ```
//!
//! Entries are uncompressed and have no time, so the same tensors give the same bytes.

use std::io::{self, Seek, Write};
use std::path::Path;

use candle_core::{Layout, Tensor};
use scrl_schemas::store::AtomicFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::pickle::{Op, Pickle};
use super::safetensors::float32_bytes;
use crate::{Error, Result};

/// PyTorch's alignment; `torch.load(mmap=True)` needs it.
const ALIGNMENT: u16 = 64;

/// Writes a dictionary of float32 tensors, in this order, to `path`, completely or not at all.
pub(super) fn write_pth(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut archive = ZipWriter::new(AtomicFile::create(path)?);
    let io = || Error::io(path);
    entry(&mut archive, "data.pkl", &state_dict(tensors).map_err(io())?).map_err(io())?;
    entry(&mut archive, "byteorder", b"little").map_err(io())?;
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        entry(&mut archive, &format!("data/{key}"), &float32_bytes(tensor)?).map_err(io())?;
    }
    entry(&mut archive, "version", b"3\n").map_err(io())?;
    let file = archive.finish().map_err(io::Error::from).map_err(io())?;
    Ok(file.commit()?)
}

fn entry<W: Write + Seek>(archive: &mut ZipWriter<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644)
        .with_alignment(ALIGNMENT);
    archive.start_file(format!("archive/{name}"), options)?;
    archive.write_all(bytes)
}

/// The pickle. Storages have the keys "0", "1", … in the order of the tensors.
fn state_dict(tensors: &[(String, Tensor)]) -> io::Result<Vec<u8>> {
    let mut pickle = Pickle::new(Vec::new(), 2)?;
    pickle.ops(&[Op::EmptyDict, Op::Mark])?;
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        pickle.text(name)?;
        pickle.global("torch._utils", "_rebuild_tensor_v2")?;
        pickle.ops(&[Op::Mark, Op::Mark])?;
        pickle.text("storage")?;
        pickle.global("torch", "FloatStorage")?;
        pickle.text(&key.to_string())?;
        pickle.text("cpu")?;
        pickle.int(tensor.elem_count() as i64)?;
        pickle.ops(&[Op::Tuple, Op::Persistent])?;
        // The offset in the storage, the shape, the strides.
        pickle.int(0)?;
        pickle.ints(tensor.dims())?;
        pickle.ints(Layout::contiguous(tensor.shape()).stride())?;
        // No gradient, no hooks.
        pickle.ops(&[Op::False])?;
        pickle.global("collections", "OrderedDict")?;
        pickle.ops(&[Op::Mark, Op::Tuple, Op::Reduce])?;
        pickle.ops(&[Op::Tuple, Op::Reduce])?;
    }
    pickle.ops(&[Op::SetItems])?;
    pickle.finish()
}
