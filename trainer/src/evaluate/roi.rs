//! The protocol of section 4.2.5: the classes of boxes, told from RoIAligned features.
//!
//! Pictures are squeezed to one size, and mirrored at random while training. The backbone is frozen, except that the
//! statistics of its batch norms are tracked anew on the training pictures. Each box becomes one vector (RoIAlign to 1×1
//! on the last map), and one linear layer learns the classes. Nothing but the mirroring is random, so that every box has two
//! vectors for all epochs, which are computed once.

use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use scrl_preprocess::images::RgbImage;
use scrl_preprocess::views::rng::{Purpose, Stream};

use super::annotations::{BoxedImage, BoxedImages};
use super::cache::{Cache, Part, join, part_of};
use super::pictures::{batch, decode_upright, mirror, squeeze};
use super::probe::{Examples, Probe};
use super::results::Counted;
use super::{FrozenBackbone, Results, Subject, Watch};
use crate::ops::{Op, RoiAlign};
use crate::{Error, Result};

/// Batches over which the batch norms' statistics are averaged at most, evenly spread over the pictures.
const STATISTICS_BATCHES: usize = 200;

/// Pictures whose features are a file together.
const IMAGES_PER_PART: usize = 64;

/// What the protocol works on.
#[derive(Clone, Debug)]
pub struct RoiConfig {
    /// What both protocols are told.
    pub subject: Subject,
    /// Folder of the training images.
    pub train_images: PathBuf,
    /// Their boxes.
    pub train_boxes: PathBuf,
    /// Folder of the validation images.
    pub val_images: PathBuf,
    /// Their boxes.
    pub val_boxes: PathBuf,
}

/// Whether a picture is mirrored.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Upright,
    Mirrored,
}

/// Tells the classes of boxes. Features are kept below `out/features`; an evaluation that was stopped goes on from them.
///
/// # Errors
/// If a file cannot be read or written, or the lists cannot be used; [`Error::Stopped`] if `watch` wants it.
pub fn evaluate_boxes(config: &RoiConfig, watch: &mut Watch) -> Result<Results> {
    let subject = &config.subject;
    let backbone = FrozenBackbone::new(&subject.start)?;
    let train = BoxedImages::read(&config.train_boxes, &config.train_images, None, watch)?;
    let val = BoxedImages::read(&config.val_boxes, &config.val_images, Some(&train), watch)?;
    for (which, images) in [("training", &train), ("validation", &val)] {
        if let Some(left_out) = images.left_out.describe() {
            watch.note(format!("not used of the {which} list: {left_out}"));
        }
    }
    let cache =
        Cache::new(&subject.out.join("features"), key(subject, &backbone, [&train, &val])?)?;
    let pass = Pass { subject, backbone: &backbone, cache: &cache };
    pass.track(&train.images, watch)?;
    let sides = [Side::Upright, Side::Mirrored];
    let vectors =
        pass.features("train", "features of the training boxes", &train.images, &sides, watch)?;
    let [upright, mirrored] = [0, 1].map(|side| vectors[side].clone());
    let mut boxes = Boxes {
        vectors: Tensor::cat(&[upright, mirrored], 0)?,
        classes: classes_of(&train.images),
        images: (0..)
            .zip(&train.images)
            .flat_map(|(i, image)| vec![i; image.boxes.len()])
            .collect(),
        seed: subject.probe.seed,
    };
    let validation =
        pass.features("val", "features of the validation boxes", &val.images, &sides[..1], watch)?;
    let (channels, classes) = (backbone.arch().channels(), train.classes.len());
    let probe = Probe::train(&subject.probe, channels, classes, &mut boxes, None, watch)?;
    let truth = classes_of(&val.images);
    let confusion = probe.judge(&validation[0], &truth)?;
    let counted = [
        Counted { classes: &boxes.classes, left_out: Some(train.left_out) },
        Counted { classes: &truth, left_out: Some(val.left_out) },
    ];
    Ok(Results::new("roi", (subject, backbone.arch()), &train.classes, counted, &probe, confusion))
}

fn classes_of(images: &[BoxedImage]) -> Vec<usize> {
    images.iter().flat_map(|image| &image.boxes).map(|labelled| labelled.class).collect()
}

/// Everything that the features depend on.
fn key(subject: &Subject, backbone: &FrozenBackbone, sides: [&BoxedImages; 2]) -> Result<String> {
    let images = sides.map(|side| {
        side.images
            .iter()
            .fold(0, |sum, image| crc32c::crc32c_append(sum, format!("{image:?}").as_bytes()))
    });
    Ok(format!(
        "roi weights {:08x} size {} images-per-batch {} images {:08x} {:08x}",
        backbone.checksum()?,
        subject.size,
        subject.images_per_batch,
        images[0],
        images[1]
    ))
}

/// The way of pictures through a backbone.
struct Pass<'a> {
    subject: &'a Subject,
    backbone: &'a FrozenBackbone,
    cache: &'a Cache,
}

impl Pass<'_> {
    /// Tracks the batch norms' statistics on the pictures, every second one mirrored.
    fn track(&self, images: &[BoxedImage], watch: &mut Watch) -> Result<()> {
        const NAME: &str = "statistics";
        if let Some(found) = self.cache.find(NAME)
            && self.backbone.set_statistics(&found)?
        {
            return Ok(());
        }
        let numbered: Vec<(usize, &BoxedImage)> = images.iter().enumerate().collect();
        let size = self.subject.images_per_batch.min(numbered.len());
        // A last batch that is not full would count as much as the others.
        let batches: Vec<_> = numbered.chunks_exact(size).collect();
        let every = batches.len().div_ceil(STATISTICS_BATCHES);
        watch.begin("statistics of the batch norms", batches.len().div_ceil(every));
        for (number, images) in batches.into_iter().step_by(every).enumerate() {
            let side = |index: usize| if index % 2 == 1 { Side::Mirrored } else { Side::Upright };
            let pictures = batch(images, self.subject.size, |(index, image)| {
                self.picture(image, side(*index))
            })?;
            self.backbone.track(&pictures, number)?;
            watch.advance(1)?;
        }
        self.cache.store(NAME, &self.backbone.statistics())
    }

    /// The vectors `[boxes, C]` of all boxes, one tensor for each of `sides`.
    fn features(
        &self,
        name: &str,
        what: &'static str,
        images: &[BoxedImage],
        sides: &[Side],
        watch: &mut Watch,
    ) -> Result<Vec<Tensor>> {
        watch.begin(what, images.len() * sides.len());
        let mut vectors = vec![Vec::new(); sides.len()];
        for (number, part) in images.chunks(IMAGES_PER_PART).enumerate() {
            for (vectors, side) in vectors.iter_mut().zip(sides) {
                let word = if *side == Side::Mirrored { "mirrored" } else { "upright" };
                let name = format!("{name}-{word}-{number:05}");
                vectors.push(match self.cache.find(&name) {
                    Some(vectors) => {
                        watch.advance(part.len())?;
                        vectors
                    }
                    None => {
                        let vectors = self.part(part, *side, watch)?;
                        self.cache.store(&name, &vectors)?;
                        vectors
                    }
                });
            }
        }
        vectors.into_iter().map(join).collect()
    }

    fn part(&self, images: &[BoxedImage], side: Side, watch: &mut Watch) -> Result<Part> {
        let mut vectors = Vec::new();
        for images in images.chunks(self.subject.images_per_batch) {
            let pictures = batch(images, self.subject.size, |image| self.picture(image, side))?;
            let map = self.backbone.map(&pictures)?;
            vectors.push(RoiAlign.forward([&map, &rois(images, self.subject.size, side)?])?);
            watch.advance(images.len())?;
        }
        part_of(vectors)
    }

    fn picture(&self, image: &BoxedImage, side: Side) -> Result<RgbImage> {
        let bytes = fs::read(&image.path).map_err(Error::io(&image.path))?;
        let decoded = decode_upright(&bytes)
            .map_err(|reason| Error::dataset(&image.path, reason.to_string()))?;
        let mut picture = squeeze(&decoded, self.subject.size);
        if side == Side::Mirrored {
            mirror(&mut picture);
        }
        Ok(picture)
    }
}

/// The boxes of a batch of images as RoIs `[R, 5]` of image number and corners in pixels of the pictures.
fn rois(images: &[BoxedImage], size: u32, side: Side) -> Result<Tensor> {
    let size = f64::from(size);
    let mut rows = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let scale = [size / f64::from(image.size.width), size / f64::from(image.size.height)];
        for labelled in &image.boxes {
            let [x0, y0, x1, y1] = labelled.corners;
            let [mut x0, y0, mut x1, y1] =
                [x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]];
            if side == Side::Mirrored {
                (x0, x1) = (size - x1, size - x0);
            }
            rows.extend([number as f32, x0 as f32, y0 as f32, x1 as f32, y1 as f32]);
        }
    }
    let count = rows.len() / 5;
    Ok(Tensor::from_vec(rows, (count, 5), &Device::Cpu)?)
}

/// The training boxes, each as its image is mirrored in an epoch.
struct Boxes {
    /// All boxes upright, then all boxes mirrored, `[2R, C]`.
    vectors: Tensor,
    classes: Vec<usize>,
    /// The number of the image of each.
    images: Vec<u64>,
    seed: u64,
}

impl Examples for Boxes {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn features(&mut self, epoch: u32, which: &[usize]) -> Result<Tensor> {
        let row = |&index: &usize| {
            let mut random = Stream::new(self.seed, epoch, self.images[index], Purpose::Evaluation);
            (index + if random.chance(0.5) { self.classes.len() } else { 0 }) as u32
        };
        let rows: Vec<u32> = which.iter().map(row).collect();
        Ok(self.vectors.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::ImageSize;

    use super::*;
    use crate::evaluate::LabelledBox;

    #[test]
    fn boxes_follow_their_pictures() {
        let boxes = vec![LabelledBox { corners: [10.0, 5.0, 30.0, 50.0], class: 0 }];
        let size = ImageSize { width: 100, height: 50 };
        let image = BoxedImage { path: "a".into(), bytes: 1, size, boxes };
        let rois =
            |side| rois(std::slice::from_ref(&image), 200, side).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rois(Side::Upright), [[0.0, 20.0, 20.0, 60.0, 200.0]]);
        assert_eq!(rois(Side::Mirrored), [[0.0, 140.0, 20.0, 180.0, 200.0]]);
    }
}
