//! Files of features, so that a stopped evaluation resumes and a repeated one is quick.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use scrl_cli::Reporter;

use crate::collective::Ranks;
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

/// A file of features of some images.
pub(super) struct FeaturesFile {
    /// Its name in the cache.
    pub name: String,
    /// The number of images.
    pub images: usize,
}

/// The features in several files, `[N, C]`.
pub(super) fn join_features<'a>(files: impl IntoIterator<Item = &'a Tensors>) -> Result<Tensor> {
    let features: Vec<&Tensor> = files.into_iter().filter_map(|file| file.get(FEATURES)).collect();
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

    /// Files of features, of which each rank makes its part where they are missing; `make` counts its
    /// images itself. `None` on other ranks than the first, once all are there.
    pub fn divide(
        &self,
        files: &[FeaturesFile],
        status: &str,
        (ranks, reporter): (&Ranks, &Reporter),
        mut make: impl FnMut(usize) -> Result<Tensors>,
    ) -> Result<Option<Vec<Tensors>>> {
        let own = || (ranks.rank()..files.len()).step_by(ranks.size());
        reporter.begin("images", own().map(|place| files[place].images as u64).sum(), 0);
        reporter.set_status(status);
        let mut found = vec![None; files.len()];
        for place in own() {
            let FeaturesFile { name, images } = &files[place];
            let file = match self.find(name) {
                Some(file) => {
                    reporter.step(*images as u64)?;
                    file
                }
                None => {
                    let file = make(place)?;
                    self.store(name, &file)?;
                    file
                }
            };
            found[place] = ranks.is_first().then_some(file);
        }
        reporter.log();
        ranks.wait_for_all();
        if !ranks.is_first() {
            return Ok(None);
        }
        let found = found.into_iter().zip(files).map(|(file, FeaturesFile { name, .. })| {
            file.or_else(|| self.find(name)).ok_or_else(|| {
                let folder = self.folder.display();
                Error::Ranks(format!("{folder} must be a folder that all ranks see: no {name}"))
            })
        });
        found.collect::<Result<_>>().map(Some)
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
    use crate::collective::Threads;

    fn tensors(value: f32) -> Tensors {
        BTreeMap::from([("a".to_owned(), Tensor::new(&[[value, 1.0f32]], &Device::Cpu).unwrap())])
    }

    #[test]
    fn ranks_divide_files() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<FeaturesFile> =
            (0..7).map(|i| FeaturesFile { name: format!("x-{i}"), images: 1 }).collect();
        // The second time all files are there.
        for expected in [[3, 2, 2], [0; 3]] {
            let results = Threads::run(3, |ranks| {
                let cache = Cache::new(folder.path(), "weights 1").unwrap();
                let mut made = 0;
                let found = cache.divide(&files, "test", (&ranks, &Reporter::silent()), |place| {
                    made += 1;
                    Ok(tensors(place as f32))
                });
                let found = found.unwrap().map(|files| files.iter().map(first).collect::<Vec<_>>());
                (made, found)
            });
            let all: Vec<f32> = (0..7).map(|i| i as f32).collect();
            assert_eq!(results.iter().map(|(made, _)| *made).collect::<Vec<_>>(), expected);
            assert_eq!(results[0].1, Some(all));
            assert!(results[1..].iter().all(|(_, found)| found.is_none()));
        }
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
