//! Reading pickled tensors in nested dictionaries, among other objects: files of `torch.save`, and
//! pickles of NumPy's arrays.
//!
//! Since PyTorch 1.6 its file is a zip archive: a pickle, `archive/data.pkl`, in which a tensor is a
//! call with a storage, an offset, a size and a stride; and the storages' numbers in
//! `archive/data/<key>`. Older files have several pickles, then the storages one after the other.
//! Detectron2's `.pkl` is a single pickle with the numbers in it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::Tensor;
use zip::ZipArchive;

use super::file::Entry;
use super::stored::{Kind, Numbers, StoredTensor, storage_key};
use super::unpickle::{Id, Pickled, Value};
use crate::{Error, Result};

/// The first bytes of a zip archive.
pub(super) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// The first bytes of a file of PyTorch before 1.6: a pickle of its magic number.
pub(super) const LEGACY_MAGIC: &[u8] =
    &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// The first byte of a pickle of protocol 2 or later, before the protocol.
pub(super) const PICKLE_MAGIC: u8 = 0x80;

/// The most dictionaries inside each other, and the most values of all, that are searched for
/// tensors: a file may refer to one dictionary from a thousand places of another.
const DEEPEST: usize = 32;
const MOST_VALUES: usize = 1 << 20;

/// The longest key that may be a part of a tensor's name.
const LONGEST_KEY: usize = 512;

/// The most bytes of a storage or pickle in an archive for each of its bytes in the file:
/// `torch.save` does not compress, and other programs do not reach this with weights.
const MOST_COMPRESSED: u64 = 64;

/// A file whose tensors are loaded one at a time.
pub(super) struct PthFile {
    path: PathBuf,
    pickled: Pickled,
    tensors: BTreeMap<String, StoredTensor>,
    storages: Storages,
}

/// The numbers.
enum Storages {
    /// In the pickle.
    Inline,
    /// In a folder of an archive. The last storage is kept, because tensors may share one.
    Zip { archive: Box<ZipArchive<BufReader<File>>>, folder: String, last: (String, Vec<u8>) },
    /// In the file itself.
    Legacy { bytes: Rc<Vec<u8>>, ranges: HashMap<String, Range<usize>> },
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
        let program = read_entry(&mut archive, pickle)
            .map_err(|reason| Error::checkpoint(path, format!("damaged: {reason}")))?;
        let (pickled, _) = unpickle(path, &Rc::new(program), 0)?;
        let last = (String::new(), Vec::new());
        Self::new(path, pickled, Storages::Zip { archive: Box::new(archive), folder, last })
    }

    pub fn open_legacy(path: &Path) -> Result<Self> {
        let bytes = Rc::new(fs::read(path).map_err(Error::io(path))?);
        // The version of the protocol, and the sizes of the machine's types.
        let (_, end) = unpickle(path, &bytes, LEGACY_MAGIC.len())?;
        let (_, end) = unpickle(path, &bytes, end)?;
        let (pickled, end) = unpickle(path, &bytes, end)?;
        let (keys, end) = unpickle(path, &bytes, end)?;
        let ranges = legacy_ranges(&bytes, end, &keys, &storage_classes(&pickled));
        let ranges =
            ranges.ok_or_else(|| Error::checkpoint(path, "damaged: its tensors are cut off"))?;
        Self::new(path, pickled, Storages::Legacy { ranges, bytes })
    }

    pub fn open_pickle(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let (pickled, _) = unpickle(path, &Rc::new(bytes), 0)?;
        let of_torch = |value: &Value| {
            matches!(value, Value::Global(module, name)
                if module == "torch.storage" && name == "_load_from_bytes")
        };
        if pickled.values().any(of_torch) {
            let reason = "PyTorch's tensors written by pickle.dump; in Python: torch.save(…, FILE)";
            return Err(Error::checkpoint(path, reason));
        }
        Self::new(path, pickled, Storages::Inline)
    }

    fn new(path: &Path, pickled: Pickled, storages: Storages) -> Result<Self> {
        if pickled.items(pickled.root()).is_none() && !is_dict(&pickled, pickled.root()) {
            let advice = "in Python: torch.save(model.state_dict(), FILE)";
            let reason = format!("a pickled object, not a dictionary of tensors; {advice}");
            return Err(Error::checkpoint(path, reason));
        }
        let mut tensors = BTreeMap::new();
        let mut budget = MOST_VALUES;
        collect_tensors(&pickled, "", pickled.root(), DEEPEST, &mut budget, &mut tensors);
        Ok(Self { path: path.to_owned(), pickled, tensors, storages })
    }

    /// The tensors' names, with dots between the keys of nested dictionaries, and shapes.
    pub fn entries(&self) -> Vec<Entry> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, t)| Entry { name: name.clone(), shape: t.size.clone() }).collect()
    }

    /// A tensor, as float32.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let wrong = |reason: &str| Error::checkpoint(&self.path, format!("{name}: {reason}"));
        let tensor = self.tensors.get(name).ok_or_else(|| wrong("missing"))?;
        let dtype = match &tensor.kind {
            Kind::Float(dtype) => *dtype,
            Kind::Other(kind) => return Err(wrong(&format!("is of type {kind}, not a float"))),
        };
        let inline;
        let storage = match &tensor.numbers {
            Numbers::Storage(key) => self.storages.get(key).map_err(|reason| wrong(&reason))?,
            Numbers::Inline(id) => {
                inline = self.pickled.bytes(*id).ok_or_else(|| wrong("its numbers are missing"))?;
                &inline
            }
        };
        let loaded = tensor.load(dtype, storage)?;
        loaded.ok_or_else(|| wrong("damaged: its numbers are cut off"))
    }

    /// The value of a string key of the outermost dictionary, if it is a string.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.pickled.text(self.pickled.item(self.pickled.root(), key)?)
    }

    /// Whether a configuration in the file has a `style` of "caffe", as mmcv's may: as a dictionary,
    /// or as the text of a Python file.
    pub fn has_caffe_style(&self) -> bool {
        let is_style = |(key, value): &(Id, Id)| {
            self.pickled.is_text(*key, "style") && self.pickled.is_text(*value, "caffe")
        };
        self.pickled.values().any(|value| match value {
            Value::Dict(items) | Value::Call { items, .. } => items.iter().any(is_style),
            Value::Text(_) => self.pickled.text_of(value).is_some_and(has_caffe_style),
            _ => false,
        })
    }
}

/// Whether the text of a configuration sets the style of a ResNet to "caffe".
fn has_caffe_style(text: &str) -> bool {
    text.match_indices("style").any(|(at, word)| {
        let rest = text[at + word.len()..].trim_start_matches(['\'', '"', ' ', '=', ':']);
        rest.starts_with("caffe'") || rest.starts_with("caffe\"")
    })
}

impl Storages {
    fn get(&mut self, key: &str) -> std::result::Result<&[u8], String> {
        match self {
            Self::Inline => Err("its numbers are missing".to_owned()),
            Self::Zip { archive, folder, last } => {
                if last.0 != key {
                    let bytes = read_entry(archive, &format!("{folder}data/{key}"))?;
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

/// The bytes of an entry, whose checksum is verified at its end.
fn read_entry(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
) -> std::result::Result<Vec<u8>, String> {
    let entry = archive.by_name(name).map_err(|error| error.to_string())?;
    let most = entry.compressed_size().saturating_mul(MOST_COMPRESSED);
    let mut bytes = Vec::new();
    entry
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > most {
        return Err(format!("{name} is compressed too strongly"));
    }
    Ok(bytes)
}

fn unpickle(path: &Path, bytes: &Rc<Vec<u8>>, start: usize) -> Result<(Pickled, usize)> {
    Pickled::read(bytes.clone(), start).map_err(|error| {
        let advice =
            "if PyTorch can load it, save its state dict anew with torch.save(state_dict, FILE)";
        Error::checkpoint(path, format!("its pickle is not understood ({error}); {advice}"))
    })
}

/// Whether a value is a dictionary, perhaps an empty one.
fn is_dict(pickled: &Pickled, id: Id) -> bool {
    match pickled.get(id) {
        Value::Dict(_) => true,
        Value::Call { callable, .. } => {
            pickled.global(*callable) == Some(("collections", "OrderedDict"))
        }
        _ => false,
    }
}

/// Collects the tensors by name, and ignores other objects.
fn collect_tensors(
    pickled: &Pickled,
    name: &str,
    id: Id,
    depth: usize,
    budget: &mut usize,
    found: &mut BTreeMap<String, StoredTensor>,
) {
    if let Some(items) = pickled.items(id).filter(|_| depth > 0) {
        for (key, value) in items {
            let Some(left) = budget.checked_sub(1) else { return };
            *budget = left;
            let Some(key) = pickled.text(*key).filter(|key| key.len() <= LONGEST_KEY) else {
                continue;
            };
            let below = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
            collect_tensors(pickled, &below, *value, depth - 1, budget, found);
        }
    } else if let Some(tensor) = StoredTensor::of(pickled, id) {
        found.insert(name.to_owned(), tensor);
    }
}

/// The classes of all storages by key, also of those that optimizers have.
fn storage_classes(pickled: &Pickled) -> HashMap<&str, &str> {
    let storage = |value: &Value| match value {
        Value::Persistent(storage) => Some(*storage),
        _ => None,
    };
    pickled.values().filter_map(storage).filter_map(|id| storage_key(pickled, id)).collect()
}

/// The ranges of the storages, which follow the pickles in the order of `keys`. Each storage begins
/// with the count of its numbers.
fn legacy_ranges(
    bytes: &[u8],
    mut start: usize,
    keys: &Pickled,
    classes: &HashMap<&str, &str>,
) -> Option<HashMap<String, Range<usize>>> {
    let Value::List(ids) = keys.get(keys.root()) else { return None };
    let mut ranges = HashMap::new();
    for id in ids {
        let key = keys.text(*id)?;
        let width = match *classes.get(key)? {
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
        ranges.insert(key.to_owned(), numbers..end);
        start = end;
    }
    Some(ranges)
}
