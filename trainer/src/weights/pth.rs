//! Reading files of `torch.save`: tensors in nested dictionaries, among other objects.
//!
//! Since PyTorch 1.6 such a file is a zip archive: a pickle, `archive/data.pkl`, in which a tensor
//! is a call with a storage, an offset, a size and a stride; and the storages' numbers in
//! `archive/data/<key>`. Older files have several pickles, then the storages one after the other.
//!
//! candle's `Stack` reads the pickles. Its `PthTensors` does not do for the rest: it reads a single
//! flat dictionary, where the authors' checkpoints have one for each network; it reads no older
//! files and no tensors that are slices; and it panics where a call has too few arguments.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

use crate::{Error, Result};

/// The first bytes of a zip archive.
pub(super) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// The first bytes of a file of PyTorch before 1.6: a pickle of its magic number.
pub(super) const LEGACY_MAGIC: &[u8] =
    &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// A file whose tensors are loaded one at a time.
pub(super) struct PthFile {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    storages: Storages,
}

/// A tensor's location in a storage; offset and strides count numbers.
#[derive(Clone, Debug)]
struct StoredTensor {
    storage: String,
    dtype: DType,
    offset: usize,
    size: Vec<usize>,
    stride: Vec<usize>,
}

/// The numbers.
enum Storages {
    /// In a folder of an archive. The last storage is kept, because tensors may share one.
    Zip { archive: Box<ZipArchive<BufReader<File>>>, folder: String, last: (String, Vec<u8>) },
    /// In the file itself.
    Legacy { bytes: Vec<u8>, ranges: HashMap<String, Range<usize>> },
}

impl PthFile {
    pub fn open_zip(path: &Path) -> Result<Self> {
        let damaged =
            |error: zip::result::ZipError| Error::checkpoint(path, format!("damaged: {error}"));
        let file = File::open(path).map_err(Error::io(path))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        let names: Vec<String> =
            archive.file_names().flatten().map(|name| name.into_owned()).collect();
        let pickle = names.iter().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
        let pickle = pickle
            .ok_or_else(|| Error::checkpoint(path, "a zip archive, but not of torch.save"))?;
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        let mut program = Vec::new();
        archive
            .by_name(pickle)
            .map_err(damaged)?
            .read_to_end(&mut program)
            .map_err(Error::io(path))?;
        let object = unpickle(path, &mut program.as_slice())?;
        let last = (String::new(), Vec::new());
        let storages = Storages::Zip { archive: Box::new(archive), folder, last };
        Ok(Self { path: path.to_owned(), tensors: tensors_of(path, &object)?, storages })
    }

    pub fn open_legacy(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let mut rest = &bytes[LEGACY_MAGIC.len()..];
        // The version of the protocol, and the sizes of the machine's types.
        unpickle(path, &mut rest)?;
        unpickle(path, &mut rest)?;
        let object = unpickle(path, &mut rest)?;
        let keys = unpickle(path, &mut rest)?;
        let mut types = HashMap::new();
        collect_storage_types(&object, &mut types);
        let ranges = legacy_ranges(&bytes, bytes.len() - rest.len(), &keys, &types);
        let ranges =
            ranges.ok_or_else(|| Error::checkpoint(path, "damaged: its tensors are cut off"))?;
        let storages = Storages::Legacy { ranges, bytes };
        Ok(Self { path: path.to_owned(), tensors: tensors_of(path, &object)?, storages })
    }

    /// The tensors' names, with dots between the keys of nested dictionaries.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// A tensor, as float32.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let wrong = |reason: &str| Error::checkpoint(&self.path, format!("{name}: {reason}"));
        let tensor = self.tensors.get(name).ok_or_else(|| wrong("missing"))?;
        let storage = self.storages.get(&tensor.storage).map_err(|reason| wrong(&reason))?;
        let bytes =
            tensor.gather(storage).ok_or_else(|| wrong("damaged: its numbers are cut off"))?;
        let tensor = Tensor::from_raw_buffer(&bytes, tensor.dtype, &tensor.size, &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

impl Storages {
    fn get(&mut self, key: &str) -> std::result::Result<&[u8], String> {
        match self {
            Self::Zip { archive, folder, last } => {
                if last.0 != key {
                    let mut bytes = Vec::new();
                    let mut entry = archive
                        .by_name(&format!("{folder}data/{key}"))
                        .map_err(|error| error.to_string())?;
                    // The checksum is verified at the entry's end.
                    entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                    *last = (key.to_owned(), bytes);
                }
                Ok(&last.1)
            }
            Self::Legacy { bytes, ranges } => {
                let range = ranges.get(key).cloned().ok_or("its numbers are missing")?;
                Ok(&bytes[range])
            }
        }
    }
}

impl StoredTensor {
    /// The numbers in row-major order; `None` if the storage does not have them.
    fn gather(&self, storage: &[u8]) -> Option<Vec<u8>> {
        let width = self.dtype.size_in_bytes();
        let count = self.size.iter().try_fold(1usize, |count, size| count.checked_mul(*size))?;
        if count > storage.len() / width && !self.stride.contains(&0) {
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
        let mut expected = 1;
        self.size.iter().zip(&self.stride).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected *= size;
            fits
        })
    }
}

fn unpickle(path: &Path, from: &mut &[u8]) -> Result<Object> {
    let mut stack = Stack::empty();
    let read = stack.read_loop(from).and_then(|()| stack.finalize());
    read.map_err(|error| {
        let advice =
            "if PyTorch can load it, save its state dict anew with torch.save(state_dict, FILE)";
        Error::checkpoint(path, format!("its pickle is not understood ({error}); {advice}"))
    })
}

fn tensors_of(path: &Path, object: &Object) -> Result<BTreeMap<String, StoredTensor>> {
    if !matches!(object, Object::Dict(_)) {
        let advice = "in Python: torch.save(model.state_dict(), FILE)";
        return Err(Error::checkpoint(
            path,
            format!("a pickled object, not a dictionary of tensors; {advice}"),
        ));
    }
    let mut found = BTreeMap::new();
    collect_tensors("", object, &mut found);
    Ok(found)
}

/// Collects the tensors by name, and ignores other objects.
fn collect_tensors(name: &str, object: &Object, found: &mut BTreeMap<String, StoredTensor>) {
    if let Object::Dict(entries) = object {
        for (key, value) in entries {
            let Object::Unicode(key) = key else { continue };
            let below = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            collect_tensors(&below, value, found);
        }
    } else if let Some(tensor) = stored_tensor(object) {
        found.insert(name.to_owned(), tensor);
    }
}

/// The tensor that a call returns; `None` if it returns no tensor of floats.
fn stored_tensor(object: &Object) -> Option<StoredTensor> {
    let Object::Reduce { callable, args } = object else { return None };
    let Object::Tuple(args) = &**args else { return None };
    match function(callable)? {
        ("torch._utils", "_rebuild_tensor_v2") => tensor_from(args),
        ("torch._utils", "_rebuild_parameter") => stored_tensor(args.first()?),
        // (function, type, its arguments, state)
        ("torch._tensor", "_rebuild_from_type_v2") => match args.as_slice() {
            [inner, _, Object::Tuple(args), ..] if function(inner)?.1 == "_rebuild_tensor_v2" => {
                tensor_from(args)
            }
            _ => None,
        },
        _ => None,
    }
}

fn function(object: &Object) -> Option<(&str, &str)> {
    match object {
        Object::Class { module_name, class_name } => Some((module_name, class_name)),
        _ => None,
    }
}

/// The tensor with the arguments (storage, offset, size, stride, …).
fn tensor_from(args: &[Object]) -> Option<StoredTensor> {
    let [Object::PersistentLoad(storage), offset, Object::Tuple(size), Object::Tuple(stride), ..] =
        args
    else {
        return None;
    };
    let (key, kind) = storage_key(storage)?;
    let dtype = match kind {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        _ => return None,
    };
    let all = |values: &[Object]| values.iter().map(integer).collect::<Option<Vec<_>>>();
    let (size, stride) = (all(size)?, all(stride)?);
    let fits = size.len() == stride.len();
    fits.then(|| {
        Some(StoredTensor {
            storage: key.to_owned(),
            dtype,
            offset: integer(offset)?,
            size,
            stride,
        })
    })?
}

/// The key and the class of ("storage", class, key, device, length), and in older files of which
/// storage it is a view, if any.
fn storage_key(storage: &Object) -> Option<(&str, &str)> {
    let Object::Tuple(parts) = storage else { return None };
    match parts.as_slice() {
        // Views of storages are older still and are not read.
        [_, class, Object::Unicode(key), _, _]
        | [_, class, Object::Unicode(key), _, _, Object::None] => Some((key, function(class)?.1)),
        _ => None,
    }
}

fn integer(object: &Object) -> Option<usize> {
    match object {
        Object::Int(value) => (*value).try_into().ok(),
        Object::Long(value) => (*value).try_into().ok(),
        _ => None,
    }
}

/// Collects the classes of all storages by key, also of those that optimizers have.
fn collect_storage_types(object: &Object, types: &mut HashMap<String, String>) {
    match object {
        Object::PersistentLoad(storage) => {
            if let Some((key, kind)) = storage_key(storage) {
                types.insert(key.to_owned(), kind.to_owned());
            }
        }
        Object::Tuple(parts) | Object::List(parts) => {
            parts.iter().for_each(|part| collect_storage_types(part, types));
        }
        Object::Dict(entries) => {
            for (key, value) in entries {
                collect_storage_types(key, types);
                collect_storage_types(value, types);
            }
        }
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            collect_storage_types(callable, types);
            collect_storage_types(args, types);
        }
        _ => {}
    }
}

/// The ranges of the storages, which follow the pickles in the order of `keys`. Each storage begins
/// with the count of its numbers.
fn legacy_ranges(
    bytes: &[u8],
    mut start: usize,
    keys: &Object,
    types: &HashMap<String, String>,
) -> Option<HashMap<String, Range<usize>>> {
    let Object::List(keys) = keys else { return None };
    let mut ranges = HashMap::new();
    for key in keys {
        let Object::Unicode(key) = key else { return None };
        let width = match types.get(key)?.as_str() {
            "ComplexDoubleStorage" => 16,
            "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
            "FloatStorage" | "IntStorage" => 4,
            "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
            "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
            _ => return None,
        };
        let numbers = start.checked_add(8)?;
        let count = u64::from_le_bytes(bytes.get(start..numbers)?.try_into().ok()?);
        let end = usize::try_from(count).ok()?.checked_mul(width)?.checked_add(numbers)?;
        bytes.get(numbers..end)?;
        ranges.insert(key.clone(), numbers..end);
        start = end;
    }
    Some(ranges)
}
