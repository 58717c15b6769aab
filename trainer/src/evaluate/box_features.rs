//! Features of annotated boxes: images resized to one size, batch norms' statistics computed anew,
//! RoIAlign to 1×1 on the last feature map.

use std::path::Path;

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::sources::{Examine, Sources};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::{Levels, SourceOptions};

use super::annotations::{AnnotatedImage, AnnotatedImages};
use super::features::Extractor;
use super::frozen_backbone::FrozenBackbone;
use super::inputs::{ResizedImages, decoding, flip, inputs, key_of, with_window};
use super::options::{BackboneConfig, BoxFiles};
use crate::Result;

/// The running statistics are means over at most this many batches, evenly spread over the images.
const STATISTICS_BATCHES: usize = 200;

/// Images whose features are stored in one file.
const IMAGES_PER_FILE: usize = 64;

/// Takes the place of the epoch in the key of the random choice of boxes.
const NO_EPOCH: u32 = u32::MAX;

/// The names of the features of upright and of mirrored images in the cache, and a status.
pub(super) type BoxSet = ([&'static str; 2], &'static str);

/// Features of the training boxes.
pub(super) const TRAINING: BoxSet =
    (["train-upright", "train-mirrored"], "features of the training boxes");

/// Features of the validation boxes.
pub(super) const VALIDATION: BoxSet =
    (["val-upright", "val-mirrored"], "features of the validation boxes");

/// Training and validation images with boxes.
pub(super) struct BoxSplits {
    /// The training images.
    pub train: AnnotatedImages,
    /// The validation images, with the classes of the training images.
    pub val: AnnotatedImages,
    /// The inputs that both give.
    pub resized: ResizedImages,
}

impl BoxSplits {
    /// Reads both annotation files and decodes each image once.
    ///
    /// # Errors
    /// Those of [`AnnotatedImages::read`].
    pub fn read(files: &BoxFiles, config: &BackboneConfig, reporter: &Reporter) -> Result<Self> {
        let resized = resized_images(&files.train_images, config, reporter)?;
        let read = |boxes, images, train| read_boxes(boxes, images, train, &resized, reporter);
        let train = read(&files.train_boxes, &files.train_images, None)?;
        let val = read(&files.val_boxes, &files.val_images, Some(&train))?;
        Ok(Self { train, val, resized })
    }
}

/// The inputs of images, none yet. For `--levels auto` the folder of the training images is listed.
pub(super) fn resized_images(
    train_images: &Path,
    config: &BackboneConfig,
    reporter: &Reporter,
) -> Result<ResizedImages> {
    let BackboneConfig { pixels, seed, .. } = *config;
    let mut how = decoding(pixels);
    if pixels.levels() == Levels::Auto {
        let options = SourceOptions::default();
        let training = Sources::find(train_images, &options, how, Examine::Header)?;
        how = with_window(&training, pixels, seed, reporter)?;
    }
    Ok(ResizedImages::new(config.size, how))
}

/// Reads an annotation file of images below `folder`, and says what is left out. For validation,
/// `train` has the classes.
///
/// # Errors
/// Those of [`AnnotatedImages::read`].
pub(super) fn read_boxes(
    file: &Path,
    folder: &Path,
    train: Option<&AnnotatedImages>,
    resized: &ResizedImages,
    reporter: &Reporter,
) -> Result<AnnotatedImages> {
    let images = AnnotatedImages::read(file, folder, train, resized, reporter)?;
    if let Some(left_out) = images.left_out.describe() {
        reporter.say(format_args!("left out of {}: {left_out}", file.display()));
    }
    Ok(images)
}

/// The class of each box.
pub(super) fn classes_of(images: &[AnnotatedImage]) -> Vec<usize> {
    images.iter().flat_map(|image| &image.boxes).map(|labeled| labeled.class).collect()
}

/// The indices of the boxes to train on, in ascending order: of a class with `n` boxes `most(n)`,
/// drawn at random. Of one seed a smaller choice is a part of a larger one.
pub(super) fn choose(classes: &[usize], most: impl Fn(usize) -> usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..classes.len()).collect();
    Stream::new(seed, NO_EPOCH, u64::MAX, Purpose::Evaluation).shuffle(&mut indices);
    let mut counts = vec![0; classes.iter().max().map_or(0, |last| last + 1)];
    classes.iter().for_each(|&class| counts[class] += 1);
    let mut left: Vec<usize> = counts.into_iter().map(most).collect();
    indices.retain(|&index| {
        let left = &mut left[classes[index]];
        let is_chosen = *left > 0;
        *left = left.saturating_sub(1);
        is_chosen
    });
    indices.sort_unstable();
    indices
}

/// All that the features depend on. Those of the training images, which come first, decide the
/// statistics.
pub(super) fn box_key(
    config: &BackboneConfig,
    backbone: &FrozenBackbone,
    sets: &[&AnnotatedImages],
    resized: &ResizedImages,
) -> Result<String> {
    let checksum = |set: &&AnnotatedImages| {
        let add = |sum, image| crc32c::crc32c_append(sum, format!("{image:?}").as_bytes());
        format!(" {:08x}", set.images.iter().fold(0, add))
    };
    Ok(format!(
        "roi weights {:08x} size {} images-per-batch {} images{}{}{}",
        backbone.checksum()?,
        config.size,
        config.images_per_batch,
        sets.iter().map(checksum).collect::<String>(),
        config.on_gpu(),
        key_of(resized.decoding())
    ))
}

impl Extractor<'_> {
    /// Computes the batch norms' running statistics on the images, every second one flipped.
    pub fn box_statistics(
        &self,
        images: &[AnnotatedImage],
        resized: &ResizedImages,
        reporter: &Reporter,
    ) -> Result<()> {
        let numbered: Vec<(usize, &AnnotatedImage)> = images.iter().enumerate().collect();
        let size = self.config.images_per_batch.min(numbered.len());
        // A shorter last batch would count as much as the others, so it is left out.
        let batches: Vec<_> = numbered.chunks_exact(size).collect();
        let interval = batches.len().div_ceil(STATISTICS_BATCHES);
        let batches: Vec<_> = batches.into_iter().step_by(interval).collect();
        let decode = |images: &[(usize, &AnnotatedImage)]| {
            inputs(images, self.config.size, false, |(index, image)| {
                let mut input = resized.get(&image.path)?;
                if index % 2 == 1 {
                    flip(&mut input);
                }
                Ok(input)
            })
        };
        self.compute_statistics(&batches, decode, reporter)
    }

    /// The features `[boxes, C]` of all boxes in the images, and with `mirrored` a second tensor of
    /// those in the flipped images. On the first rank; the others compute their part.
    pub fn box_features(
        &self,
        (names, status): BoxSet,
        images: &[AnnotatedImage],
        resized: &ResizedImages,
        mirrored: bool,
        reporter: &Reporter,
    ) -> Result<Option<Vec<Tensor>>> {
        let size = self.config.size;
        let sides = &names[..1 + usize::from(mirrored)];
        self.features(
            (sides, status),
            (images, IMAGES_PER_FILE),
            |images| inputs(images, size, mirrored, |image| resized.get(&image.path)),
            |images| Some(rois(images, size, mirrored)),
            reporter,
        )
    }
}

/// The boxes of a batch as RoIs, five numbers each: the index of the input, and x0, y0, x1, y1 in
/// pixels of the input. With `mirrored`, those in the flipped inputs after all others.
fn rois(images: &[AnnotatedImage], size: u32, mirrored: bool) -> Vec<f32> {
    let size = f64::from(size);
    let mut rois = Vec::new();
    let sides = [false, true].into_iter().take(1 + usize::from(mirrored));
    let inputs = sides.flat_map(|flipped| images.iter().map(move |image| (flipped, image)));
    for (number, (flipped, image)) in inputs.enumerate() {
        let scale = [size / f64::from(image.size.width), size / f64::from(image.size.height)];
        for labeled in &image.boxes {
            let [x0, y0, x1, y1] = labeled.corners;
            let [mut x0, y0, mut x1, y1] =
                [x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]];
            if flipped {
                (x0, x1) = (size - x1, size - x0);
            }
            rois.extend([number as f32, x0 as f32, y0 as f32, x1 as f32, y1 as f32]);
        }
    }
    rois
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::ImageSize;

    use super::super::annotations::LabeledBox;
    use super::*;

    #[test]
    fn some_boxes_of_each_class_are_chosen_by_the_seed() {
        let classes: Vec<usize> = (0..60).map(|index| [0, 0, 0, 0, 2][index % 5]).collect();
        assert_eq!(choose(&classes, |boxes| boxes, 1), (0..60).collect::<Vec<_>>());
        let chosen = choose(&classes, |_| 20, 1);
        let of = |class| chosen.iter().filter(|&&index| classes[index] == class).count();
        assert_eq!((of(0), of(2)), (20, 12));
        assert!(chosen.is_sorted() && chosen != choose(&classes, |_| 20, 2));
    }

    #[test]
    fn boxes_are_resized_and_flipped_with_their_images() {
        let boxes = vec![LabeledBox { corners: [10.0, 5.0, 30.0, 50.0], class: 0 }];
        let size = ImageSize { width: 100, height: 50 };
        let image = AnnotatedImage { path: "a".into(), bytes: 1, size, boxes };
        let images = [image.clone(), image];
        assert_eq!(rois(&images[..1], 200, false), [0.0, 20.0, 20.0, 60.0, 200.0]);
        let expected = [
            [0.0, 20.0, 20.0, 60.0, 200.0],
            [1.0, 20.0, 20.0, 60.0, 200.0],
            [2.0, 140.0, 20.0, 180.0, 200.0],
            [3.0, 140.0, 20.0, 180.0, 200.0],
        ];
        assert_eq!(rois(&images, 200, true), expected.as_flattened());
    }
}
