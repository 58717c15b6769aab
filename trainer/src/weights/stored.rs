//! Tensors as pickles describe them: calls of PyTorch's or NumPy's functions, whose numbers lie in a
//! storage beside the pickle or in the pickle itself.

use candle_core::{DType, Device, Tensor};

use super::unpickle::{Id, Pickled, Value};
use crate::Result;

/// The most elements of a tensor that is larger than its storage, by strides of 0. A ResNet's largest
/// has a seventh of them; a damaged file could demand any number.
const MOST_EXPANDED: usize = 1 << 24;

/// A tensor's location; offset and strides count elements.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    pub numbers: Numbers,
    pub kind: Kind,
    pub size: Vec<usize>,
    offset: usize,
    stride: Vec<usize>,
}

/// Where the elements are.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    /// In the storage with this key.
    Storage(String),
    /// In a value of the pickle.
    Inline(Id),
}

/// The type of the elements.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Float(DType),
    /// Another one, such as `CharStorage`.
    Other(String),
}

impl StoredTensor {
    /// The tensor that a value is, if it is one.
    pub fn of(pickled: &Pickled, id: Id) -> Option<Self> {
        let Value::Call { callable, args, state, .. } = pickled.get(id) else { return None };
        let all = pickled.tuple(*args)?;
        let (module, name) = pickled.global(*callable)?;
        match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => of_torch(pickled, all),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                match pickled.get(*all.first()?) {
                    // A parameter of a parameter is none.
                    Value::Call { callable, args, .. }
                        if pickled.global(*callable)?.1.starts_with("_rebuild_tensor") =>
                    {
                        of_torch(pickled, pickled.tuple(*args)?)
                    }
                    _ => None,
                }
            }
            // (function, type, its arguments, state)
            ("torch._tensor", "_rebuild_from_type_v2") => match all {
                [inner, _, args, ..] if pickled.global(*inner)?.1 == "_rebuild_tensor_v2" => {
                    of_torch(pickled, pickled.tuple(*args)?)
                }
                _ => None,
            },
            // NumPy 2 renamed its modules. The state: version, shape, type, Fortran's order, bytes.
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                let [_, size, kind, fortran, bytes] = pickled.tuple((*state)?)? else {
                    return None;
                };
                let is_fortran = matches!(pickled.get(*fortran), Value::Bool(true) | Value::Int(1));
                of_numpy(pickled, *bytes, *kind, *size, is_fortran)
            }
            // Of protocol 5: buffer, type, shape, order.
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => match all {
                [bytes, kind, size, order, ..] => {
                    of_numpy(pickled, *bytes, *kind, *size, pickled.is_text(*order, "F"))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The tensor as float32, from its storage; `None` if the storage does not have all elements.
    pub fn load(&self, dtype: DType, storage: &[u8]) -> Result<Option<Tensor>> {
        let Some(bytes) = self.gather(dtype.size_in_bytes(), storage) else { return Ok(None) };
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &self.size, &Device::Cpu)?;
        Ok(Some(tensor.to_dtype(DType::F32)?))
    }

    /// The elements in row-major order.
    fn gather(&self, width: usize, storage: &[u8]) -> Option<Vec<u8>> {
        let count = self.size.iter().try_fold(1usize, |count, size| count.checked_mul(*size))?;
        let most = storage.len() / width;
        if count > most && (!self.stride.contains(&0) || count > MOST_EXPANDED) {
            return None;
        }
        if self.is_contiguous() {
            let start = self.offset.checked_mul(width)?;
            return Some(
                storage.get(start..start.checked_add(count.checked_mul(width)?)?)?.to_vec(),
            );
        }
        let mut bytes = Vec::new();
        for index in 0..count {
            let (mut rest, mut position) = (index, self.offset);
            for (size, stride) in self.size.iter().zip(&self.stride).rev() {
                position = position.checked_add((rest % size).checked_mul(*stride)?)?;
                rest /= size;
            }
            let start = position.checked_mul(width)?;
            bytes.extend_from_slice(storage.get(start..start.checked_add(width)?)?);
        }
        Some(bytes)
    }

    fn is_contiguous(&self) -> bool {
        let expected = strides(self.size.iter().rev()).into_iter().rev();
        let mut dimensions = self.size.iter().zip(&self.stride).zip(expected);
        dimensions.all(|((size, stride), expected)| *size == 1 || *stride == expected)
    }
}

/// The strides of dimensions that are given from the innermost to the outermost.
fn strides<'a>(sizes: impl Iterator<Item = &'a usize>) -> Vec<usize> {
    let mut stride = 1usize;
    sizes
        .map(|size| {
            let this = stride;
            stride = stride.saturating_mul(*size);
            this
        })
        .collect()
}

/// The tensor with the arguments (storage, offset, size, stride, …).
fn of_torch(pickled: &Pickled, args: &[Id]) -> Option<StoredTensor> {
    let [storage, offset, size, stride, ..] = args else { return None };
    let Value::Persistent(storage) = pickled.get(*storage) else { return None };
    let (key, class) = storage_key(pickled, *storage)?;
    let kind = match class {
        "DoubleStorage" => Kind::Float(DType::F64),
        "FloatStorage" => Kind::Float(DType::F32),
        "HalfStorage" => Kind::Float(DType::F16),
        "BFloat16Storage" => Kind::Float(DType::BF16),
        other => Kind::Other(other.to_owned()),
    };
    let (size, stride) = (pickled.sizes(*size)?, pickled.sizes(*stride)?);
    (size.len() == stride.len()).then_some(())?;
    let (numbers, offset) = (Numbers::Storage(key.to_owned()), pickled.size(*offset)?);
    Some(StoredTensor { numbers, kind, size, offset, stride })
}

/// The key and the class of ("storage", class, key, device, length), and in older files of which
/// storage it is a view, if any.
pub(super) fn storage_key(pickled: &Pickled, storage: Id) -> Option<(&str, &str)> {
    match pickled.tuple(storage)? {
        [_, class, key, _, _] => Some((pickled.text(*key)?, pickled.global(*class)?.1)),
        // Views of storages are older still and are not read.
        [_, class, key, _, _, view] if *pickled.get(*view) == Value::Other => {
            Some((pickled.text(*key)?, pickled.global(*class)?.1))
        }
        _ => None,
    }
}

/// NumPy's array.
fn of_numpy(
    pickled: &Pickled,
    bytes: Id,
    kind: Id,
    size: Id,
    is_fortran: bool,
) -> Option<StoredTensor> {
    let Value::Call { args, state, .. } = pickled.get(kind) else { return None };
    let name = pickled.text(*pickled.tuple(*args)?.first()?)?;
    // The state: version, byte order, ….
    let order = pickled.text(*pickled.tuple((*state)?)?.get(1)?)?;
    let kind = match (name, order) {
        ("f8", "<") => Kind::Float(DType::F64),
        ("f4", "<") => Kind::Float(DType::F32),
        ("f2", "<") => Kind::Float(DType::F16),
        (name, ">") => Kind::Other(format!("big-endian {name}")),
        (name, _) => Kind::Other(name.to_owned()),
    };
    let size = pickled.sizes(size)?;
    let mut stride = strides(size.iter());
    if !is_fortran {
        stride = strides(size.iter().rev());
        stride.reverse();
    }
    Some(StoredTensor { numbers: Numbers::Inline(bytes), kind, size, offset: 0, stride })
}
