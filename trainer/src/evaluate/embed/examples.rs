//! What is embedded: the images of a source, or the boxes in the images of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::images::{ImageSize, RgbImage};
use scrl_schemas::SourceOptions;

use super::EmbeddedRow;
use super::options::EmbedConfig;
use crate::collective::Ranks;
use crate::error::refuse;
use crate::evaluate::annotations::AnnotatedImages;
use crate::evaluate::box_features::{TRAINING, box_key, read_boxes, resized_images};
use crate::evaluate::features::Extractor;
use crate::evaluate::frozen_backbone::FrozenBackbone;
use crate::evaluate::image_features::{center_cropped, image_key};
use crate::evaluate::inputs::ResizedImages;
use crate::evaluate::options::BackboneConfig;
use crate::evaluate::source_images::SourceImages;
use crate::ops::cpu::f32s;
use crate::{Error, Result};

/// The name of the images' features in the cache, and a status.
const IMAGES: (&str, &str) = ("images", "features of the images");

/// What is embedded.
pub(super) struct Examples {
    /// The folder or file of the images.
    path: PathBuf,
    kind: Kind,
    size: u32,
}

enum Kind {
    Images(Box<SourceImages>),
    Boxes(Box<AnnotatedImages>, ResizedImages),
}

impl Examples {
    /// Finds the images and decodes each once.
    ///
    /// # Errors
    /// If there are none.
    pub fn find(config: &EmbedConfig, reporter: &Reporter) -> Result<Self> {
        let backbone = &config.backbone;
        let kind = match &config.boxes {
            Some(_) if !config.images.is_dir() => {
                let reason = "needs the folder of the images; unpack archives and tables first";
                return refuse("boxes", reason);
            }
            Some(boxes) => {
                let resized = resized_images(&config.images, backbone, reporter)?;
                let annotated = read_boxes(boxes, &config.images, None, &resized, reporter)?;
                Kind::Boxes(Box::new(annotated), resized)
            }
            None => {
                let pixels = (backbone.pixels, backbone.seed);
                let options = SourceOptions::default();
                let found = SourceImages::find(&config.images, &options, None, pixels, reporter)?;
                if found.ids.is_empty() {
                    return Err(Error::dataset(&config.images, "no image here can be read"));
                }
                Kind::Images(Box::new(found))
            }
        };
        Ok(Self { path: config.images.clone(), kind, size: backbone.size })
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        match &self.kind {
            Kind::Images(images) => images.ids.len(),
            Kind::Boxes(annotated, _) => annotated.images.len(),
        }
    }

    /// The rows of the table.
    pub fn rows(&self) -> Vec<EmbeddedRow> {
        match &self.kind {
            Kind::Images(images) => (0..)
                .zip(&images.ids)
                .map(|(image, &id)| {
                    let source = images.source(id);
                    let class = source.class.map(|(_, name)| name.to_string());
                    EmbeddedRow { path: source.path, corners: None, class, image }
                })
                .collect(),
            Kind::Boxes(annotated, _) => (0..)
                .zip(&annotated.images)
                .flat_map(|(image, of_image)| {
                    let path = of_image.path.strip_prefix(&self.path).unwrap_or(&of_image.path);
                    of_image.boxes.iter().map(move |labeled| EmbeddedRow {
                        path: path.to_string_lossy().into_owned(),
                        corners: Some(labeled.corners.map(|x| x as f32)),
                        class: Some(annotated.classes[labeled.class].clone()),
                        image,
                    })
                })
                .collect(),
        }
    }

    /// The embeddings `[rows, C]` by a backbone, computed or taken from the files in `cache`.
    pub fn embed(
        &self,
        backbone: &FrozenBackbone,
        config: &BackboneConfig,
        cache: &Path,
        reporter: &Reporter,
    ) -> Result<Vec<f32>> {
        let ranks = Ranks::default();
        let key = match &self.kind {
            Kind::Images(images) => {
                let sum = images.checksum(images.ids.iter().copied());
                image_key(config, backbone, false, (images, &[sum]))?
            }
            Kind::Boxes(annotated, resized) => box_key(config, backbone, &[annotated], resized)?,
        };
        let extractor = Extractor::new(config, backbone, (cache, &key), &ranks)?;
        let features: Option<Tensor> = match &self.kind {
            Kind::Images(images) => {
                extractor.image_statistics(images, &images.ids, reporter)?;
                extractor.image_features(IMAGES, images, &images.ids, reporter)?
            }
            Kind::Boxes(annotated, resized) => {
                let images = &annotated.images;
                extractor.box_statistics(images, resized, reporter)?;
                let sides = extractor.box_features(TRAINING, images, resized, false, reporter)?;
                sides.and_then(|mut sides| sides.pop())
            }
        };
        let features = features.expect("the only rank has all features");
        Ok(f32s(&features)?.to_vec())
    }

    /// An image as the backbone gets it.
    pub fn input(&self, image: u32) -> Result<RgbImage> {
        match &self.kind {
            Kind::Images(images) => center_cropped(images, images.ids[image as usize], self.size),
            Kind::Boxes(annotated, resized) => resized.get(&annotated.images[image as usize].path),
        }
    }

    /// The image or box of a row, to look at.
    pub fn thumbnail(&self, row: &EmbeddedRow) -> Result<RgbImage> {
        let image = row.image as usize;
        match &self.kind {
            Kind::Images(images) => images.decode(images.ids[image]),
            Kind::Boxes(annotated, resized) => {
                let path = &annotated.images[image].path;
                let bytes = fs::read(path).map_err(Error::io(path))?;
                let decoded = resized
                    .decode(&bytes)
                    .map_err(|reason| Error::dataset(path, reason.to_string()))?;
                Ok(match row.corners {
                    Some(corners) => cut_out(&decoded, corners),
                    None => decoded,
                })
            }
        }
    }

    /// The file or object of a row's image; `None` for one within an archive or a table.
    pub fn file(&self, row: &EmbeddedRow) -> Option<PathBuf> {
        match &self.kind {
            Kind::Images(images) => images.file(images.ids[row.image as usize]),
            Kind::Boxes(annotated, _) => Some(annotated.images[row.image as usize].path.clone()),
        }
    }
}

/// The pixels that a box touches.
fn cut_out(image: &RgbImage, [x0, y0, x1, y1]: [f32; 4]) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let (left, top) = (x0.floor() as i32, y0.floor() as i32);
    let (right, bottom) = ((x1.ceil() as i32).min(width), (y1.ceil() as i32).min(height));
    let row = |y: i32| {
        let begin = (y * width + left) as usize * 3;
        &image.pixels[begin..begin + (right - left) as usize * 3]
    };
    let pixels = (top..bottom).flat_map(row).copied().collect();
    RgbImage { size: ImageSize { width: right - left, height: bottom - top }, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_cut_out_with_the_pixels_that_it_touches() {
        let size = ImageSize { width: 4, height: 3 };
        let image = RgbImage { size, pixels: (0..36).collect() };
        let cut = cut_out(&image, [1.5, 0.0, 3.0, 1.2]);
        assert_eq!(cut.size, ImageSize { width: 2, height: 2 });
        assert_eq!(cut.pixels, [3, 4, 5, 6, 7, 8, 15, 16, 17, 18, 19, 20]);
    }
}
