//! Photos in class folders, or from whatever else `scrl-prep` reads classes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scrl_preprocess::images::RgbImage;
use scrl_preprocess::sources::{Examine, Sources};
use scrl_schemas::Exif;

use super::Watch;
use super::pictures::decode_upright;
use crate::{Error, Result};

/// Of photos without others to validate with, every so many of a class are held back.
const HELD_BACK: usize = 5;

/// Photos with classes.
pub struct Photos {
    path: PathBuf,
    sources: Sources,
    /// The classes' names, ascending.
    pub names: Vec<String>,
    /// The photos that are used: their place in the source, and their class.
    pub photos: Vec<(u32, usize)>,
}

impl Photos {
    /// Finds the photos, looking at each whole. Where `like` is given, its classes are expected.
    ///
    /// # Errors
    /// If there are none, if they have no classes or just one, or other ones than `like`.
    pub fn find(path: &Path, like: Option<&[String]>, watch: &mut Watch) -> Result<Self> {
        let sources = Sources::find(path, Exif::Ignore, Examine::Pixels)?;
        let mut found = Vec::new();
        for image_id in 0..sources.len() {
            let source = sources.source(image_id);
            if let Some(reason) = source.error {
                watch.note(format!("left out: {}: {reason}", path.join(&source.path).display()));
            } else if let Some((_, name)) = source.class {
                found.push((image_id, name));
            }
        }
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        match like {
            Some(names) => numbers.extend(names.iter().cloned().zip(0..)),
            None => {
                numbers.extend(found.iter().map(|(_, name)| (name.to_string(), 0)));
                numbers.values_mut().zip(0..).for_each(|(number, place)| *number = place);
            }
        }
        if numbers.len() < 2 || found.is_empty() {
            let reason =
                format!("has {} classes; give photos in a folder for each class", numbers.len());
            return Err(Error::dataset(path, reason));
        }
        let photos = found.into_iter().map(|(image_id, name)| match numbers.get(&*name) {
            Some(class) => Ok((image_id, *class)),
            None => {
                Err(Error::dataset(path, format!("the training photos have no class {name:?}")))
            }
        });
        let photos = photos.collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), sources, names: numbers.into_keys().collect(), photos })
    }

    /// Every fifth photo of each class, for validation, and the others, to train on.
    pub fn hold_back(&self) -> [Vec<(u32, usize)>; 2] {
        let mut seen = vec![0usize; self.names.len()];
        let (held, others) = self.photos.iter().partition(|(_, class)| {
            seen[*class] += 1;
            seen[*class].is_multiple_of(HELD_BACK)
        });
        [others, held]
    }

    /// Decodes a photo.
    ///
    /// # Errors
    /// If it cannot be read any more.
    pub(super) fn decode(&self, image_id: u32) -> Result<RgbImage> {
        let (source, bytes) = self.sources.read(image_id)?;
        decode_upright(&bytes)
            .map_err(|reason| Error::dataset(&self.path.join(&source.path), reason.to_string()))
    }

    /// A checksum of which photos these are.
    pub(super) fn checksum(&self) -> Result<u32> {
        self.photos.iter().try_fold(0, |sum, (image_id, _)| {
            let source = self.sources.source(*image_id);
            Ok(crc32c::crc32c_append(
                sum,
                format!("{} {} {:?};", source.path, source.bytes, source.class).as_bytes(),
            ))
        })
    }
}
