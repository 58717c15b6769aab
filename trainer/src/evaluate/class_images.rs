//! Images in class folders, or from another source with classes that `scrl-prep` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scrl_cli::Reporter;
use scrl_preprocess::images::{Decoding, PixelOptions, RgbImage, decode};
use scrl_preprocess::sources::{Examine, Sources};
use scrl_schemas::SourceOptions;

use super::inputs::{decoding, with_window};
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
    /// How they are decoded.
    pub decoding: Decoding,
    /// The classes' names, in ascending order.
    pub classes: Vec<String>,
    /// The readable images, in the order of the source.
    pub images: Vec<ClassImage>,
}

impl ClassImages {
    /// Finds the images and decodes each once. For validation, `training` are those of training,
    /// with their classes and levels.
    ///
    /// # Errors
    /// If there are no images, fewer than two classes, or a class that `training` lacks.
    pub fn find(
        path: &Path,
        training: Option<&Self>,
        (pixels, seed): (PixelOptions, u64),
        reporter: &Reporter,
    ) -> Result<Self> {
        reporter.say(format_args!("{}: decoding every image once", path.display()));
        let how = training.map_or_else(|| decoding(pixels), |training| training.decoding);
        let sources = Sources::find(path, &SourceOptions::default(), how, Examine::Pixels)?;
        let decoding = match training {
            Some(training) => training.decoding,
            None => with_window(&sources, pixels, seed, reporter)?,
        };
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
        match training {
            Some(training) => indices.extend(training.classes.iter().cloned().zip(0..)),
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
        let classes = indices.into_keys().collect();
        Ok(Self { path: path.to_owned(), sources, decoding, classes, images })
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
        decode(&bytes, self.decoding)
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
