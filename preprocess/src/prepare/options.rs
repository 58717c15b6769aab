//! The options of scrl-prep, and the run that they resolve to.

use std::ops::Range;
use std::path::PathBuf;

use clap::Args;
use scrl_cli::{World, WorldOptions, choices};
use scrl_schemas::{
    BlurKind, BoxSampler, ClassSource, Exif, IouFallback, PrepOptions, Preset, SourceOptions,
    ViewEncoding,
};

use super::step_options::StepArguments;
use super::values::{numbers, require};
use crate::Result;
use crate::images::PixelOptions;
use crate::views::method;

/// Every option of a run. What is missing is filled in by [`Options::resolve`].
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Planned epochs: the length of the trainer's schedule; more than before adds to a folder
    /// [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub epochs: Option<u32>,

    /// Write only epochs A to B−1; the others can be made later, or again, identical
    #[arg(long, value_name = "A..B", value_parser = parse_epochs)]
    pub only: Option<Range<u32>>,

    /// Seed of every random number [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    /// Defaults of the paper's text, of its authors' code, for images without an up (aerial), or for
    /// channels that are no colors (gray) [default: paper]
    #[arg(long, value_name = "NAME", value_parser = choices!(Preset))]
    pub preset: Option<Preset>,

    /// Encoding of the views: lossless, lossy, or no pixels at all [default: webp]
    #[arg(long, value_name = "KIND", value_parser = choices!(ViewEncoding))]
    pub views: Option<ViewEncoding>,

    /// Quality of --views jpeg, 1 to 100 [default: 95]
    #[arg(long, value_name = "Q")]
    pub quality: Option<u8>,

    /// Side of a view in pixels [default: 224]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,

    /// Largest number of matched boxes of a pair [default: 10]
    #[arg(long, value_name = "K")]
    pub boxes: Option<u32>,

    /// Shortest side of a box, in pixels of the view [default: 32]
    #[arg(long, value_name = "PIXELS")]
    pub min_box: Option<u32>,

    /// Largest IoU of two boxes of a pair, or none [default: 0.5]
    #[arg(long, value_name = "IOU", value_parser = parse_iou)]
    pub iou: Option<MaxIou>,

    /// Move each side of view 2's boxes by up to this fraction of their size; inf puts them anywhere
    /// in view 2, unmatched [default: 0]
    #[arg(long, value_name = "FRACTION")]
    pub box_jitter: Option<f32>,

    /// Smallest and largest fraction of the image that a view shows [default: 0.2,1]
    #[arg(long, value_name = "MIN,MAX", value_parser = numbers::<2>)]
    pub crop_scale: Option<[f32; 2]>,

    /// Kind of blur [default: the preset's]
    #[arg(long, value_name = "KIND", value_parser = choices!(BlurKind))]
    pub blur: Option<BlurKind>,

    /// Sampler of the boxes; points have no size, and neither --min-box nor --iou applies to them
    /// [default: the preset's]
    #[arg(long, value_name = "KIND", value_parser = choices!(BoxSampler))]
    pub box_sampler: Option<BoxSampler>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub steps: StepArguments,

    /// Whether EXIF orientation turns images upright first [default: ignore]
    #[arg(long, value_name = "HOW", value_parser = choices!(Exif))]
    pub exif: Option<Exif>,

    /// Keep what the decoder makes of images that break off or are corrupt
    #[arg(long)]
    pub lenient: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub pixels: PixelOptions,

    /// Column of Parquet files with the images, of a CSV with their paths [default: the first such]
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,

    /// Column of them with the classes, or none [default: label, labels, fine_label, class or cls]
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,

    /// Whether the first folder below IMAGES is an image's class [default: folder]
    #[arg(long, value_name = "FROM", value_parser = choices!(ClassSource))]
    pub classes: Option<ClassSource>,

    /// Images of a shard [default: 512; 16384 for recipes]
    #[arg(long, value_name = "N")]
    pub rows_per_shard: Option<u32>,

    /// Finished epochs on the disk at most: as scrl-train --consume consumes the oldest, they are
    /// removed and newer ones made
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,

    /// Threads that decode and render [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,

    /// Largest fraction of unreadable images; above it the exit code is 1 [default: 0.01]
    #[arg(long, value_name = "FRACTION")]
    pub max_bad: Option<f64>,

    /// First remove the shards that an earlier run wrote into the folder
    #[arg(long)]
    pub overwrite: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub world: WorldOptions,
}

/// The largest IoU of two boxes of a row; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxIou(pub Option<f32>);

fn parse_iou(text: &str) -> std::result::Result<MaxIou, String> {
    match text {
        "none" => Ok(MaxIou(None)),
        number => {
            let limit = number.parse().map_err(|_| "give a number from 0 to 1, or none".to_owned());
            limit.map(|limit| MaxIou(Some(limit)))
        }
    }
}

fn parse_epochs(text: &str) -> std::result::Result<Range<u32>, String> {
    text.split_once("..")
        .and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?))
        .filter(|range: &Range<u32>| !range.is_empty())
        .ok_or_else(|| "give the first epoch and the one after the last, such as 0..8".to_owned())
}

/// A run, resolved: every value filled in and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The images: a folder, an archive, a Parquet file or a list of paths.
    pub images: PathBuf,
    /// The shards folder, created if missing.
    pub shards: PathBuf,
    /// The seed of every random number.
    pub seed: u64,
    /// Planned epochs.
    pub epochs: u32,
    /// The epochs to write now, within the planned ones.
    pub only: Range<u32>,
    /// Everything that decides the content of the rows.
    pub options: PrepOptions,
    /// Largest number of finished epochs on the disk; more are made as training consumes them.
    pub keep: Option<u32>,
    /// This process among those that share the work.
    pub world: World,
    /// Threads that decode and render.
    pub threads: usize,
    /// Whether what an earlier run wrote is removed first.
    pub overwrite: bool,
    /// Largest fraction of unreadable images; above it the run has failed.
    pub max_bad: f64,
}

impl Options {
    /// Fills in defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for the first invalid value.
    pub fn resolve(self, images: PathBuf, shards: PathBuf, world: World) -> Result<Config> {
        let options = self.prep_options()?;
        let epochs = self.epochs.unwrap_or(1);
        let only = self.only.unwrap_or(0..epochs);
        let max_bad = self.max_bad.unwrap_or(method::MAX_BAD);
        require(only.end <= epochs, "only", "goes beyond --epochs; give a range within it")?;
        require((0.0..=1.0).contains(&max_bad), "max-bad", "give a fraction from 0 to 1")?;
        let alone = "one of several processes must not remove what the others write; remove the \
                     folder first";
        require(!self.overwrite || world == World::ALONE, "overwrite", alone)?;
        Ok(Config {
            images,
            shards,
            seed: self.seed.unwrap_or(0),
            epochs,
            only,
            options,
            keep: self.keep,
            world,
            threads: scrl_cli::threads(self.threads),
            overwrite: self.overwrite,
            max_bad,
        })
    }

    /// The options that decide the content of the rows, with the preset's choices and the defaults
    /// where nothing else is given.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for the first invalid value.
    pub fn prep_options(&self) -> Result<PrepOptions> {
        let preset = self.preset.unwrap_or(Preset::Paper);
        let (blur, box_sampler, iou_fallback) = match preset {
            Preset::Paper | Preset::Aerial | Preset::Gray => {
                (BlurKind::Gaussian, BoxSampler::Uniform, IouFallback::Fewer)
            }
            Preset::Reference => (BlurKind::Resize, BoxSampler::Grid, IouFallback::KeepLast),
        };
        let views = self.views.unwrap_or(ViewEncoding::Webp);
        let rows_per_shard = match views {
            ViewEncoding::Recipe => method::ROWS_PER_RECIPE_SHARD,
            ViewEncoding::Webp | ViewEncoding::Jpeg => method::ROWS_PER_SHARD,
        };
        let options = PrepOptions {
            preset,
            views,
            quality: self.quality.unwrap_or(method::JPEG_QUALITY),
            size: self.size.unwrap_or(method::VIEW_SIZE),
            boxes: self.boxes.unwrap_or(method::BOXES),
            min_box: self.min_box.unwrap_or(method::MIN_BOX),
            iou: self.iou.unwrap_or(MaxIou(Some(method::MAX_IOU))).0,
            iou_fallback,
            box_jitter: self.box_jitter.unwrap_or(0.0),
            crop_scale: self.crop_scale.unwrap_or(method::CROP_SCALE),
            blur: self.blur.unwrap_or(blur),
            box_sampler: self.box_sampler.unwrap_or(box_sampler),
            steps: self.steps.resolve(preset)?,
            exif: self.exif.unwrap_or(Exif::Ignore),
            lenient: self.lenient,
            levels: self.pixels.levels(),
            window: None,
            max_pixels: self.pixels.max_pixels(),
            sources: SourceOptions {
                image_column: self.image_column.clone(),
                label_column: self.label_column.clone(),
                classes: self.classes.unwrap_or_default(),
            },
            rows_per_shard: self.rows_per_shard.unwrap_or(rows_per_shard),
            epochs_per_pass: method::EPOCHS_PER_PASS,
        };
        check(&options)?;
        Ok(options)
    }
}

fn check(options: &PrepOptions) -> Result<()> {
    require((1..=100).contains(&options.quality), "quality", "give a number from 1 to 100")?;
    require((8..=4096).contains(&options.size), "size", "give a number of pixels from 8 to 4096")?;
    require(options.boxes <= 10_000, "boxes", "give at most 10000")?;
    let sides = 1..=options.size;
    let reason = "give a number of pixels from 1 to the size of a view";
    require(sides.contains(&options.min_box), "min-box", reason)?;
    let is_valid = options.iou.is_none_or(|iou| (0.0..=1.0).contains(&iou));
    require(is_valid, "iou", "give a number from 0 to 1, or none")?;
    let jitter = options.box_jitter;
    let is_valid = (0.0..=1000.0).contains(&jitter) || jitter == f32::INFINITY;
    require(is_valid, "box-jitter", "give a fraction of the box's size, such as 0.1, or inf")?;
    let moves = jitter == 0.0 || jitter.is_infinite() || options.box_sampler != BoxSampler::Point;
    require(moves, "box-jitter", "a point has no size to move by; give 0 or inf")?;
    let [low, high] = options.crop_scale;
    let reason = "give two fractions of the image's area in ascending order, such as 0.2,1";
    require(low > 0.0 && low <= high && high <= 1.0, "crop-scale", reason)?;
    require(options.rows_per_shard >= 1, "rows-per-shard", "give at least 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_overridden_by_options() {
        let given = Options {
            preset: Some(Preset::Reference),
            blur: Some(BlurKind::None),
            ..Options::default()
        };
        let options = given.prep_options().unwrap();
        assert_eq!((options.blur, options.box_sampler), (BlurKind::None, BoxSampler::Grid));
        assert_eq!(options.iou_fallback, IouFallback::KeepLast);
        assert_eq!(Options::default().prep_options().unwrap(), method::test_options());
        let recipe = Options { views: Some(ViewEncoding::Recipe), ..Options::default() };
        assert_eq!(recipe.prep_options().unwrap().rows_per_shard, 16_384);
    }

    #[test]
    fn invalid_values_name_their_option() {
        let two = World { rank: 1, size: 2 };
        for (world, given, option) in [
            (World::ALONE, Options { size: Some(0), ..Options::default() }, "--size"),
            (World::ALONE, Options { min_box: Some(225), ..Options::default() }, "--min-box"),
            (
                World::ALONE,
                Options { iou: Some(MaxIou(Some(f32::NAN))), ..Options::default() },
                "--iou",
            ),
            (
                World::ALONE,
                Options { crop_scale: Some([0.5, 0.2]), ..Options::default() },
                "--crop-scale",
            ),
            (
                World::ALONE,
                Options { box_jitter: Some(f32::NEG_INFINITY), ..Options::default() },
                "--box-jitter",
            ),
            (
                World::ALONE,
                Options {
                    box_sampler: Some(BoxSampler::Point),
                    box_jitter: Some(0.1),
                    ..Options::default()
                },
                "--box-jitter",
            ),
            (World::ALONE, Options { quality: Some(0), ..Options::default() }, "--quality"),
            (World::ALONE, Options { only: Some(0..2), ..Options::default() }, "--only"),
            (World::ALONE, Options { max_bad: Some(2.0), ..Options::default() }, "--max-bad"),
            (two, Options { overwrite: true, ..Options::default() }, "--overwrite"),
        ] {
            let message = given.resolve("i".into(), "s".into(), world).unwrap_err().to_string();
            assert!(message.starts_with(option), "{message}");
        }
    }
}
