//! Images in class folders, or from another source with classes that `scrl-prep` reads.

use std::collections::BTreeMap;
use std::path::Path;

use scrl_cli::Reporter;
use scrl_preprocess::images::PixelOptions;
use scrl_schemas::SourceOptions;

use super::frozen_backbone::FrozenBackbone;
use super::image_features::image_key;
use super::options::{BackboneConfig, ImageFiles};
use super::source_images::SourceImages;
use crate::{Error, Result};

/// Without validation images, one image in this many of each class becomes the validation split.
const VALIDATION_INTERVAL: usize = 5;

/// An image and its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassImage {
    /// The image's index in its source.
    pub image_id: u32,
    /// The index of its class in [`ClassImages::classes`].
    pub class: usize,
}

/// Images with classes.
pub(super) struct ClassImages {
    /// All images of the source.
    pub source: SourceImages,
    /// The classes' names, in ascending order.
    pub classes: Vec<String>,
    /// The readable images with a class, in the order of the source.
    pub images: Vec<ClassImage>,
}

/// Training and validation images.
pub(super) struct ClassSplits {
    images: ClassImages,
    val_images: Option<ClassImages>,
    /// The training images.
    pub train: Vec<ClassImage>,
    /// The validation images.
    pub val: Vec<ClassImage>,
}

/// The images' indices in their source.
pub(super) fn ids(images: &[ClassImage]) -> Vec<u32> {
    images.iter().map(|image| image.image_id).collect()
}

impl ClassImages {
    /// Finds the images and decodes each once. For validation, `training` are those of training,
    /// with their classes and levels.
    ///
    /// # Errors
    /// If there are no images, fewer than two classes, or a class that `training` lacks.
    fn find(
        path: &Path,
        training: Option<&Self>,
        pixels: (PixelOptions, u64),
        reporter: &Reporter,
    ) -> Result<Self> {
        let levels = training.map(|training| training.source.decoding);
        let options = SourceOptions::default();
        let source = SourceImages::find(path, &options, levels, pixels, reporter)?;
        let of_class = |&id: &u32| source.source(id).class.map(|(_, class)| (id, class));
        let found: Vec<_> = source.ids.iter().filter_map(of_class).collect();
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
        Ok(Self { source, classes, images })
    }

    /// The training and the validation split: every fifth image of each class is for validation.
    fn split(&self) -> [Vec<ClassImage>; 2] {
        let mut seen = vec![0usize; self.classes.len()];
        let (validation, training) = self.images.iter().partition(|image| {
            seen[image.class] += 1;
            seen[image.class].is_multiple_of(VALIDATION_INTERVAL)
        });
        [training, validation]
    }

    fn checksum(&self) -> u32 {
        self.source.checksum(self.images.iter().map(|image| image.image_id))
    }
}

impl ClassSplits {
    /// Finds the images and decodes each once.
    ///
    /// # Errors
    /// If there are too few images or classes, or classes that only the validation images have.
    pub fn find(files: &ImageFiles, config: &BackboneConfig, reporter: &Reporter) -> Result<Self> {
        let pixels = (config.pixels, config.seed);
        let images = ClassImages::find(&files.images, None, pixels, reporter)?;
        let val_images = files.val.as_ref();
        let val_images =
            val_images.map(|path| ClassImages::find(path, Some(&images), pixels, reporter));
        let val_images = val_images.transpose()?;
        let [train, val] = match &val_images {
            Some(val_images) => [images.images.clone(), val_images.images.clone()],
            None => {
                let [train, val] = images.split();
                reporter.say(format_args!(
                    "no --val: {} of {} images are the validation split",
                    val.len(),
                    images.images.len()
                ));
                [train, val]
            }
        };
        if train.is_empty() || val.is_empty() {
            let reason = "too few images for a validation split; give others with --val";
            return Err(Error::dataset(&files.images, reason));
        }
        Ok(Self { images, val_images, train, val })
    }

    /// The classes' names, in ascending order.
    pub fn classes(&self) -> &[String] {
        &self.images.classes
    }

    /// The source of the training images.
    pub fn train_source(&self) -> &SourceImages {
        &self.images.source
    }

    /// The source of the validation images.
    pub fn val_source(&self) -> &SourceImages {
        &self.val_images.as_ref().unwrap_or(&self.images).source
    }

    /// All that features depend on.
    pub fn key(&self, config: &BackboneConfig, backbone: &FrozenBackbone) -> Result<String> {
        let train = self.images.checksum();
        let val = self.val_images.as_ref().map_or(train, ClassImages::checksum);
        let images = (&self.images.source, &[train, val][..]);
        image_key(config, backbone, self.val_images.is_none(), images)
    }
}
