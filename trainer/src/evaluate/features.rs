//! Features of images: decoded on all threads, computed a batch at a time, and brought back while
//! the next batch is computed.

use std::collections::VecDeque;
use std::path::Path;

use candle_core::{Device, Tensor};
use scrl_cli::Reporter;

use super::cache::{Cache, Part};
use super::frozen_backbone::FrozenBackbone;
use super::inputs::{Inputs, decode_ahead};
use super::options::BackboneConfig;
use crate::collective::Ranks;
use crate::ops::gpu::Fetch;
use crate::{Error, Result};

/// Pixels of a batch. Weights are read, and on the CPU transformed, once a batch; a GPU needs many
/// images to be busy. An image's features do not depend on its batch, on a GPU but for rounding.
const BATCH_PIXELS: usize = 64 * 224 * 224;

/// Batches that may be under way on a GPU, besides the newest.
const BATCHES_BEHIND: usize = 1;

/// Images of a batch, each of which gives `sides` inputs: as many as fit, or as are given by
/// `--images-per-batch`.
fn images_per_batch(given: usize, size: u32, sides: usize) -> usize {
    let fitting = BATCH_PIXELS / (size as usize * size as usize);
    (given.max(fitting) / sides).max(1)
}

/// Adds advice to the error of a GPU whose memory is full.
pub(super) fn explain_out_of_memory(error: Error) -> Error {
    match error.sign_of_full_memory() {
        Some(sign) => Error::Device(format!(
            "its memory is full ({sign}): stop other programs on it, or use a smaller \
             --images-per-batch, --size or --batch-size"
        )),
        None => error,
    }
}

/// The name of the running statistics in the cache.
const STATISTICS: &str = "statistics";

/// Computes features of images or of boxes in them, or takes them from a cache.
pub(super) struct Extractor<'a> {
    pub config: &'a BackboneConfig,
    pub backbone: &'a FrozenBackbone,
    pub ranks: &'a Ranks,
    cache: Cache,
}

impl<'a> Extractor<'a> {
    /// An extractor with its cache in `folder`. `key` states all that the features depend on, and
    /// must be the same on all `ranks`.
    pub fn new(
        config: &'a BackboneConfig,
        backbone: &'a FrozenBackbone,
        (folder, key): (&Path, &str),
        ranks: &'a Ranks,
    ) -> Result<Self> {
        Ok(Self { config, backbone, ranks, cache: Cache::of_ranks(folder, key, ranks)? })
    }

    /// Images of a batch whose features are computed, each of which gives `sides` inputs.
    pub fn images_per_batch(&self, sides: usize) -> usize {
        images_per_batch(self.config.images_per_batch, self.config.size, sides)
    }

    /// Computes the running statistics of the backbone's batch norms on `batches`, all of the same
    /// length, of which `decode` makes the inputs; or takes them from the cache.
    pub fn compute_statistics<T: Clone + Sync>(
        &self,
        batches: &[&[T]],
        decode: impl Fn(&[T]) -> Result<Inputs> + Sync,
        reporter: &Reporter,
    ) -> Result<()> {
        // The others find those of the first rank in the cache.
        if !self.ranks.is_first() {
            self.ranks.wait_for_all();
        }
        let found = self.cache.find(STATISTICS);
        let is_set = found.map(|found| self.backbone.set_statistics(&found)).transpose()?;
        if is_set != Some(true) {
            compute_statistics(self.backbone, batches, self.config.size, decode, reporter)?;
            self.cache.store(STATISTICS, &self.backbone.statistics()?)?;
        }
        if self.ranks.is_first() {
            self.ranks.wait_for_all();
        }
        Ok(())
    }

    /// The features `[n, C]` of all `images`, one tensor for each of `sides`, which name the files;
    /// each file has those of `per_file` images. `decode` and `boxes` are those of
    /// [`compute_features`]. On the first rank; the others compute their part.
    pub fn features<T: Sync>(
        &self,
        (sides, status): (&[&str], &str),
        (images, per_file): (&[T], usize),
        decode: impl Fn(&[T]) -> Result<Inputs> + Sync,
        boxes: impl Fn(&[T]) -> Option<Vec<f32>>,
        reporter: &Reporter,
    ) -> Result<Option<Vec<Tensor>>> {
        let chunks: Vec<&[T]> = images.chunks(per_file).collect();
        let part = |(number, chunk): (usize, &&[T])| Part {
            files: sides.iter().map(|side| format!("{side}-{number:05}")).collect(),
            images: chunk.len(),
        };
        let parts: Vec<Part> = chunks.iter().enumerate().map(part).collect();
        self.cache.divide(&parts, status, (self.ranks, reporter), |missing, store| {
            let chunks: Vec<&[T]> = missing.iter().map(|&number| chunks[number]).collect();
            compute_features(
                self.backbone,
                &chunks,
                (self.images_per_batch(sides.len()), sides.len()),
                decode,
                boxes,
                reporter,
                |number, features| store(missing[number], features),
            )
        })
    }
}

/// Computes the running statistics of the backbone's batch norms on `batches`, all of the same
/// length, of which `decode` makes the inputs.
fn compute_statistics<T: Clone + Sync>(
    backbone: &FrozenBackbone,
    batches: &[&[T]],
    size: u32,
    decode: impl Fn(&[T]) -> Result<Inputs> + Sync,
    reporter: &Reporter,
) -> Result<()> {
    reporter.begin("batches", batches.len() as u64, 0);
    reporter.set_status("statistics of the batch norms");
    let images = batches.first().map_or(1, |batch| batch.len());
    let at_once = images_per_batch(images, size, 1) / images;
    let passes: Vec<&[&[T]]> = batches.chunks(at_once).collect();
    let mut before = 0;
    decode_ahead(
        &passes,
        |batches| decode(&batches.concat()),
        |batches, inputs| {
            backbone.update_statistics(&inputs, images, before)?;
            before += batches.len();
            Ok(reporter.step(batches.len() as u64)?)
        },
    )?;
    reporter.log();
    Ok(())
}

/// A batch whose features are on their way to the host.
struct Pending {
    features: Fetch,
    images: usize,
    /// The part that it ends.
    ends: Option<usize>,
}

/// Computes the features of all images in `parts` and calls `store` with the number of a part and
/// its features `[n, C]`, one tensor for each of `sides`. `decode` makes the inputs of at most
/// `per_batch` images, and `boxes` the boxes in them if the features are those of boxes; both one
/// side after the other.
fn compute_features<T: Sync>(
    backbone: &FrozenBackbone,
    parts: &[&[T]],
    (per_batch, sides): (usize, usize),
    decode: impl Fn(&[T]) -> Result<Inputs> + Sync,
    boxes: impl Fn(&[T]) -> Option<Vec<f32>>,
    reporter: &Reporter,
    mut store: impl FnMut(usize, Vec<Tensor>) -> Result<()>,
) -> Result<()> {
    let channels = backbone.arch().channels();
    let mut of_part = vec![Vec::new(); sides];
    let mut finish = |Pending { features, images, ends }: Pending| {
        let features = features.wait()?;
        let of_sides = features.chunks_exact(features.len() / sides);
        of_part.iter_mut().zip(of_sides).for_each(|(all, some)| all.extend_from_slice(some));
        if let Some(part) = ends {
            let sides = of_part.iter_mut().map(std::mem::take).map(|features| {
                let rows = features.len() / channels;
                Ok(Tensor::from_vec(features, (rows, channels), &Device::Cpu)?)
            });
            store(part, sides.collect::<Result<_>>()?)?;
        }
        Ok(reporter.step(images as u64)?)
    };
    let mut batches = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        batches.extend(part.chunks(per_batch).map(|images| (None, images)));
        if let Some((ends, _)) = batches.last_mut() {
            *ends = Some(number);
        }
    }
    let mut pending = VecDeque::new();
    let consume = |&(ends, images): &(Option<usize>, &[T]), inputs| {
        let features = backbone.features(&inputs, boxes(images).as_deref())?;
        let features = backbone.fetch(&features)?;
        pending.push_back(Pending { features, images: images.len(), ends });
        match pending.len() > BATCHES_BEHIND {
            true => pending.pop_front().map_or(Ok(()), &mut finish),
            false => Ok(()),
        }
    };
    decode_ahead(&batches, |(_, images)| decode(images), consume)?;
    pending.into_iter().try_for_each(finish)
}
