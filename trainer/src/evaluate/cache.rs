//! Features that were computed already: files that are used again if they belong to the very same evaluation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::weights::{checksum, write_safetensors};
use crate::{Error, Result};

/// The version of what the files hold.
const FORMAT: &str = "1";

/// What one file holds: tensors by their names.
pub(super) type Part = BTreeMap<String, Tensor>;

/// The only tensor of a part of features.
const VECTORS: &str = "vectors";

/// A part of features, from those of batches, `[n, C]` each.
pub(super) fn part_of(batches: Vec<Tensor>) -> Result<Part> {
    Ok(BTreeMap::from([(VECTORS.to_owned(), Tensor::cat(&batches, 0)?)]))
}

/// The features of all parts, `[N, C]`.
pub(super) fn join(parts: Vec<Part>) -> Result<Tensor> {
    let vectors: Vec<&Tensor> = parts.iter().filter_map(|part| part.get(VECTORS)).collect();
    Ok(Tensor::cat(&vectors, 0)?)
}

/// Files of tensors below a folder, each whole or not there at all. `key` says what they depend on: weights, pictures,
/// boxes, sizes. A file with another key is written anew.
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

/// The metadata's entries.
const KEY: &str = "key";
const CHECKSUM: &str = "crc32c";

impl Cache {
    /// Below `folder`, which is made where it is missing.
    pub fn new(folder: &Path, key: String) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.to_owned(), key: format!("{FORMAT} {key}") })
    }

    /// The tensors of a file; `None` if it is missing, damaged, or belongs to something else.
    pub fn find(&self, name: &str) -> Option<Part> {
        let bytes = fs::read(self.path(name)).ok()?;
        let (header_size, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let metadata = header.metadata().as_ref()?;
        if metadata.get(KEY) != Some(&self.key) {
            return None;
        }
        let mut tensors = BTreeMap::new();
        for name in header.offset_keys() {
            let info = header.info(&name)?;
            let (begin, end) = info.data_offsets;
            // The header's length is a number of eight bytes.
            let bytes = bytes.get(8 + header_size + begin..8 + header_size + end)?;
            let dtype = candle_core::DType::F32;
            let tensor = Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu).ok()?;
            tensors.insert(name, tensor);
        }
        let sum = checksum(&tensors).ok()?.to_string();
        (metadata.get(CHECKSUM) == Some(&sum)).then_some(tensors)
    }

    /// Writes a file, whole or not at all.
    pub fn store(&self, name: &str, tensors: &Part) -> Result<()> {
        let metadata =
            BTreeMap::from([(KEY, self.key.clone()), (CHECKSUM, checksum(tensors)?.to_string())]);
        write_safetensors(&self.path(name), tensors, &metadata)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(value: f32) -> Part {
        BTreeMap::from([("a".to_owned(), Tensor::new(&[[value, 1.0f32]], &Device::Cpu).unwrap())])
    }

    fn first(tensors: &Part) -> f32 {
        tensors["a"].to_vec2::<f32>().unwrap()[0][0]
    }

    #[test]
    fn what_was_computed_is_used_by_the_same_key_alone_and_only_if_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "weights 1".into()).unwrap();
        assert!(cache.find("x").is_none());
        cache.store("x", &tensors(3.0)).unwrap();
        assert_eq!(first(&cache.find("x").unwrap()), 3.0);
        let other = Cache::new(folder.path(), "weights 2".into()).unwrap();
        assert!(other.find("x").is_none());
        other.store("x", &tensors(5.0)).unwrap();
        assert!(cache.find("x").is_none() && first(&other.find("x").unwrap()) == 5.0);

        let path = other.path("x");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(other.find("x").is_none());
        fs::write(&path, &bytes[..20]).unwrap();
        assert!(other.find("x").is_none());
    }
}
