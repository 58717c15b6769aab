//! A random sample of rows with their pixels.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use image::imageops::thumbnail;
use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::{EncodedImage, Epoch, PrepOptions, Row, ShardReader, ViewParams};

use super::shards::Shards;
use crate::images::{ImageSize, RgbImage, decode, decode_view};
use crate::sources::SourceReader;
use crate::views::render::{RenderOptions, Renderer};
use crate::views::rng::{Purpose, Stream};
use crate::{Error, Result};

/// Longest side of a source's thumbnail, in pixels.
const THUMBNAIL: u32 = 480;

/// One row with its pixels.
pub struct Pair {
    /// Its epoch.
    pub epoch: Epoch,
    /// The path of its shard below the folder.
    pub shard: String,
    /// Its number in the shard, from 0.
    pub number: u64,
    /// The row; its encoded views have been taken out.
    pub row: Row,
    /// The class's name, if there is one.
    pub class: Option<Arc<str>>,
    /// View 1 and view 2, `[size, size, 3]`.
    pub views: [image::RgbImage; 2],
    /// A thumbnail of the source image; `None` if that is not available.
    pub source: Option<image::RgbImage>,
}

impl Pair {
    /// The parameters of view 1 and view 2.
    pub fn params(&self) -> [&ViewParams; 2] {
        [&self.row.view1.params, &self.row.view2.params]
    }
}

/// Chooses `count` random rows of the finished epochs, or all if there are fewer, and reads them in
/// the order of the folder. The same seed chooses the same rows. `images` are the source images;
/// for recipes they must exist. The reporter receives the number of pairs.
///
/// # Errors
/// Where a shard or, for recipes, a source image cannot be read, or after a stop.
pub fn choose(
    shards: &Shards,
    images: &Path,
    count: u64,
    seed: u64,
    reporter: &Reporter,
) -> Result<Vec<Pair>> {
    let source_reader = match SourceReader::open(images, &shards.manifest.options.sources) {
        Ok(source_reader) => Some(source_reader),
        Err(error) if shards.are_recipes() => {
            let reason = format!(
                "{error}; recipes are rendered from their source images: give them with --images"
            );
            return Err(Error::Folder { path: shards.paths.root().to_owned(), reason });
        }
        Err(_) => None,
    };
    let reading = Reading { shards, images, source_reader };
    choose_rows(shards, count, seed)
        .into_par_iter()
        .map(|(epoch, name, number)| {
            let pair = reading.pair(epoch, name, number)?;
            Ok(reporter.step(1).map(|()| pair)?)
        })
        .collect()
}

/// Random rows: epoch, name of the shard, number of the row in it.
fn choose_rows(shards: &Shards, count: u64, seed: u64) -> Vec<(Epoch, &str, u64)> {
    let total = shards.rows();
    let count = count.min(total);
    let mut random = Stream::new(seed, 0, 0, Purpose::PairsToShow);
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < count {
        numbers.insert(if count == total { numbers.len() as u64 } else { random.below(total) });
    }
    let mut all = shards.iter();
    let (mut shard, mut first) = (all.next(), 0);
    let mut chosen = Vec::new();
    for number in numbers {
        while let Some((_, record)) = shard.filter(|(_, record)| first + record.rows <= number) {
            first += record.rows;
            shard = all.next();
        }
        chosen.extend(shard.map(|(epoch, record)| (epoch, record.name.as_str(), number - first)));
    }
    chosen
}

struct Reading<'a> {
    shards: &'a Shards,
    images: &'a Path,
    source_reader: Option<SourceReader>,
}

impl Reading<'_> {
    fn pair(&self, epoch: Epoch, name: &str, number: u64) -> Result<Pair> {
        let options = &self.shards.manifest.options;
        let path = self.shards.paths.epoch(epoch).join(name);
        let damaged = |reason: String| {
            let reason = format!("row {number}: {reason}; --verify shows all faults");
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
            shard: self.shards.name(epoch, name),
            number,
            class,
            views: [first.map_err(damaged)?, second.map_err(damaged)?],
            source: source.ok().and_then(shrink),
            row,
        })
    }

    /// The decoded source image of a row, if it has the size recorded.
    fn source(&self, row: &Row) -> std::result::Result<RgbImage, String> {
        let source_reader = self.source_reader.as_ref().ok_or("the source images are not there")?;
        let bytes = source_reader.read(row.image_id, &row.path)?;
        let source = decode(&bytes, &self.shards.manifest.options).map_err(|reason| reason.0)?;
        let ImageSize { width, height } = source.size;
        if (width, height) != (row.source_width, row.source_height) {
            return Err(format!("has {width}×{height} pixels now"));
        }
        Ok(source)
    }
}

fn to_image(size: u32, pixels: Vec<u8>) -> std::result::Result<image::RgbImage, String> {
    image::RgbImage::from_raw(size, size, pixels).ok_or_else(|| "a view of another size".to_owned())
}

fn decoded(image: &EncodedImage, size: u32) -> std::result::Result<image::RgbImage, String> {
    let mut pixels = vec![0; size as usize * size as usize * 3];
    decode_view(&image.bytes, size as usize, &mut pixels).map_err(|reason| reason.0)?;
    to_image(size, pixels)
}

fn rendered(
    source: &RgbImage,
    params: &ViewParams,
    options: &PrepOptions,
) -> std::result::Result<image::RgbImage, String> {
    if !params.crop.is_within(source.size.width as usize, source.size.height as usize) {
        return Err("its crop exceeds the source".to_owned());
    }
    let mut pixels = vec![[0; 3]; options.size as usize * options.size as usize];
    Renderer::default().render(source, params, RenderOptions::from(options), &mut pixels);
    to_image(options.size, pixels.into_flattened())
}

/// A thumbnail of a source image, so that a page can hold many.
fn shrink(source: RgbImage) -> Option<image::RgbImage> {
    let (width, height) = (source.size.width as u32, source.size.height as u32);
    let image = image::RgbImage::from_raw(width, height, source.pixels)?;
    let longest = width.max(height);
    if longest <= THUMBNAIL {
        return Some(image);
    }
    let side = |length: u32| (length * THUMBNAIL / longest).max(1);
    Some(thumbnail(&image, side(width), side(height)))
}
