//! The global protocol, as usual on ImageNet: the classes of photos, told from pooled features.
//!
//! The backbone is frozen and normalises with the statistics that it has. The linear layer learns from a random crop of each
//! photo, mirrored at random, another one every epoch, and is judged on the middle of each.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use scrl_preprocess::images::ImageSize;
use scrl_preprocess::images::RgbImage;
use scrl_preprocess::views::method::FLIP_PROBABILITY;
use scrl_preprocess::views::params::draw_crop;
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::{BlurKind, ViewParams};

use super::cache::{Cache, join, part_of};
use super::photos::Photos;
use super::pictures::{batch, centre};
use super::probe::{Examples, Probe};
use super::results::Counted;
use super::{FrozenBackbone, Results, Start, Subject, Watch};
use crate::model::Classifier;
use crate::{Error, Result};

/// Area of a training crop as a share of the photo, as torchvision's `RandomResizedCrop`.
const CROP_SCALE: [f32; 2] = [0.08, 1.0];

/// The shorter side of a photo whose middle 224 pixels are judged.
const SHORTER_FOR_224: u32 = 256;

/// Photos whose features are a file together.
const PHOTOS_PER_PART: usize = 1024;

/// What the protocol works on.
#[derive(Clone, Debug)]
pub struct LinearConfig {
    /// What both protocols are told.
    pub subject: Subject,
    /// Photos with classes.
    pub images: PathBuf,
    /// Others to validate with; without them every fifth photo of each class is held back.
    pub val: Option<PathBuf>,
    /// Random crops of each photo; with as many as epochs each epoch has new ones. Fewer are computed once, kept, and
    /// used again in turns.
    pub crops: u32,
}

/// A photo: its place in its source and its class.
type Photo = (u32, usize);

/// Tells the classes of photos. What is kept below `out/features` lets an evaluation that was stopped go on.
///
/// # Errors
/// If a file cannot be read or written, or the photos cannot be used; [`Error::Stopped`] if `watch` wants it.
pub fn evaluate_photos(config: &LinearConfig, watch: &mut Watch) -> Result<Results> {
    let subject = &config.subject;
    let backbone = FrozenBackbone::new(&subject.start)?;
    let photos = Photos::find(&config.images, None, watch)?;
    let others = config
        .val
        .as_ref()
        .map(|path| Photos::find(path, Some(&photos.names), watch))
        .transpose()?;
    let (train, val_photos, val) = match &others {
        Some(others) => (photos.photos.clone(), others, others.photos.clone()),
        None => {
            let [train, held] = photos.hold_back();
            watch.note(format!(
                "no --val: {} of {} photos are held back",
                held.len(),
                photos.photos.len()
            ));
            (train, &photos, held)
        }
    };
    if train.is_empty() || val.is_empty() {
        let reason = "too few photos to hold any back; give others with --val";
        return Err(Error::dataset(&config.images, reason));
    }
    let key = key(config, &backbone, [&photos, val_photos])?;
    let cache = Cache::new(&subject.out.join("features"), key.clone())?;
    let pass = Pass { config, backbone: &backbone, cache: &cache };
    if matches!(subject.start, Start::Random(..)) {
        pass.track(&photos, &train, watch)?;
    }
    let truth: Vec<usize> = val.iter().map(|(_, class)| *class).collect();
    watch.begin("features of the validation photos", val.len());
    let validation = pass.features("val", val_photos, &val, None, watch)?;
    let mut examples = Crops::new(&pass, &photos, train, watch)?;
    // Fewer crops than epochs are kept themselves, and an epoch is then a moment.
    let noted = examples.kept.is_empty().then(|| format!("{key} {:?}", subject.probe));
    let noted = noted.map(|key| Cache::new(&subject.out.join("features"), key)).transpose()?;
    let (channels, classes) = (backbone.arch().channels(), photos.names.len());
    let probe =
        Probe::train(&subject.probe, channels, classes, &mut examples, noted.as_ref(), watch)?;
    let confusion = probe.judge(&validation, &truth)?;
    let counted = [&examples.classes, &truth].map(|classes| Counted { classes, left_out: None });
    Ok(Results::new(
        "linear",
        (subject, backbone.arch()),
        &photos.names,
        counted,
        &probe,
        confusion,
    ))
}

/// Everything that the features depend on.
fn key(config: &LinearConfig, backbone: &FrozenBackbone, sides: [&Photos; 2]) -> Result<String> {
    let Subject { size, images_per_batch, probe, .. } = &config.subject;
    Ok(format!(
        "linear weights {:08x} size {size} images-per-batch {images_per_batch} seed {} held back {} photos {:08x} {:08x}",
        backbone.checksum()?,
        probe.seed,
        config.val.is_none(),
        sides[0].checksum()?,
        sides[1].checksum()?
    ))
}

/// The way of photos through a backbone.
struct Pass<'a> {
    config: &'a LinearConfig,
    backbone: &'a FrozenBackbone,
    cache: &'a Cache,
}

impl Pass<'_> {
    /// Random weights have seen nothing: their batch norms' statistics are tracked on the training photos.
    fn track(&self, photos: &Photos, train: &[Photo], watch: &mut Watch) -> Result<()> {
        let size = self.config.subject.images_per_batch.min(train.len());
        watch.begin("statistics of the batch norms", train.len() / size);
        for (number, photo) in train.chunks_exact(size).enumerate() {
            let pictures = self.pictures(photos, photo, None)?;
            self.backbone.track(&pictures, number)?;
            watch.advance(1)?;
        }
        Ok(())
    }

    /// Photos as pictures: a random crop each in some pass, or the middle.
    fn pictures(&self, photos: &Photos, which: &[Photo], pass: Option<u32>) -> Result<Tensor> {
        let size = self.config.subject.size;
        batch(which, size, |(image_id, _)| {
            let photo = photos.decode(*image_id)?;
            Ok(match pass {
                Some(pass) => self.crop(&photo, *image_id, pass),
                None => {
                    let shorter = f64::from(size * SHORTER_FOR_224) / 224.0;
                    centre(&photo, shorter.round() as u32, size)
                }
            })
        })
    }

    fn crop(&self, photo: &RgbImage, image_id: u32, pass: u32) -> RgbImage {
        let Subject { size, probe, .. } = &self.config.subject;
        let random = &mut Stream::new(probe.seed, pass, image_id.into(), Purpose::View1);
        let params = ViewParams {
            crop: draw_crop(random, photo.size, CROP_SCALE),
            flip: random.chance(FLIP_PROBABILITY),
            jitter: None,
            grayscale: false,
            blur: None,
            solarize: false,
        };
        let mut pixels = Vec::new();
        let options = RenderOptions { size: *size, blur: BlurKind::None };
        Renderer::default().render(photo, &params, options, &mut pixels);
        let side = *size as i32;
        RgbImage { size: ImageSize { width: side, height: side }, pixels }
    }

    /// The vectors `[n, C]` of a few photos, batch by batch.
    fn vectors<'b>(
        &'b self,
        photos: &'b Photos,
        which: &'b [Photo],
        pass: Option<u32>,
    ) -> impl Iterator<Item = Result<Tensor>> + 'b {
        which.chunks(self.config.subject.images_per_batch).map(move |which| {
            let map = self.backbone.map(&self.pictures(photos, which, pass)?)?;
            Ok(Classifier::features(&map)?)
        })
    }

    /// The vectors `[photos, C]` of all photos, kept in files.
    fn features(
        &self,
        name: &str,
        photos: &Photos,
        which: &[Photo],
        pass: Option<u32>,
        watch: &mut Watch,
    ) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (number, which) in which.chunks(PHOTOS_PER_PART).enumerate() {
            let name = format!("{name}-{number:05}");
            if let Some(part) = self.cache.find(&name) {
                watch.advance(which.len())?;
                parts.push(part);
                continue;
            }
            let mut batches = Vec::new();
            for vectors in self.vectors(photos, which, pass) {
                let vectors = vectors?;
                watch.advance(vectors.dim(0)?)?;
                batches.push(vectors);
            }
            let part = part_of(batches)?;
            self.cache.store(&name, &part)?;
            parts.push(part);
        }
        join(parts)
    }
}

/// Random crops of the training photos.
struct Crops<'a> {
    pass: &'a Pass<'a>,
    photos: &'a Photos,
    train: Vec<Photo>,
    classes: Vec<usize>,
    /// The vectors of each pass; none if every epoch makes its own.
    kept: Vec<Tensor>,
}

impl<'a> Crops<'a> {
    fn new(
        pass: &'a Pass<'a>,
        photos: &'a Photos,
        train: Vec<Photo>,
        watch: &mut Watch,
    ) -> Result<Self> {
        let mut kept = Vec::new();
        if pass.config.crops < pass.config.subject.probe.epochs {
            watch
                .begin("features of the training photos", train.len() * pass.config.crops as usize);
            for number in 0..pass.config.crops {
                let name = format!("train-{number:05}");
                kept.push(pass.features(&name, photos, &train, Some(number), watch)?);
            }
        }
        let classes = train.iter().map(|(_, class)| *class).collect();
        Ok(Self { pass, photos, train, classes, kept })
    }
}

impl Examples for Crops<'_> {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn features(&mut self, epoch: u32, which: &[usize]) -> Result<Tensor> {
        if self.kept.is_empty() {
            let photos: Vec<Photo> = which.iter().map(|&index| self.train[index]).collect();
            let batches = self.pass.vectors(self.photos, &photos, Some(epoch));
            return Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?);
        }
        let rows: Vec<u32> = which.iter().map(|&index| index as u32).collect();
        let vectors = &self.kept[epoch as usize % self.kept.len()];
        Ok(vectors.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}
