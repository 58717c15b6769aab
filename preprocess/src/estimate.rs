//! How many bytes a run will write, judged from a few images.

use rayon::prelude::*;
use scrl_schemas::{Encoding, Epoch, PrepOptions, Row};

use crate::Result;
use crate::decode::decode;
use crate::rows::RowMaker;
use crate::sources::Sources;

/// Images encoded to judge the size of all.
const SAMPLES: usize = 8;
/// Bytes of a row besides its pictures: numbers and boxes, partly compressed away.
const BYTES_BESIDES_PICTURES: u64 = 500;
/// Columns of a part and their names, written once a part.
const BYTES_PER_PART: u64 = 40_000;

/// Bytes of one epoch, for each way of storing the views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBytes {
    /// Lossless WebP.
    pub webp: u64,
    /// JPEG at the quality asked for.
    pub jpeg: u64,
    /// No pixels.
    pub recipe: u64,
}

impl EpochBytes {
    /// The bytes for one encoding.
    pub fn of(&self, encoding: Encoding) -> u64 {
        match encoding {
            Encoding::Webp => self.webp,
            Encoding::Jpeg => self.jpeg,
            Encoding::Recipe => self.recipe,
        }
    }
}

/// Encodes some of the images, spread evenly over all.
///
/// # Errors
/// Those of [`crate::encode::ViewEncoder::encode`]; images that cannot be read are passed over.
pub fn epoch_bytes(sources: &Sources, seed: u64, parts: u64, options: &PrepOptions) -> Result<EpochBytes> {
    let readable: Vec<u32> =
        (0..sources.list.len() as u32).filter(|&id| sources.list[id as usize].error.is_none()).collect();
    let step = readable.len().div_ceil(SAMPLES).max(1);
    let samples: Vec<u32> = readable.iter().copied().step_by(step).collect();
    let sizes: Vec<Option<[u64; 2]>> = samples
        .par_iter()
        .map(|&id| {
            let Ok(image) = sources.read(id).and_then(|bytes| decode(&bytes, options.exif)) else {
                return Ok(None);
            };
            let bytes_as = |views: Encoding| {
                let options = PrepOptions { views, ..options.clone() };
                let source = &sources.list[id as usize];
                let row = RowMaker::default().make(id, source, &image, seed, Epoch(0), &options)?;
                Ok::<_, crate::Error>(picture_bytes(&row))
            };
            Ok(Some([bytes_as(Encoding::Webp)?, bytes_as(Encoding::Jpeg)?]))
        })
        .collect::<Result<_>>()?;
    let sizes: Vec<[u64; 2]> = sizes.into_iter().flatten().collect();
    let rows = readable.len() as u64;
    let besides = rows * BYTES_BESIDES_PICTURES + parts * BYTES_PER_PART;
    let pictures = |index: usize| match sizes.len() as u64 {
        0 => 0,
        count => sizes.iter().map(|size| size[index]).sum::<u64>() * rows / count,
    };
    Ok(EpochBytes { webp: pictures(0) + besides, jpeg: pictures(1) + besides, recipe: besides })
}

fn picture_bytes(row: &Row) -> u64 {
    [&row.view1, &row.view2].iter().filter_map(|view| view.image.as_ref()).map(|i| i.bytes.len() as u64).sum()
}
