//! Files of features, so that a stopped evaluation resumes and a repeated one is quick.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::weights::{checksum, write_safetensors};
use crate::{Error, Result};

/// The version of the files' contents.
const FORMAT: &str = "1";

/// Tensors by name: the content of a file.
pub(super) type Tensors = BTreeMap<String, Tensor>;

/// The only tensor in a file of features.
const FEATURES: &str = "vectors";

/// The content of a file of features, joined from those of batches, `[n, C]` each.
pub(super) fn features_file(batches: &[Tensor]) -> Result<Tensors> {
    Ok(BTreeMap::from([(FEATURES.to_owned(), Tensor::cat(batches, 0)?)]))
}

/// The features in several files, `[N, C]`.
pub(super) fn join_features(files: &[Tensors]) -> Result<Tensor> {
    let features: Vec<&Tensor> = files.iter().filter_map(|file| file.get(FEATURES)).collect();
    Ok(Tensor::cat(&features, 0)?)
}

/// Files of tensors in a folder, each complete or absent. They are used only where their key is the
/// cache's, which states all that they depend on: weights, images, boxes, sizes.
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

/// The metadata's entries.
const KEY: &str = "key";
const CHECKSUM: &str = "crc32c";

impl Cache {
    /// A cache in `folder`, which is made where it is missing.
    pub fn new(folder: &Path, key: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.to_owned(), key: format!("{FORMAT} {key}") })
    }

    /// The tensors of a file; `None` if it is missing, damaged, or has another key.
    pub fn find(&self, name: &str) -> Option<Tensors> {
        let bytes = fs::read(self.path(name)).ok()?;
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let metadata = header.metadata().as_ref()?;
        if metadata.get(KEY) != Some(&self.key) {
            return None;
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).ok()?;
        let tensors: Tensors = tensors.into_iter().collect();
        let sum = checksum(&tensors).ok()?.to_string();
        (metadata.get(CHECKSUM) == Some(&sum)).then_some(tensors)
    }

    /// Writes a file, completely or not at all.
    pub fn store(&self, name: &str, tensors: &Tensors) -> Result<()> {
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

    fn tensors(value: f32) -> Tensors {
        BTreeMap::from([("a".to_owned(), Tensor::new(&[[value, 1.0f32]], &Device::Cpu).unwrap())])
    }

    fn first(tensors: &Tensors) -> f32 {
        tensors["a"].to_vec2::<f32>().unwrap()[0][0]
    }

    #[test]
    fn files_are_used_only_with_the_same_key_and_only_if_intact() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "weights 1").unwrap();
        assert!(cache.find("x").is_none());
        cache.store("x", &tensors(3.0)).unwrap();
        assert_eq!(first(&cache.find("x").unwrap()), 3.0);
        let other = Cache::new(folder.path(), "weights 2").unwrap();
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
