//! Features of whole images: center crops, and the mean of the last feature map.

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;

use super::features::Extractor;
use super::frozen_backbone::{BackboneSource, FrozenBackbone};
use super::inputs::{Inputs, center_crop, inputs, key_of};
use super::options::BackboneConfig;
use super::source_images::SourceImages;
use crate::Result;

/// The shorter side of an image from which a center crop of 224 pixels is taken.
const SHORTER_FOR_224: u32 = 256;

/// Images whose features are stored in one file.
const IMAGES_PER_FILE: usize = 1024;

/// The name of features in the cache, and a status.
pub(super) type ImageSet<'a> = (&'a str, &'a str);

/// Features of center crops of the training images.
pub(super) const TRAINING: ImageSet = ("train-center", "features of the training images");

/// Features of the validation images.
pub(super) const VALIDATION: ImageSet = ("val", "features of the validation images");

/// All that the features depend on. `checksums` are those of the sets of images; those of the
/// training images, which come first, decide the statistics of random weights. `is_split` tells
/// whether the validation images are a part of these.
pub(super) fn image_key(
    config: &BackboneConfig,
    backbone: &FrozenBackbone,
    is_split: bool,
    (source, checksums): (&SourceImages, &[u32]),
) -> Result<String> {
    let BackboneConfig { size, images_per_batch, seed, .. } = config;
    let checksums: String = checksums.iter().map(|sum| format!(" {sum:08x}")).collect();
    Ok(format!(
        "linear weights {:08x} size {size} images-per-batch {images_per_batch} seed {seed} \
         split {is_split} images{checksums}{}{}",
        backbone.checksum()?,
        key_of(source.decoding),
        config.on_gpu()
    ))
}

impl Extractor<'_> {
    /// Computes the running statistics of random weights on center crops of the training images;
    /// other weights have their own.
    pub fn image_statistics(
        &self,
        source: &SourceImages,
        ids: &[u32],
        reporter: &Reporter,
    ) -> Result<()> {
        if !matches!(self.config.source, BackboneSource::Random(..)) {
            return Ok(());
        }
        let size = self.config.images_per_batch.min(ids.len());
        let batches: Vec<&[u32]> = ids.chunks_exact(size).collect();
        let decode = |ids: &[u32]| center_crops(source, ids, self.config.size);
        self.compute_statistics(&batches, decode, reporter)
    }

    /// The features `[N, C]` of center crops of images, stored in files. On the first rank; the
    /// others compute their part.
    pub fn image_features(
        &self,
        set: ImageSet,
        source: &SourceImages,
        ids: &[u32],
        reporter: &Reporter,
    ) -> Result<Option<Tensor>> {
        let decode = |ids: &[u32]| center_crops(source, ids, self.config.size);
        self.crop_features(set, ids, decode, reporter)
    }

    /// The features `[N, C]` of crops that `decode` makes. On the first rank; the others compute
    /// their part.
    pub fn crop_features(
        &self,
        (name, status): ImageSet,
        ids: &[u32],
        decode: impl Fn(&[u32]) -> Result<Inputs> + Sync,
        reporter: &Reporter,
    ) -> Result<Option<Tensor>> {
        let set = (&[name][..], status);
        let found = self.features(set, (ids, IMAGES_PER_FILE), decode, |_| None, reporter)?;
        Ok(found.and_then(|mut files| files.pop()))
    }
}

/// A batch of inputs.
fn center_crops(source: &SourceImages, ids: &[u32], size: u32) -> Result<Inputs> {
    inputs(ids, size, false, |&id| center_cropped(source, id, size))
}

/// The input of an image.
pub(super) fn center_cropped(source: &SourceImages, id: u32, size: u32) -> Result<RgbImage> {
    let shorter = f64::from(size * SHORTER_FOR_224) / 224.0;
    Ok(center_crop(&source.decode(id)?, shorter.round() as u32, size))
}
