//! The pickle that Detectron2's `DetectionCheckpointer` loads: NumPy arrays under Detectron2's
//! names.
//!
//! ```text
//! {"model": {"stem.conv1.weight": ndarray, …}, "__author__": "scrl", "matching_heuristics": True}
//! ```
//!
//! With `matching_heuristics` Detectron2 matches the names with the ends of its models' names, such
//! as `backbone.bottom_up.stem.conv1.weight`.

use std::io::{Result as IoResult, Write};
use std::path::Path;

use candle_core::Tensor;
use scrl_schemas::store::AtomicFile;

use super::names::detectron2_name;
use super::pickle::{Op, Pickle};
use super::safetensors::float32_bytes;
use crate::{Error, Result};

/// The author of the weights. Detectron2 would rename those of "Caffe2".
const AUTHOR: &str = "scrl";

/// Writes float32 tensors with torchvision's names, in this order, to `path`, completely or not at
/// all.
pub(super) fn write_detectron2(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let io = || Error::io(path);
    let mut pickle = Pickle::new(AtomicFile::create(path)?, 3).map_err(io())?;
    begin(&mut pickle).map_err(io())?;
    for (name, tensor) in tensors {
        pickle.text(&detectron2_name(name)).map_err(io())?;
        array(&mut pickle, tensor.dims(), &float32_bytes(tensor)?).map_err(io())?;
    }
    let file = end(pickle).map_err(io())?;
    Ok(file.commit()?)
}

fn begin(pickle: &mut Pickle<impl Write>) -> IoResult<()> {
    pickle.ops(&[Op::EmptyDict, Op::Mark])?;
    pickle.text("model")?;
    pickle.ops(&[Op::EmptyDict, Op::Mark])
}

fn end<W: Write>(mut pickle: Pickle<W>) -> IoResult<W> {
    pickle.ops(&[Op::SetItems])?;
    pickle.text("__author__")?;
    pickle.text(AUTHOR)?;
    pickle.text("matching_heuristics")?;
    pickle.ops(&[Op::True, Op::SetItems])?;
    pickle.finish()
}

/// Pushes an array as NumPy pickles it: an empty one, then its state. Every version of NumPy knows
/// the module under this name.
fn array(pickle: &mut Pickle<impl Write>, shape: &[usize], bytes: &[u8]) -> IoResult<()> {
    /// The version of the state of an array.
    const ARRAY_STATE: i64 = 1;
    pickle.global("numpy.core.multiarray", "_reconstruct")?;
    pickle.ops(&[Op::Mark])?;
    pickle.global("numpy", "ndarray")?;
    pickle.ints(&[0])?;
    pickle.bytes(b"b")?;
    pickle.ops(&[Op::Tuple, Op::Reduce])?;
    pickle.ops(&[Op::Mark])?;
    pickle.int(ARRAY_STATE)?;
    pickle.ints(shape)?;
    float32(pickle)?;
    // Not in Fortran order.
    pickle.ops(&[Op::False])?;
    pickle.bytes(bytes)?;
    pickle.ops(&[Op::Tuple, Op::Build])
}

/// Pushes NumPy's type of little-endian float32.
fn float32(pickle: &mut Pickle<impl Write>) -> IoResult<()> {
    /// The version of the state of a type.
    const TYPE_STATE: i64 = 3;
    pickle.global("numpy", "dtype")?;
    pickle.ops(&[Op::Mark])?;
    pickle.text("f4")?;
    pickle.ops(&[Op::False, Op::True, Op::Tuple, Op::Reduce])?;
    pickle.ops(&[Op::Mark])?;
    pickle.int(TYPE_STATE)?;
    pickle.text("<")?;
    // No subarray, names or fields; default size and alignment; no flags.
    pickle.ops(&[Op::None, Op::None, Op::None])?;
    pickle.int(-1)?;
    pickle.int(-1)?;
    pickle.int(0)?;
    pickle.ops(&[Op::Tuple, Op::Build])
}
