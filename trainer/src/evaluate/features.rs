//! Features of images: decoded on all threads, computed a batch at a time, and brought back while
//! the next batch is computed.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use scrl_cli::Reporter;

use super::frozen_backbone::FrozenBackbone;
use super::inputs::{Inputs, decode_ahead};
use crate::ops::gpu::Fetch;
use crate::{Error, Result};

/// Pixels of a batch. Weights are read, and on the CPU transformed, once a batch; a GPU needs many
/// images to be busy. An image's features do not depend on its batch, on a GPU but for rounding.
const BATCH_PIXELS: usize = 64 * 224 * 224;

/// Batches that may be under way on a GPU, besides the newest.
const BATCHES_BEHIND: usize = 1;

/// Images of a batch, each of which gives `sides` inputs: as many as fit, or as are given by
/// `--images-per-batch`.
pub(super) fn images_per_batch(given: usize, size: u32, sides: usize) -> usize {
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

/// Computes the running statistics of the backbone's batch norms on `batches`, all of the same
/// length, of which `decode` makes the inputs.
pub(super) fn compute_statistics<T: Clone + Sync>(
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
pub(super) fn compute_features<T: Sync>(
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
