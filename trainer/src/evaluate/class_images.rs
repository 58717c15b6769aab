//! Images in class folders, or from another source with classes that `scrl-prep` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;
use scrl_preprocess::sources::{Examine, Sources};
use scrl_schemas::{Exif, SourceOptions};

use super::inputs::decode_as_stored;
use crate::{Error, Result};

/// Without validation images, one image in this many of each class becomes the validation split.
const VALIDATION_INTERVAL: usize = 5;

/// An image and its class.
#[derive(Clone, Copy, Debug)]
pub struct ClassImage {
    /// The image's index in its source.
    pub image_id: u32,
    /// The index of its class in [`ClassImages::classes`].
    pub class: usize,
}

/// Images with classes.
pub struct ClassImages {
    path: PathBuf,
    sources: Sources,
    /// The classes' names, in ascending order.
    pub classes: Vec<String>,
    /// The readable images, in the order of the source.
    pub images: Vec<ClassImage>,
}

impl ClassImages {
    /// Finds the images and decodes each once. For validation, `classes` are those of training.
    ///
    /// # Errors
    /// If there are no images, fewer than two classes, or a class that `classes` lacks.
    pub fn find(path: &Path, classes: Option<&[String]>, reporter: &Reporter) -> Result<Self> {
        reporter.say(format_args!("{}: decoding every image once", path.display()));
        let sources =
            Sources::find(path, &SourceOptions::default(), Exif::Ignore, Examine::Pixels)?;
        let mut found = Vec::new();
        sources.notices().iter().for_each(|notice| reporter.say(format_args!("{notice}")));
        for image_id in 0..sources.len() {
            reporter.check_stop()?;
            let source = sources.source(image_id);
            if let Some(reason) = source.error {
                let image = path.join(&source.path);
                reporter.say(format_args!("left out: {}: {reason}", image.display()));
            } else if let Some((_, class)) = source.class {
                found.push((image_id, class));
            }
        }
        let mut indices: BTreeMap<String, usize> = BTreeMap::new();
        match classes {
            Some(classes) => indices.extend(classes.iter().cloned().zip(0..)),
            None => {
                indices.extend(found.iter().map(|(_, class)| (class.to_string(), 0)));
                indices.values_mut().zip(0..).for_each(|(index, position)| *index = position);
            }
        }
        if indices.len() < 2 || found.is_empty() {
            let reason = "give a folder with a folder of images for each class";
            let reason = format!("has {} classes; {reason}", indices.len());
            return Err(Error::dataset(path, reason));
        }
        let images = found.into_iter().map(|(image_id, name)| match indices.get(&*name) {
            Some(&class) => Ok(ClassImage { image_id, class }),
            None => {
                Err(Error::dataset(path, format!("the training images have no class {name:?}")))
            }
        });
        let images = images.collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), sources, classes: indices.into_keys().collect(), images })
    }

    /// The training and the validation split: every fifth image of each class is for validation.
    pub fn split(&self) -> [Vec<ClassImage>; 2] {
        let mut seen = vec![0usize; self.classes.len()];
        let (validation, training) = self.images.iter().partition(|image| {
            seen[image.class] += 1;
            seen[image.class].is_multiple_of(VALIDATION_INTERVAL)
        });
        [training, validation]
    }

    /// Decodes an image.
    ///
    /// # Errors
    /// If it has become unreadable.
    pub(super) fn decode(&self, image_id: u32) -> Result<RgbImage> {
        let (source, bytes) = self.sources.read(image_id)?;
        decode_as_stored(&bytes)
            .map_err(|reason| Error::dataset(&self.path.join(&source.path), reason.to_string()))
    }

    /// The CRC-32C of the images' paths, sizes and classes.
    pub(super) fn checksum(&self) -> u32 {
        self.images.iter().fold(0, |sum, image| {
            let source = self.sources.source(image.image_id);
            let line = format!("{} {} {:?};", source.path, source.bytes, source.class);
            crc32c::crc32c_append(sum, line.as_bytes())
        })
    }
}
