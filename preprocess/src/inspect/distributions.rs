//! The distributions of crops, boxes and augmentations over all rows, found and expected.

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::{
    Box2, ColorJitter, Epoch, MatchedBox, PrepOptions, Row, ShardReader, ViewParams,
};
use serde::Serialize;

use super::histogram::Histogram;
use super::shards::Shards;
use crate::Result;
use crate::images::ImageSize;
use crate::views::method::{BLUR_SIGMA, CROP_RATIO};
use crate::views::params::{factors, hue_shifts};
use crate::views::recipe::draw_recipe;

/// Bins of each histogram.
const BINS: usize = 40;
/// Beyond the limits of a histogram, where these are equal.
const LEAST_SPARE: f64 = 1e-3;
/// Rows between two checks for a stop.
const BLOCK: u64 = 4096;
/// Recipes drawn for the expected distributions, which are then accurate to about one percent.
const EXPECTED_DRAWS: u32 = 30_000;

/// The number of views with each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Steps {
    /// Mirrored left to right.
    pub flip: u64,
    /// Mirrored top to bottom.
    pub vertical_flip: u64,
    /// Turned by one, two or three quarters.
    pub turns: u64,
    /// Color jitter.
    pub jitter: u64,
    /// Turned gray.
    pub grayscale: u64,
    /// Blurred, with either blur.
    pub blur: u64,
    /// Solarized.
    pub solarize: u64,
}

/// The distributions of one view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ViewDistributions {
    /// The number of views with each step.
    pub steps: Steps,
    /// The crop's fraction of the source's area.
    pub crop_area: Histogram,
    /// The base-2 logarithm of the crop's aspect ratio, width over height.
    pub crop_aspect_log2: Histogram,
    /// Square root of a matched box's area, in pixels of the view.
    pub box_side: Histogram,
}

/// The strengths of color jitter, of both views.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct JitterDistributions {
    /// Factors.
    pub brightness: Histogram,
    /// Factors.
    pub contrast: Histogram,
    /// Factors.
    pub saturation: Histogram,
    /// Shifts, in turns.
    pub hue: Histogram,
}

/// The distributions of all rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distributions {
    /// The number of rows.
    pub(crate) rows: u64,
    /// The number of matched boxes.
    pub(crate) boxes: u64,
    /// The number of rows with 0, 1, 2, … boxes.
    pub(crate) rows_by_boxes: Vec<u64>,
    /// View 1 and view 2.
    pub(crate) views: [ViewDistributions; 2],
    /// IoU of the two crops in the source.
    pub(crate) crop_iou: Histogram,
    /// IoU of every two boxes of a row, in the source.
    pub(crate) box_iou: Histogram,
    /// Strengths of the jitter.
    pub(crate) jitter: JitterDistributions,
    /// σ of the blur in pixels of the view, or the factor of the resize blur, of both views.
    pub(crate) blur: Histogram,
}

impl Distributions {
    /// No rows yet.
    pub(crate) fn new(options: &PrepOptions) -> Self {
        // The limits are inside the bins, so that values on a limit are not shown beyond it.
        let around = |[low, high]: [f64; 2]| {
            let spare = ((high - low) / BINS as f64 * 2.0).max(LEAST_SPARE);
            Histogram::new(low - spare, high + spare, BINS + 4)
        };
        let view = ViewDistributions {
            steps: Steps::default(),
            crop_area: Histogram::new(0.0, 1.0, BINS),
            crop_aspect_log2: around(CROP_RATIO.map(f64::log2)),
            box_side: Histogram::new(0.0, f64::from(options.size), BINS),
        };
        let [_, brightness, contrast, saturation, hue] = options.steps.jitter;
        Self {
            rows: 0,
            boxes: 0,
            rows_by_boxes: vec![0; options.boxes as usize + 1],
            views: [view.clone(), view],
            crop_iou: Histogram::new(0.0, 1.0, BINS),
            box_iou: Histogram::new(0.0, 1.0, BINS),
            jitter: JitterDistributions {
                brightness: around(factors(brightness)),
                contrast: around(factors(contrast)),
                saturation: around(factors(saturation)),
                hue: around(hue_shifts(hue)),
            },
            blur: around(BLUR_SIGMA),
        }
    }

    /// Reads every row of the finished epochs, without pixels, on all threads of the current pool.
    /// The reporter receives the number of rows.
    ///
    /// # Errors
    /// Where a shard cannot be read, or after a stop.
    pub fn of(shards: &Shards, reporter: &Reporter) -> Result<Self> {
        let new = || Self::new(&shards.manifest.options);
        let all: Vec<_> = shards.iter().collect();
        let read = |mut all: Self, &(epoch, shard): &(Epoch, &scrl_schemas::ShardRecord)| {
            let mut unreported = 0;
            for row in
                ShardReader::open_without_pixels(&shards.paths.epoch(epoch).join(&shard.name))?
            {
                all.add_row(&row?);
                unreported += 1;
                if unreported == BLOCK {
                    reporter.step(std::mem::take(&mut unreported))?;
                }
            }
            Ok(reporter.step(unreported).map(|()| all)?)
        };
        all.par_iter().try_fold(new, read).try_reduce(new, |a, b| Ok(a.merged(b)))
    }

    /// The distributions to expect for these options and image sizes: those of recipes drawn with
    /// another seed.
    pub fn expected(shards: &Shards) -> Self {
        let options = &shards.manifest.options;
        let mut all = Self::new(options);
        let sizes: Vec<ImageSize> = shards
            .sources
            .iter()
            .filter(|source| source.error.is_none())
            .map(|source| ImageSize { width: source.width, height: source.height })
            .collect();
        if sizes.is_empty() {
            return all;
        }
        let seed = !shards.manifest.seed;
        // Evenly over all images.
        let size = |draw: u32| {
            sizes[(u64::from(draw) * sizes.len() as u64 / u64::from(EXPECTED_DRAWS)) as usize]
        };
        let recipes: Vec<_> = (0..EXPECTED_DRAWS)
            .into_par_iter()
            .map(|draw| (size(draw), draw_recipe(seed, Epoch(0), draw, size(draw), options)))
            .collect();
        for (size, recipe) in recipes {
            all.add(size, [&recipe.view1, &recipe.view2], &recipe.boxes);
        }
        all
    }

    fn add_row(&mut self, row: &Row) {
        let size = ImageSize { width: row.source_width, height: row.source_height };
        self.add(size, [&row.view1.params, &row.view2.params], &row.boxes);
    }

    fn add(&mut self, source: ImageSize, views: [&ViewParams; 2], boxes: &[MatchedBox]) {
        self.rows += 1;
        self.boxes += boxes.len() as u64;
        if self.rows_by_boxes.len() <= boxes.len() {
            self.rows_by_boxes.resize(boxes.len() + 1, 0);
        }
        self.rows_by_boxes[boxes.len()] += 1;
        for (view, params) in self.views.iter_mut().zip(views) {
            view.add(source, params);
            params.jitter.iter().for_each(|jitter| self.jitter.add(jitter));
            params.blur.iter().for_each(|&blur| self.blur.add(f64::from(blur)));
        }
        self.crop_iou.add(iou(crop_box(views[0]), crop_box(views[1])));
        for (index, matched) in boxes.iter().enumerate() {
            self.views[0].box_side.add(area(matched.view1).sqrt());
            self.views[1].box_side.add(area(matched.view2).sqrt());
            for other in &boxes[..index] {
                self.box_iou.add(iou(matched.source, other.source));
            }
        }
    }

    fn merged(mut self, other: Self) -> Self {
        self.rows += other.rows;
        self.boxes += other.boxes;
        if self.rows_by_boxes.len() < other.rows_by_boxes.len() {
            self.rows_by_boxes.resize(other.rows_by_boxes.len(), 0);
        }
        self.rows_by_boxes
            .iter_mut()
            .zip(&other.rows_by_boxes)
            .for_each(|(mine, theirs)| *mine += theirs);
        self.views.iter_mut().zip(&other.views).for_each(|(mine, theirs)| mine.merge(theirs));
        self.crop_iou.merge(&other.crop_iou);
        self.box_iou.merge(&other.box_iou);
        self.jitter.merge(&other.jitter);
        self.blur.merge(&other.blur);
        self
    }

    /// The number of rows with fewer boxes than this.
    pub(crate) fn rows_below(&self, boxes: u32) -> u64 {
        self.rows_by_boxes.iter().take(boxes as usize).sum()
    }
}

impl ViewDistributions {
    fn add(&mut self, source: ImageSize, params: &ViewParams) {
        let steps = &mut self.steps;
        steps.flip += u64::from(params.flip);
        steps.vertical_flip += u64::from(params.vertical_flip);
        steps.turns += u64::from(params.turns != 0);
        steps.jitter += u64::from(params.jitter.is_some());
        steps.grayscale += u64::from(params.grayscale);
        steps.blur += u64::from(params.blur.is_some());
        steps.solarize += u64::from(params.solarize);
        let (width, height) = (f64::from(params.crop.width), f64::from(params.crop.height));
        self.crop_area.add(width * height / (f64::from(source.width) * f64::from(source.height)));
        self.crop_aspect_log2.add((width / height).log2());
    }

    fn merge(&mut self, other: &Self) {
        let (steps, theirs) = (&mut self.steps, &other.steps);
        steps.flip += theirs.flip;
        steps.vertical_flip += theirs.vertical_flip;
        steps.turns += theirs.turns;
        steps.jitter += theirs.jitter;
        steps.grayscale += theirs.grayscale;
        steps.blur += theirs.blur;
        steps.solarize += theirs.solarize;
        self.crop_area.merge(&other.crop_area);
        self.crop_aspect_log2.merge(&other.crop_aspect_log2);
        self.box_side.merge(&other.box_side);
    }
}

impl JitterDistributions {
    fn add(&mut self, jitter: &ColorJitter) {
        self.brightness.add(f64::from(jitter.brightness));
        self.contrast.add(f64::from(jitter.contrast));
        self.saturation.add(f64::from(jitter.saturation));
        self.hue.add(f64::from(jitter.hue));
    }

    fn merge(&mut self, other: &Self) {
        self.brightness.merge(&other.brightness);
        self.contrast.merge(&other.contrast);
        self.saturation.merge(&other.saturation);
        self.hue.merge(&other.hue);
    }
}

fn crop_box(params: &ViewParams) -> Box2 {
    let crop = params.crop;
    let corner = |first: i32, length: i32| (first + length) as f32;
    Box2 {
        x0: crop.x as f32,
        y0: crop.y as f32,
        x1: corner(crop.x, crop.width),
        y1: corner(crop.y, crop.height),
    }
}

fn area(of: Box2) -> f64 {
    f64::from(of.x1 - of.x0) * f64::from(of.y1 - of.y0)
}

fn iou(a: Box2, b: Box2) -> f64 {
    let width = f64::from((a.x1.min(b.x1) - a.x0.max(b.x0)).max(0.0));
    let height = f64::from((a.y1.min(b.y1) - a.y0.max(b.y0)).max(0.0));
    let shared = width * height;
    let either = area(a) + area(b) - shared;
    // Points have no area.
    if either > 0.0 { shared / either } else { 0.0 }
}
