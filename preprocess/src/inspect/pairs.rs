//! Pairs to look at: some rows, chosen at random, with their pixels.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use image::imageops::thumbnail;
use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::{EncodedImage, Epoch, PrepOptions, Row, ShardReader, ViewParams};

use super::shards::Shards;
use crate::images::ImageSize;
use crate::images::{RgbImage, decode, decode_view};
use crate::sources::SourceReader;
use crate::views::render::{RenderOptions, Renderer};
use crate::views::rng::{Purpose, Stream};
use crate::{Error, Result};

/// Longest side of a source's small picture, in pixels.
const THUMBNAIL: u32 = 480;

/// One row with its pictures.
pub struct Pair {
    /// The epoch it is of.
    pub epoch: Epoch,
    /// Its part's name below the folder, and its number there.
    pub place: (String, u64),
    /// The row; its views hold no pictures any more.
    pub row: Row,
    /// The class's name, where there is one.
    pub class: Option<Arc<str>>,
    /// View 1 and view 2, `[size, size, 3]`.
    pub views: [image::RgbImage; 2],
    /// The source made small; `None` where it is not at hand.
    pub source: Option<image::RgbImage>,
}

impl Pair {
    /// The parameters of view 1 and view 2.
    pub fn params(&self) -> [&ViewParams; 2] {
        [&self.row.view1.params, &self.row.view2.params]
    }
}

/// Chooses `count` rows of the finished epochs, or all where there are no more, and reads them in the folder's order.
/// The same seed chooses the same rows. `images` are the sources; for recipes they must be there. `progress` hears of
/// pairs.
///
/// # Errors
/// Where a part or, for recipes, a source cannot be read, or after a stop.
pub fn choose(
    shards: &Shards,
    images: &Path,
    count: u64,
    seed: u64,
    reporter: &Reporter,
) -> Result<Vec<Pair>> {
    let originals = match SourceReader::open(images) {
        Ok(originals) => Some(originals),
        Err(error) if shards.are_recipes() => {
            let reason = format!(
                "{error}; recipes are rendered from their sources: --images says where they lie"
            );
            return Err(Error::Folder { path: shards.paths.root().to_owned(), reason });
        }
        Err(_) => None,
    };
    let reading = Reading { shards, images, originals };
    places(shards, count, seed)
        .into_par_iter()
        .map(|(epoch, name, number)| {
            let pair = reading.pair(epoch, name, number)?;
            Ok(reporter.step(1).map(|()| pair)?)
        })
        .collect()
}

/// The places of some rows: epoch, part, number of the row.
fn places(shards: &Shards, count: u64, seed: u64) -> Vec<(Epoch, &str, u64)> {
    let total = shards.rows();
    let count = count.min(total);
    let mut random = Stream::new(seed, 0, 0, Purpose::PairsToShow);
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < count {
        numbers.insert(if count == total { numbers.len() as u64 } else { random.below(total) });
    }
    let mut parts = shards.parts();
    let (mut part, mut first) = (parts.next(), 0);
    let mut places = Vec::new();
    for number in numbers {
        while let Some((_, record)) = part.filter(|(_, record)| first + record.rows <= number) {
            first += record.rows;
            part = parts.next();
        }
        places.extend(part.map(|(epoch, record)| (epoch, record.name.as_str(), number - first)));
    }
    places
}

struct Reading<'a> {
    shards: &'a Shards,
    images: &'a Path,
    originals: Option<SourceReader>,
}

impl Reading<'_> {
    fn pair(&self, epoch: Epoch, name: &str, number: u64) -> Result<Pair> {
        let options = &self.shards.manifest.options;
        let path = self.shards.paths.epoch(epoch).join(name);
        let damaged = |reason: String| {
            let reason = format!("row {number}: {reason}; --verify tells what is wrong");
            Error::Folder { path: path.clone(), reason }
        };
        let row = ShardReader::open_at(&path, number)?.next();
        let mut row = row.ok_or_else(|| damaged("is not there".to_owned()))??;
        let source = self.source(&row);
        let images = [row.view1.image.take(), row.view2.image.take()];
        let views = match (images, &source) {
            ([Some(first), Some(second)], _) => {
                [&first, &second].map(|image| decoded(image, options.size))
            }
            (_, Ok(source)) => {
                [&row.view1.params, &row.view2.params].map(|p| rendered(source, p, options))
            }
            (_, Err(reason)) => {
                return Err(Error::source(self.images, &row.path, reason.clone()));
            }
        };
        let [first, second] = views;
        let known = usize::try_from(row.image_id).ok().and_then(|id| self.shards.sources.get(id));
        let class = known.and_then(|source| source.class.as_ref()).map(|class| class.1.clone());
        Ok(Pair {
            epoch,
            place: (self.shards.name(epoch, name), number),
            class,
            views: [first.map_err(damaged)?, second.map_err(damaged)?],
            source: source.ok().and_then(small),
            row,
        })
    }

    /// The decoded source of a row, if it is the one the row was made from.
    fn source(&self, row: &Row) -> std::result::Result<RgbImage, String> {
        let originals = self.originals.as_ref().ok_or("the sources are not there")?;
        let bytes = originals.read(row.image_id, &row.path)?;
        let source =
            decode(&bytes, self.shards.manifest.options.exif).map_err(|reason| reason.0)?;
        let ImageSize { width, height } = source.size;
        if (width, height) != (row.source_width, row.source_height) {
            return Err(format!("has {width}×{height} pixels now"));
        }
        Ok(source)
    }
}

fn picture(size: u32, pixels: Vec<u8>) -> std::result::Result<image::RgbImage, String> {
    image::RgbImage::from_raw(size, size, pixels).ok_or_else(|| "a view of another size".to_owned())
}

fn decoded(image: &EncodedImage, size: u32) -> std::result::Result<image::RgbImage, String> {
    let mut pixels = vec![0; size as usize * size as usize * 3];
    decode_view(&image.bytes, size as usize, &mut pixels).map_err(|reason| reason.0)?;
    picture(size, pixels)
}

fn rendered(
    source: &RgbImage,
    params: &ViewParams,
    options: &PrepOptions,
) -> std::result::Result<image::RgbImage, String> {
    let crop = params.crop;
    let fits =
        |first: i32, length: i32, whole: i32| first >= 0 && length > 0 && first + length <= whole;
    if !fits(crop.x, crop.width, source.size.width)
        || !fits(crop.y, crop.height, source.size.height)
    {
        return Err("its crop leaves the source".to_owned());
    }
    let mut pixels = Vec::new();
    Renderer::default().render(source, params, RenderOptions::from(options), &mut pixels);
    picture(options.size, pixels)
}

/// A source made so small that a page can hold many.
fn small(source: RgbImage) -> Option<image::RgbImage> {
    let (width, height) = (source.size.width as u32, source.size.height as u32);
    let whole = image::RgbImage::from_raw(width, height, source.pixels)?;
    let longest = width.max(height);
    if longest <= THUMBNAIL {
        return Some(whole);
    }
    let side = |length: u32| (length * THUMBNAIL / longest).max(1);
    Some(thumbnail(&whole, side(width), side(height)))
}
