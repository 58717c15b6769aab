//! Estimating the bytes and the time of a run from a few images.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use scrl_schemas::{Epoch, PrepOptions, Row, ViewEncoding};

use super::rows::RowMaker;
use crate::Result;
use crate::images::decode;
use crate::sources::Sources;

/// Images encoded for the estimate.
const SAMPLES: usize = 8;
/// Bytes of a row besides its encoded views: numbers and boxes, compressed.
const BYTES_BESIDES_VIEWS: u64 = 500;
/// Bytes of a shard besides its rows: schema and metadata.
const BYTES_PER_SHARD: u64 = 40_000;
/// Time of one thread for a row without pixels.
const RECIPE_TIME: Duration = Duration::from_micros(20);

/// Bytes of one epoch, for each encoding of the views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBytes {
    /// Lossless WebP.
    pub webp: u64,
    /// JPEG at the requested quality.
    pub jpeg: u64,
    /// No pixels.
    pub recipe: u64,
}

impl EpochBytes {
    /// The bytes for one encoding.
    pub fn of(&self, encoding: ViewEncoding) -> u64 {
        match encoding {
            ViewEncoding::Webp => self.webp,
            ViewEncoding::Jpeg => self.jpeg,
            ViewEncoding::Recipe => self.recipe,
        }
    }
}

/// The size of an epoch and the time of a pair, estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes of an epoch, for each encoding of the views.
    pub bytes: EpochBytes,
    /// Time of one thread for one pair, in the requested encoding.
    pub pair_time: Duration,
}

/// Measurements of one image: bytes of a row's two views, time of a row.
struct Sample {
    webp: u64,
    jpeg: u64,
    time: Duration,
}

/// Encodes some of the images, evenly spaced, on all threads of the current pool.
///
/// # Errors
/// Those of [`crate::codec::ViewEncoder::encode`] and [`Sources::read`]; unreadable images are
/// skipped.
pub(super) fn estimate(
    sources: &Sources,
    seed: u64,
    shards_per_epoch: u32,
    options: &PrepOptions,
) -> Result<Estimate> {
    let step = (sources.len() as usize).div_ceil(SAMPLES).max(1);
    let samples: Vec<u32> = (0..sources.len()).step_by(step).collect();
    let samples: Vec<Sample> = samples
        .into_par_iter()
        .filter_map(|image_id| take_sample(sources, image_id, seed, options).transpose())
        .collect::<Result<_>>()?;
    let rows = u64::from(sources.len()) - sources.unreadable();
    let count = samples.len().max(1) as u64;
    let besides = rows * BYTES_BESIDES_VIEWS + u64::from(shards_per_epoch) * BYTES_PER_SHARD;
    let total = |of: fn(&Sample) -> u64| {
        (samples.iter().map(|sample| u128::from(of(sample))).sum::<u128>() * u128::from(rows)
            / u128::from(count)) as u64
            + besides
    };
    let bytes = EpochBytes { webp: total(|s| s.webp), jpeg: total(|s| s.jpeg), recipe: besides };
    let pair_time = match options.views {
        ViewEncoding::Recipe => RECIPE_TIME,
        ViewEncoding::Webp | ViewEncoding::Jpeg => {
            samples.iter().map(|sample| sample.time).sum::<Duration>() / count as u32
        }
    };
    Ok(Estimate { bytes, pair_time })
}

fn take_sample(
    sources: &Sources,
    image_id: u32,
    seed: u64,
    options: &PrepOptions,
) -> Result<Option<Sample>> {
    let (source, bytes) = sources.read(image_id)?;
    if source.error.is_some() {
        return Ok(None);
    }
    let start = Instant::now();
    let Ok(image) = decode(&bytes, options) else { return Ok(None) };
    let decoding = start.elapsed();
    let mut maker = RowMaker::default();
    let mut bytes_as = |views: ViewEncoding, epoch: u32| {
        let options = PrepOptions { views, ..options.clone() };
        let row = maker.make(image_id, &source, &image, seed, Epoch(epoch), &options)?;
        Ok::<_, crate::Error>(view_bytes(&row))
    };
    let (webp, jpeg) = (bytes_as(ViewEncoding::Webp, 0)?, bytes_as(ViewEncoding::Jpeg, 0)?);
    // A second row, with the buffers in place, as in the run.
    let start = Instant::now();
    bytes_as(options.views, 1)?;
    let time = start.elapsed() + decoding / options.epochs_per_pass.max(1);
    Ok(Some(Sample { webp, jpeg, time }))
}

fn view_bytes(row: &Row) -> u64 {
    [&row.view1, &row.view2]
        .iter()
        .filter_map(|view| view.image.as_ref())
        .map(|i| i.bytes.len() as u64)
        .sum()
}
