//! The constants of the method, each with its source. The paper's probabilities and strengths of the
//! steps after the crop are in [`StepOptions::PAPER`](scrl_schemas::StepOptions::PAPER).
//!
//! "Paper" is Roh, Shin, Kim, Kim: Spatially Consistent Representation Learning (CVPR 2021); its
//! augmentations are those of BYOL (Grill et al. 2020, table 6). "Reference" is the authors'
//! published code, for what the paper does not give.

/// Range of the log-uniform aspect ratio of a crop, width over height (torchvision's
/// `RandomResizedCrop`).
pub(crate) const CROP_RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Draws of area and ratio before falling back to a center crop (torchvision's
/// `RandomResizedCrop`).
pub(crate) const CROP_TRIES: u32 = 10;
/// Smallest and largest fraction of the image's area in a crop, by default (paper).
pub(crate) const CROP_SCALE: [f32; 2] = [0.2, 1.0];
/// Side of a view in pixels, by default (paper).
pub(crate) const VIEW_SIZE: u32 = 224;

/// Probability that the image of an evaluation is mirrored left to right (paper).
pub const FLIP_PROBABILITY: f64 = 0.5;

/// Range of the Gaussian blur's σ, in pixels of the view (paper).
pub(crate) const BLUR_SIGMA: [f64; 2] = [0.1, 2.0];
/// Size of the Gaussian's kernel as a fraction of the view, rounded to an odd number (paper: 23 of
/// 224).
pub(crate) const BLUR_KERNEL_FRACTION: f64 = 0.1;
/// The factors of the resize blur (reference).
pub(crate) const RESIZE_BLUR_FACTORS: [f32; 3] = [1.1, 1.2, 1.5];

/// Weights of red, green and blue in the gray image (ITU-R BT.601).
pub(crate) const LUMA: [f32; 3] = [0.299, 0.587, 0.114];
/// Solarization inverts values of at least this.
pub(crate) const SOLARIZE_THRESHOLD: f32 = 0.5;

/// Largest number of matched boxes of a row, by default (paper: K).
pub(crate) const BOXES: u32 = 10;
/// Shortest side of a box in either view, in pixels, by default: one cell of a ResNet's last
/// feature map.
pub(crate) const MIN_BOX: u32 = 32;
/// Largest IoU between two boxes of a row, by default (paper).
pub(crate) const MAX_IOU: f32 = 0.5;
/// Candidates for one box before the row gets no more boxes (the paper repeats without end).
pub(crate) const BOX_TRIES: u32 = 50;
/// Grid of a box's coordinates in a view, in pixels: a thousandth of a cell of a ResNet's last
/// feature map.
pub(crate) const VIEW_GRID: f64 = 1.0 / 32.0;
/// Largest grid of a box's coordinates in the source, in pixels of the view that magnifies it most.
pub(crate) const SOURCE_GRID: f64 = 1.0 / 2.0;
/// Factors of color jitter are multiples of this, which is finer than a byte of a view can show.
pub(crate) const JITTER_GRID: f64 = 1.0 / 1024.0;
/// Hue shifts are multiples of this, in turns.
pub(crate) const HUE_GRID: f64 = 1.0 / 4096.0;
/// σ of the Gaussian blur is a multiple of this, in pixels of the view.
pub(crate) const SIGMA_GRID: f64 = 1.0 / 256.0;

/// Quality of JPEG views, by default.
pub(crate) const JPEG_QUALITY: u8 = 95;

/// Rows of a shard by default, with pixels: at about 160 kB a row and eight epochs a pass, 0.7 GB.
pub(crate) const ROWS_PER_SHARD: u32 = 512;
/// Rows of a shard by default, for recipes.
pub(crate) const ROWS_PER_RECIPE_SHARD: u32 = 16_384;
/// Consecutive epochs made in one pass over the sources. A constant, so that the pass of an epoch
/// follows from its number alone.
pub(crate) const EPOCHS_PER_PASS: u32 = 8;
/// Largest fraction of unreadable images, by default.
pub(crate) const MAX_BAD: f64 = 0.01;

/// The options of the paper's preset, for tests.
#[cfg(test)]
pub(crate) fn test_options() -> scrl_schemas::PrepOptions {
    use scrl_schemas::{
        BlurKind, BoxSampler, Exif, IouFallback, Levels, PrepOptions, Preset, SourceOptions,
        StepOptions, ViewEncoding,
    };
    PrepOptions {
        preset: Preset::Paper,
        views: ViewEncoding::Webp,
        quality: JPEG_QUALITY,
        size: VIEW_SIZE,
        boxes: BOXES,
        min_box: MIN_BOX,
        iou: Some(MAX_IOU),
        iou_fallback: IouFallback::Fewer,
        box_jitter: 0.0,
        crop_scale: CROP_SCALE,
        blur: BlurKind::Gaussian,
        box_sampler: BoxSampler::Uniform,
        steps: StepOptions::PAPER,
        exif: Exif::Ignore,
        lenient: false,
        levels: Levels::Full,
        window: None,
        max_pixels: None,
        sources: SourceOptions::default(),
        rows_per_shard: ROWS_PER_SHARD,
        epochs_per_pass: EPOCHS_PER_PASS,
    }
}
