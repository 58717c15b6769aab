//! Matched boxes: regions of the source that both views show (section 3.2 of the paper).
//!
//! Boxes are drawn inside the intersection IS of the two crops, in a frame that is scaled like the
//! view that magnifies IS least, so that a box of `min_box` pixels there has at least that side in
//! both views. Then each is mapped to the source and to the views.
//!
//! Coordinates are put on a grid, as boxes would otherwise be most of a recipe shard: in the source
//! a box is widened to a grid of at most half a pixel of the views, and its mapping to a view is
//! rounded to [`VIEW_GRID`]. So a box in a view is within half of that of the exact mapping.
//!
//! A point, which is a box without size, is drawn anywhere in IS; neither its size nor what it
//! overlaps is looked at.

use scrl_schemas::{
    Box2, BoxSampler, Crop, IouFallback, MatchedBox, Orientation, PrepOptions, ViewParams,
};

use super::method::{BOX_TRIES, SOURCE_GRID, VIEW_GRID};
use super::rng::Stream;

/// A box in double precision, in any coordinate frame.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rect {
    x0: f64,
    y0: f64,
    x1: f64,
    y1: f64,
}

impl Rect {
    fn of_crop(crop: Crop) -> Self {
        let (x, y) = (f64::from(crop.x), f64::from(crop.y));
        Self { x0: x, y0: y, x1: x + f64::from(crop.width), y1: y + f64::from(crop.height) }
    }

    fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        (both.width() > 0.0 && both.height() > 0.0).then_some(both)
    }

    /// Intersection over union.
    fn iou(&self, other: &Self) -> f64 {
        let shared = self.intersection(other).map_or(0.0, |both| both.width() * both.height());
        shared / (self.width() * self.height() + other.width() * other.height() - shared)
    }

    /// The smallest rectangle on a grid that contains this one.
    fn widened(&self, grid: f64) -> Self {
        let (down, up) =
            (|value: f64| (value / grid).floor() * grid, |value: f64| (value / grid).ceil() * grid);
        Self { x0: down(self.x0), y0: down(self.y0), x1: up(self.x1), y1: up(self.y1) }
    }

    /// The nearest rectangle on a grid.
    fn rounded(&self, grid: f64) -> Self {
        let round = |value: f64| (value / grid).round_ties_even() * grid;
        Self { x0: round(self.x0), y0: round(self.y0), x1: round(self.x1), y1: round(self.y1) }
    }

    fn to_box2(self) -> Box2 {
        Box2 { x0: self.x0 as f32, y0: self.y0 as f32, x1: self.x1 as f32, y1: self.y1 as f32 }
    }
}

/// The frame in which boxes are drawn: IS scaled as in the view that magnifies it least.
struct Frame {
    /// IS, in pixels of the source.
    shared: Rect,
    /// Pixels of the frame for each pixel of the source, horizontally and vertically.
    scale: [f64; 2],
    /// Ŵ and Ĥ, in pixels of the frame.
    size: [f64; 2],
    /// Grid of the coordinates in the source, a power of two of at most one pixel.
    grid: f64,
}

/// A box in the source and in both views, its coordinates on their grids.
#[derive(Clone, Copy, Debug)]
struct Placed {
    source: Rect,
    views: [Rect; 2],
}

impl Placed {
    fn of(source: Rect, views: [&ViewParams; 2], view_size: f64) -> Self {
        let views = views.map(|view| map_to_view(source, view, view_size).rounded(VIEW_GRID));
        Self { source, views }
    }

    /// Whether both sides of the box have at least this length in both views.
    fn has_sides_of(&self, min_box: f64) -> bool {
        self.views.iter().all(|view| view.width() >= min_box && view.height() >= min_box)
    }

    /// Whether the IoU with another box is within the limit, in the source and in both views.
    fn is_apart_from(&self, other: &Self, limit: f64) -> bool {
        self.source.iou(&other.source) <= limit
            && self.views.iter().zip(&other.views).all(|(a, b)| a.iou(b) <= limit)
    }
}

impl Frame {
    fn new(crops: [Crop; 2], view_size: f64) -> Option<Self> {
        let [first, second] = crops.map(Rect::of_crop);
        let shared = first.intersection(&second)?;
        let scale = [
            view_size / first.width().max(second.width()),
            view_size / first.height().max(second.height()),
        ];
        let shortest = [first, second]
            .iter()
            .map(|crop| crop.width().min(crop.height()))
            .fold(f64::MAX, f64::min);
        let limit = SOURCE_GRID * shortest / view_size;
        // At most one pixel, so that the sides of IS are on the grid.
        let mut grid = 1.0;
        while grid > limit {
            grid /= 2.0;
        }
        Some(Self {
            shared,
            scale,
            size: [shared.width() * scale[0], shared.height() * scale[1]],
            grid,
        })
    }

    /// Maps a box from the frame to the source and to the views.
    fn place(&self, rect: Rect, views: [&ViewParams; 2], view_size: f64) -> Placed {
        let source = self.to_source(rect).widened(self.grid);
        // A rounding error in the last digit may have widened the box by a whole step.
        let source = source.intersection(&self.shared).unwrap_or(self.shared);
        Placed::of(source, views, view_size)
    }

    /// Maps a point likewise. Rounded, it is within IS, whose sides are on the grid.
    fn place_point(&self, [x, y]: [f64; 2], views: [&ViewParams; 2], view_size: f64) -> Placed {
        let source = self.to_source(Rect { x0: x, y0: y, x1: x, y1: y }).rounded(self.grid);
        Placed::of(source, views, view_size)
    }

    fn to_source(&self, rect: Rect) -> Rect {
        Rect {
            x0: self.shared.x0 + rect.x0 / self.scale[0],
            y0: self.shared.y0 + rect.y0 / self.scale[1],
            x1: self.shared.x0 + rect.x1 / self.scale[0],
            y1: self.shared.y0 + rect.y1 / self.scale[1],
        }
    }
}

/// Draws the boxes of a row, at most `options.boxes`; none if the crops hardly overlap.
pub(super) fn draw_boxes(
    random: &mut Stream,
    view1: &ViewParams,
    view2: &ViewParams,
    options: &PrepOptions,
) -> Vec<MatchedBox> {
    let view_size = f64::from(options.size);
    let min_box = f64::from(options.min_box);
    let Some(frame) = Frame::new([view1.crop, view2.crop], view_size) else { return Vec::new() };
    let are_points = options.box_sampler == BoxSampler::Point;
    if !are_points && frame.size.iter().any(|&side| side < min_box) {
        return Vec::new();
    }
    let mut accepted: Vec<Placed> = Vec::with_capacity(options.boxes as usize);
    while accepted.len() < options.boxes as usize {
        match draw_box(random, &frame, [view1, view2], &accepted, options) {
            Some(placed) => accepted.push(placed),
            None => break,
        }
    }
    accepted
        .into_iter()
        .map(|Placed { source, views: [first, mut second] }| {
            if options.box_jitter.is_infinite() {
                second = draw_anywhere(random, second, view_size);
            } else if options.box_jitter > 0.0 {
                let fraction = f64::from(options.box_jitter);
                second = jitter_box(random, second, fraction, view_size).rounded(VIEW_GRID);
            }
            MatchedBox { source: source.to_box2(), view1: first.to_box2(), view2: second.to_box2() }
        })
        .collect()
}

/// Draws another box; `None` if every candidate overlaps too much and the row gets fewer boxes.
fn draw_box(
    random: &mut Stream,
    frame: &Frame,
    views: [&ViewParams; 2],
    accepted: &[Placed],
    options: &PrepOptions,
) -> Option<Placed> {
    let view_size = f64::from(options.size);
    let mut last = None;
    for _ in 0..BOX_TRIES {
        let candidate = match options.box_sampler {
            BoxSampler::Uniform => draw_uniform(random, frame.size, f64::from(options.min_box)),
            BoxSampler::Grid => draw_in_grid(random, frame.size, options.min_box.max(1)),
            BoxSampler::Point => {
                let point = frame.size.map(|side| random.uniform(0.0, side));
                return Some(frame.place_point(point, views, view_size));
            }
        };
        let candidate = frame.place(candidate, views, view_size);
        // Rounding may have made the smallest boxes too small.
        if !candidate.has_sides_of(f64::from(options.min_box)) {
            continue;
        }
        let Some(limit) = options.iou else { return Some(candidate) };
        if accepted.iter().all(|other| candidate.is_apart_from(other, f64::from(limit))) {
            return Some(candidate);
        }
        last = Some(candidate);
    }
    match options.iou_fallback {
        IouFallback::Fewer => None,
        IouFallback::KeepLast => last,
    }
}

/// Eq. 1: w ~ U(min, Ŵ), h ~ U(min, Ĥ), x ~ U(0, Ŵ − w), y ~ U(0, Ĥ − h).
fn draw_uniform(random: &mut Stream, [width, height]: [f64; 2], min_box: f64) -> Rect {
    let w = random.uniform(min_box, width);
    let h = random.uniform(min_box, height);
    let x = random.uniform(0.0, width - w);
    let y = random.uniform(0.0, height - h);
    Rect { x0: x, y0: y, x1: x + w, y1: y + h }
}

/// As in the authors' code: a box of whole pixels in a random cell of a random grid, whose cells
/// have sides of at least `min_box`.
fn draw_in_grid(random: &mut Stream, size: [f64; 2], min_box: u32) -> Rect {
    let min_box = i64::from(min_box);
    let divisions = size.map(|side| 1 + random.below((side as i64 / min_box) as u64) as i64);
    let mut axis = |side: f64, divisions: i64| {
        let cell = side / divisions as f64;
        let corner = cell * random.below(divisions as u64) as f64;
        let whole = cell as i64;
        let length = min_box + random.below((whole - min_box + 1) as u64) as i64;
        let offset = random.below((whole - length + 1) as u64) as i64;
        let start = corner + offset as f64;
        (start, start + length as f64)
    };
    let (x0, x1) = axis(size[0], divisions[0]);
    let (y0, y1) = axis(size[1], divisions[1]);
    Rect { x0, y0, x1, y1 }
}

/// Maps pixels of the source to pixels of a view: offset, scale, flips and turns, clip to [0,
/// `view_size`].
fn map_to_view(source: Rect, view: &ViewParams, view_size: f64) -> Rect {
    let crop = Rect::of_crop(view.crop);
    let x = |x: f64| (x - crop.x0) * view_size / crop.width();
    let y = |y: f64| (y - crop.y0) * view_size / crop.height();
    let mirror = |mirrors: bool, low: f64, high: f64| {
        if mirrors { (view_size - high, view_size - low) } else { (low, high) }
    };
    let Orientation { mirrors_x, mirrors_y, transposes } = view.orientation();
    let (x0, x1) = mirror(mirrors_x, x(source.x0), x(source.x1));
    let (y0, y1) = mirror(mirrors_y, y(source.y0), y(source.y1));
    let rect = Rect { x0, y0, x1, y1 };
    let turned = Rect { x0: y0, y0: x0, x1: y1, y1: x1 };
    clip(if transposes { turned } else { rect }, view_size)
}

fn clip(rect: Rect, view_size: f64) -> Rect {
    let inside = |value: f64| value.clamp(0.0, view_size);
    Rect { x0: inside(rect.x0), y0: inside(rect.y0), x1: inside(rect.x1), y1: inside(rect.y1) }
}

/// Moves each side by up to ± `fraction` of the box's own size (Table 7). Sides that cross are
/// swapped.
fn jitter_box(random: &mut Stream, rect: Rect, fraction: f64, view_size: f64) -> Rect {
    let (width, height) = (rect.width(), rect.height());
    let mut moved = |value: f64, size: f64| value + random.uniform(-fraction, fraction) * size;
    let (x0, y0) = (moved(rect.x0, width), moved(rect.y0, height));
    let (x1, y1) = (moved(rect.x1, width), moved(rect.y1, height));
    clip(Rect { x0: x0.min(x1), y0: y0.min(y1), x1: x0.max(x1), y1: y0.max(y1) }, view_size)
}

/// A box of the same size anywhere in the view (the infinite jitter of Table 7).
fn draw_anywhere(random: &mut Stream, rect: Rect, view_size: f64) -> Rect {
    // On the grid, as its size is, which rounding then does not change.
    let mut start = |length: f64| {
        (random.uniform(0.0, view_size - length) / VIEW_GRID).round_ties_even() * VIEW_GRID
    };
    let (x0, y0) = (start(rect.width()), start(rect.height()));
    Rect { x0, y0, x1: x0 + rect.width(), y1: y0 + rect.height() }
}

#[cfg(test)]
#[path = "boxes_tests.rs"]
mod tests;
