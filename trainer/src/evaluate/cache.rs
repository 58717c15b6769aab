//! Files of features, so that a stopped evaluation resumes and a repeated one is quick.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use scrl_cli::Reporter;

use crate::collective::Ranks;
use crate::ops::cpu::f32s;
use crate::weights::{checksum, write_safetensors};
use crate::{Error, Result};

/// The version of the files' contents.
const FORMAT: &str = "2";

/// Tensors by name: the content of a file.
pub(super) type Tensors = BTreeMap<String, Tensor>;

/// The only tensor in a file of features.
const FEATURES: &str = "vectors";

/// Images whose features are computed together, and stored in one file or several.
pub(super) struct Part {
    /// The files' names in the cache.
    pub files: Vec<String>,
    /// The number of images.
    pub images: usize,
}

/// Files of tensors in a folder, each complete or absent. They are used only where their key is the
/// cache's, which states all that they depend on: weights, images, boxes, sizes.
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

/// Stores the features of a part, one tensor `[n, C]` a file.
pub(super) type Store<'a> = dyn FnMut(usize, Vec<Tensor>) -> Result<()> + 'a;

/// The metadata's entries.
const KEY: &str = "key";
const CHECKSUM: &str = "crc32c";

impl Cache {
    /// A cache in `folder`, which is made where it is missing.
    pub fn new(folder: &Path, key: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.to_owned(), key: format!("{FORMAT} {key}") })
    }

    /// The cache of all `ranks`, which must give the same key.
    pub fn of_ranks(folder: &Path, key: &str, ranks: &Ranks) -> Result<Self> {
        let keys = ranks.gather_texts(key);
        match keys.iter().position(|of_rank| *of_rank != keys[0]) {
            Some(rank) => {
                let reason = "have other weights, images, sizes, or kinds of devices";
                Err(Error::Ranks(format!(
                    "ranks 0 and {rank} {reason}: {}, {}",
                    keys[0], keys[rank]
                )))
            }
            None => Self::new(folder, key),
        }
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

    /// The features `[N, C]` in the first, second, … files of all parts. Each rank makes those of its
    /// parts where files are missing: `make` gets the numbers of these parts, counts their images,
    /// and stores the features of each with the function that it is given. `None` on other ranks
    /// than the first, once all are there.
    pub fn divide(
        &self,
        parts: &[Part],
        status: &str,
        (ranks, reporter): (&Ranks, &Reporter),
        make: impl FnOnce(&[usize], &mut Store) -> Result<()>,
    ) -> Result<Option<Vec<Tensor>>> {
        let own = || (ranks.rank()..parts.len()).step_by(ranks.size());
        let images = own().map(|part| parts[part].images as u64).sum();
        reporter.begin("images", images, 0);
        reporter.set_status(status);
        let mut found = vec![None; parts.len()];
        let (mut missing, mut there) = (Vec::new(), 0);
        for part in own() {
            match self.find_features(&parts[part]) {
                Some(features) => {
                    found[part] = ranks.is_first().then_some(features);
                    there += parts[part].images as u64;
                    reporter.step(parts[part].images as u64)?;
                }
                None => missing.push(part),
            }
        }
        if !missing.is_empty() {
            reporter.begin("images", images, there);
            reporter.set_status(status);
            make(&missing, &mut |part, features| {
                for (name, features) in parts[part].files.iter().zip(&features) {
                    self.store(name, &BTreeMap::from([(FEATURES.to_owned(), features.clone())]))?;
                }
                found[part] = ranks.is_first().then_some(features);
                Ok(())
            })?;
        }
        reporter.log();
        ranks.wait_for_all();
        if !ranks.is_first() {
            return Ok(None);
        }
        let found = found.into_iter().zip(parts).map(|(features, part)| {
            features.or_else(|| self.find_features(part)).ok_or_else(|| {
                let (folder, name) = (self.folder.display(), &part.files[0]);
                Error::Ranks(format!("{folder} must be a folder that all ranks see: no {name}"))
            })
        });
        join(found.collect::<Result<_>>()?).map(Some)
    }

    /// The features in each file of a part; `None` if one is not there.
    fn find_features(&self, part: &Part) -> Option<Vec<Tensor>> {
        part.files.iter().map(|name| self.find(name)?.remove(FEATURES)).collect()
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

/// The features of all parts, file by file. Each part is dropped once it is copied: of a million
/// images they take most of the memory.
fn join(parts: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let counts: Vec<usize> = (0..first.len())
        .map(|file| parts.iter().map(|part| part[file].elem_count()).sum())
        .collect();
    let channels: Vec<usize> =
        first.iter().map(|features| Ok(features.dim(1)?)).collect::<Result<_>>()?;
    let mut joined: Vec<Vec<f32>> = counts.into_iter().map(Vec::with_capacity).collect();
    for part in parts {
        for (joined, features) in joined.iter_mut().zip(part) {
            joined.extend_from_slice(&f32s(&features)?);
        }
    }
    let tensors = joined.into_iter().zip(channels).map(|(numbers, channels)| {
        let rows = numbers.len() / channels;
        Ok(Tensor::from_vec(numbers, (rows, channels), &Device::Cpu)?)
    });
    tensors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Threads;

    fn tensors(value: f32) -> Tensors {
        BTreeMap::from([("a".to_owned(), Tensor::new(&[[value, 1.0f32]], &Device::Cpu).unwrap())])
    }

    #[test]
    fn ranks_divide_parts() {
        let folder = tempfile::tempdir().unwrap();
        let parts: Vec<Part> = (0..7)
            .map(|i| Part { files: vec![format!("x-{i}"), format!("y-{i}")], images: 1 })
            .collect();
        // At first no file is there, then all, then all but one.
        for (removed, expected) in [(None, [3, 2, 2]), (None, [0; 3]), (Some("y-4"), [0, 1, 0])] {
            if let Some(name) = removed {
                fs::remove_file(folder.path().join(format!("{name}.safetensors"))).unwrap();
            }
            let results = Threads::run(3, |ranks| {
                let cache = Cache::new(folder.path(), "weights 1").unwrap();
                let mut made = 0;
                let make = |missing: &[usize], store: &mut Store| {
                    made = missing.len();
                    missing.iter().try_for_each(|&part| {
                        let features =
                            |sign: f32| Tensor::new(&[[sign * part as f32]; 2], &Device::Cpu);
                        store(part, vec![features(1.0)?, features(-1.0)?])
                    })
                };
                let found = cache.divide(&parts, "test", (&ranks, &Reporter::silent()), make);
                (made, found.unwrap())
            });
            assert_eq!(results.iter().map(|(made, _)| *made).collect::<Vec<_>>(), expected);
            let all: Vec<f32> = (0..14).map(|i| (i / 2) as f32).collect();
            let [x, y] = results[0].1.as_ref().unwrap().as_slice() else { panic!("two files") };
            assert_eq!(x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), all);
            assert_eq!(
                (y + x).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(),
                0.0
            );
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
