//! A scene: objects placed on a background, and the visible pixels of each.

use image::RgbImage;
use scrl_preprocess::views::rng::Stream;

use crate::background;
use crate::canvas::{Canvas, Size};
use crate::objects::Object;

/// Smallest and largest number of objects of a scene.
pub const OBJECTS: [u64; 2] = [2, 8];
/// Sizes of objects in pixels; small ones are more frequent, as in photos.
const OBJECT_PIXELS: [f64; 2] = [24.0, 140.0];
/// Largest size of an object as a fraction of the scene's shorter side.
const LARGEST_FRACTION: f64 = 0.62;
/// Smallest visible fraction of an object's area.
const VISIBLE_FRACTION: f64 = 0.7;
/// Positions tried for an object before it is left out.
const POSITIONS: u32 = 40;

/// The visible pixels of an object.
#[derive(Clone, Copy, Debug)]
pub struct Visible {
    /// Its position in [`crate::objects::CLASSES`].
    pub class: usize,
    /// x, y, width, height in pixels.
    pub bbox: [u32; 4],
    /// In pixels.
    pub area: u32,
}

/// A drawn scene.
pub struct Scene {
    canvas: Canvas,
    /// Every object, the furthest first.
    pub objects: Vec<Visible>,
}

impl Scene {
    /// Draws a scene of `fewest` to `most` objects; with `hues` each in the hue of its class.
    pub fn draw(size: Size, [fewest, most]: [u64; 2], hues: bool, random: &mut Stream) -> Self {
        let mut canvas = background::draw(size, random);
        let count = fewest + random.below(most - fewest + 1);
        let mut placed: Vec<Object> = Vec::new();
        let mut owners = Owners::new(size);
        let largest =
            OBJECT_PIXELS[1].min(LARGEST_FRACTION * f64::from(size.width.min(size.height)));
        for _ in 0..count {
            let scale = random.uniform_f64();
            let pixels = OBJECT_PIXELS[0] + (largest - OBJECT_PIXELS[0]) * scale * scale;
            let mut object = Object::new(pixels, hues, random);
            for _ in 0..POSITIONS {
                object.center = [
                    random.uniform(0.0, f64::from(size.width)),
                    random.uniform(0.0, f64::from(size.height)),
                ];
                if owners.place(&object) {
                    placed.push(object);
                    break;
                }
            }
        }
        for object in &placed {
            let (center, reach) = (object.center, object.reach());
            canvas.paint(center, 1.5 * reach, |x, y| ([0.0; 3], 0.45 * object.shadow(x, y)));
            canvas.paint(center, reach, |x, y| match object.coverage(x, y) {
                0.0 => ([0.0; 3], 0.0),
                coverage => (object.color(x, y), coverage),
            });
        }
        // A camera's noise.
        let strength = random.uniform(0.005, 0.02);
        for pixel in &mut canvas.pixels {
            *pixel = pixel.map(|value| value + strength * random.normal());
        }
        Self { canvas, objects: owners.visible(&placed) }
    }

    /// The scene's pixels.
    pub fn to_image(&self) -> RgbImage {
        let Size { width, height } = self.canvas.size;
        RgbImage::from_fn(width, height, |x, y| {
            let pixel = self.canvas.pixels[(y * width + x) as usize];
            image::Rgb(pixel.map(|value| (255.0 * value.clamp(0.0, 1.0)).round() as u8))
        })
    }
}

/// The object that each pixel shows.
struct Owners {
    size: Size,
    /// By pixel: the number of its object.
    pixels: Vec<Option<usize>>,
    /// By object: its total and its visible area.
    areas: Vec<[u32; 2]>,
}

impl Owners {
    fn new(size: Size) -> Self {
        Self { size, pixels: vec![None; (size.width * size.height) as usize], areas: Vec::new() }
    }

    /// Places an object in front of all others, unless too little of it or of another would be
    /// visible.
    fn place(&mut self, object: &Object) -> bool {
        let (mut total, mut inside) = (0, Vec::new());
        let around = |center: f64| {
            (center - object.reach()).floor() as i64..(center + object.reach()).ceil() as i64
        };
        for y in around(object.center[1]) {
            for x in around(object.center[0]) {
                if object.coverage(x as f64 + 0.5, y as f64 + 0.5) < 0.5 {
                    continue;
                }
                total += 1;
                let Size { width, height } = self.size;
                if (0..i64::from(width)).contains(&x) && (0..i64::from(height)).contains(&y) {
                    inside.push((y * i64::from(width) + x) as usize);
                }
            }
        }
        let mut areas = self.areas.clone();
        inside
            .iter()
            .filter_map(|&pixel| self.pixels[pixel])
            .for_each(|owner| areas[owner][1] -= 1);
        areas.push([total, inside.len() as u32]);
        let is_visible =
            |[total, seen]: &[u32; 2]| f64::from(*seen) >= VISIBLE_FRACTION * f64::from(*total);
        if total == 0 || !areas.iter().all(is_visible) {
            return false;
        }
        inside.iter().for_each(|&pixel| self.pixels[pixel] = Some(self.areas.len()));
        self.areas = areas;
        true
    }

    fn visible(&self, objects: &[Object]) -> Vec<Visible> {
        let mut corners = vec![[u32::MAX, u32::MAX, 0, 0]; objects.len()];
        for (pixel, owner) in (0..).zip(&self.pixels) {
            let (x, y) = (pixel % self.size.width, pixel / self.size.width);
            if let Some([x0, y0, x1, y1]) = owner.map(|owner| &mut corners[owner]) {
                (*x0, *y0, *x1, *y1) =
                    ((*x0).min(x), (*y0).min(y), (*x1).max(x + 1), (*y1).max(y + 1));
            }
        }
        let visible = |((object, [x0, y0, x1, y1]), area): ((&Object, [u32; 4]), &[u32; 2])| {
            Visible { class: object.class, bbox: [x0, y0, x1 - x0, y1 - y0], area: area[1] }
        };
        objects.iter().zip(corners).zip(&self.areas).map(visible).collect()
    }
}
