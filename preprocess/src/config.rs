//! What a run is asked to do, resolved: presets and defaults filled in, every value checked.

use std::ops::Range;
use std::path::PathBuf;

use scrl_schemas::{BlurKind, BoxSampler, Encoding, Exif, IouFallback, PrepOptions, Preset};

use crate::method;
use crate::{Error, Result};

/// A process's share of the work: every `world`th chunk, from chunk `rank` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The process's number, from 0.
    pub rank: u32,
    /// How many processes there are, at least 1.
    pub world: u32,
}

impl Share {
    /// All of the work.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };

    /// Whether a chunk is this process's to make. Chunks are counted over all passes, so that few chunks a pass are
    /// spread over many processes as well.
    pub fn has(&self, pass: u32, chunk: u32, chunks_per_pass: u32) -> bool {
        let number = u64::from(pass) * u64::from(chunks_per_pass) + u64::from(chunk);
        number % u64::from(self.world) == u64::from(self.rank)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world)
    }
}

/// Everything a run needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of images.
    pub images: PathBuf,
    /// The folder of shards, made where it is missing.
    pub shards: PathBuf,
    /// The seed of every random number.
    pub seed: u64,
    /// Planned epochs.
    pub epochs: u32,
    /// The epochs to write now, within the planned ones.
    pub only: Range<u32>,
    /// Everything that decides what the rows hold.
    pub options: PrepOptions,
    /// Finished epochs that may lie on the disk at a time; more are made as training consumes them.
    pub keep: Option<u32>,
    /// Which share of the work is this process's.
    pub share: Share,
    /// Threads that decode and render.
    pub threads: usize,
    /// Whether what an earlier run wrote is removed first.
    pub overwrite: bool,
    /// Share of unreadable images above which the run counts as failed.
    pub max_bad: f64,
}

/// The options that override a preset; `None` keeps the preset's choice.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// How the pixels are stored.
    pub views: Option<Encoding>,
    /// JPEG quality.
    pub quality: Option<u8>,
    /// Side of a view in pixels.
    pub size: Option<u32>,
    /// Matched boxes a row at most.
    pub boxes: Option<u32>,
    /// Shortest side of a box in pixels of the view.
    pub min_box: Option<u32>,
    /// Largest IoU of two boxes of a row; `Some(None)` for no rule.
    pub iou: Option<Option<f32>>,
    /// Box jitter of view 2, as a share of the box's size.
    pub box_jitter: Option<f32>,
    /// Smallest and largest share of the image that a crop takes.
    pub crop_scale: Option<[f32; 2]>,
    /// Which blur.
    pub blur: Option<BlurKind>,
    /// How boxes are drawn.
    pub box_sampler: Option<BoxSampler>,
    /// Whether EXIF orientation turns the source first.
    pub exif: Option<Exif>,
    /// Rows a part.
    pub rows_per_shard: Option<u32>,
}

/// Fills a preset's choices and the defaults into what was not given, and checks every value.
///
/// # Errors
/// [`Error::Option`] for the first value without sense.
pub fn resolve(preset: Preset, given: &Overrides) -> Result<PrepOptions> {
    let (blur, box_sampler, iou_fallback) = match preset {
        Preset::Paper => (BlurKind::Gaussian, BoxSampler::Uniform, IouFallback::Fewer),
        Preset::Reference => (BlurKind::Resize, BoxSampler::Grid, IouFallback::KeepLast),
    };
    let views = given.views.unwrap_or(Encoding::Webp);
    let rows_per_shard = match views {
        Encoding::Recipe => method::ROWS_PER_RECIPE_SHARD,
        Encoding::Webp | Encoding::Jpeg => method::ROWS_PER_SHARD,
    };
    let options = PrepOptions {
        preset,
        views,
        quality: given.quality.unwrap_or(method::JPEG_QUALITY),
        size: given.size.unwrap_or(method::VIEW_SIZE),
        boxes: given.boxes.unwrap_or(method::BOXES),
        min_box: given.min_box.unwrap_or(method::MIN_BOX),
        iou: given.iou.unwrap_or(Some(method::MAX_IOU)),
        iou_fallback,
        box_jitter: given.box_jitter.unwrap_or(0.0),
        crop_scale: given.crop_scale.unwrap_or(method::CROP_SCALE),
        blur: given.blur.unwrap_or(blur),
        box_sampler: given.box_sampler.unwrap_or(box_sampler),
        exif: given.exif.unwrap_or(Exif::Ignore),
        rows_per_shard: given.rows_per_shard.unwrap_or(rows_per_shard),
        epochs_per_pass: method::EPOCHS_PER_PASS,
    };
    check(&options)?;
    Ok(options)
}

fn check(options: &PrepOptions) -> Result<()> {
    let require = |holds: bool, option: &'static str, reason: &str| {
        if holds { Ok(()) } else { Err(Error::Option { option, reason: reason.to_owned() }) }
    };
    require((1..=100).contains(&options.quality), "quality", "give a number from 1 to 100")?;
    require((8..=4096).contains(&options.size), "size", "give a number of pixels from 8 to 4096")?;
    require(options.boxes <= 10_000, "boxes", "give at most 10000")?;
    require(
        (1..=options.size).contains(&options.min_box),
        "min-box",
        "give a number of pixels from 1 to the size of a view",
    )?;
    require(
        options.iou.is_none_or(|iou| (0.0..=1.0).contains(&iou)),
        "iou",
        "give a number from 0 to 1, or none",
    )?;
    require(
        (0.0..=1000.0).contains(&options.box_jitter),
        "box-jitter",
        "give a share of the box's size, such as 0.1",
    )?;
    let [low, high] = options.crop_scale;
    require(
        low > 0.0 && low <= high && high <= 1.0,
        "crop-scale",
        "give two shares of the image's area in rising order, such as 0.2,1",
    )?;
    require(options.rows_per_shard >= 1, "rows-per-shard", "give at least 1")
}

/// The options of the paper's preset, for tests.
#[cfg(test)]
pub(crate) fn test_options() -> PrepOptions {
    resolve(Preset::Paper, &Overrides::default()).expect("the defaults are sound")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_gives_way_to_what_was_asked() {
        let given = Overrides { blur: Some(BlurKind::None), ..Overrides::default() };
        let options = resolve(Preset::Reference, &given).unwrap();
        assert_eq!((options.blur, options.box_sampler), (BlurKind::None, BoxSampler::Grid));
        assert_eq!(options.iou_fallback, IouFallback::KeepLast);
        assert_eq!(test_options().rows_per_shard, 512);
        let recipe = Overrides { views: Some(Encoding::Recipe), ..Overrides::default() };
        assert_eq!(resolve(Preset::Paper, &recipe).unwrap().rows_per_shard, 16_384);
    }

    #[test]
    fn values_without_sense_name_their_option() {
        for (given, option) in [
            (Overrides { size: Some(0), ..Overrides::default() }, "--size"),
            (Overrides { min_box: Some(225), ..Overrides::default() }, "--min-box"),
            (Overrides { iou: Some(Some(f32::NAN)), ..Overrides::default() }, "--iou"),
            (Overrides { crop_scale: Some([0.5, 0.2]), ..Overrides::default() }, "--crop-scale"),
            (Overrides { quality: Some(0), ..Overrides::default() }, "--quality"),
        ] {
            let message = resolve(Preset::Paper, &given).unwrap_err().to_string();
            assert!(message.starts_with(option), "{message}");
        }
    }
}
