//! The objects: shapes, textures, and their combinations, the classes.

use std::f64::consts::{PI, TAU};

use libm::{atan2, cos, sin};
use scrl_preprocess::views::rng::Stream;

use crate::noise::{Hsv, Noise, Rgb, mix, smoothstep};

/// An outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Disc,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
}

/// The fill of an outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    Stripes,
    Checker,
    Dots,
    Speckle,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub shape: Shape,
    pub texture: Texture,
}

/// Every shape has two textures and every texture three shapes, so that neither alone identifies
/// the class.
pub const CLASSES: [Class; 12] = [
    Class { shape: Shape::Disc, texture: Texture::Stripes },
    Class { shape: Shape::Disc, texture: Texture::Dots },
    Class { shape: Shape::Square, texture: Texture::Checker },
    Class { shape: Shape::Square, texture: Texture::Stripes },
    Class { shape: Shape::Triangle, texture: Texture::Dots },
    Class { shape: Shape::Triangle, texture: Texture::Speckle },
    Class { shape: Shape::Star, texture: Texture::Stripes },
    Class { shape: Shape::Star, texture: Texture::Checker },
    Class { shape: Shape::Ring, texture: Texture::Checker },
    Class { shape: Shape::Ring, texture: Texture::Speckle },
    Class { shape: Shape::Cross, texture: Texture::Dots },
    Class { shape: Shape::Cross, texture: Texture::Speckle },
];

impl Class {
    /// Such as `striped disc`.
    pub fn name(self) -> String {
        let texture = match self.texture {
            Texture::Stripes => "striped",
            Texture::Checker => "checkered",
            Texture::Dots => "dotted",
            Texture::Speckle => "speckled",
        };
        format!("{texture} {}", self.shape.name())
    }
}

impl Shape {
    /// The outline's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Ring => "ring",
            Self::Cross => "cross",
        }
    }

    /// How far outside the outline a point lies, negative inside; the outline reaches to about ±1.
    fn distance(self, x: f64, y: f64) -> f64 {
        let radius = (x * x + y * y).sqrt();
        match self {
            Self::Disc => radius - 1.0,
            Self::Square => x.abs().max(y.abs()) - 0.85,
            Self::Triangle => (0..3)
                .map(|side| f64::from(side) * TAU / 3.0 + PI / 2.0)
                .map(|normal| x * cos(normal) + y * sin(normal) - 0.55)
                .fold(f64::MIN, f64::max),
            Self::Star => {
                // Folded into half a point, the outline is one line from the tip to the notch.
                const NOTCH: f64 = 0.45;
                let fold = TAU / 5.0;
                let angle = (atan2(y, x).rem_euclid(fold) - fold / 2.0).abs();
                let (x, y) = (radius * cos(fold / 2.0 - angle), radius * sin(fold / 2.0 - angle));
                let (dx, dy) = (NOTCH * cos(fold / 2.0) - 1.0, NOTCH * sin(fold / 2.0));
                ((x - 1.0) * dy - y * dx) / (dx * dx + dy * dy).sqrt()
            }
            Self::Ring => (radius - 0.72).abs() - 0.28,
            Self::Cross => {
                let (long, short) = (x.abs().max(y.abs()), x.abs().min(y.abs()));
                (long - 1.0).max(short - 0.34)
            }
        }
    }
}

/// An object with its size, colors and place.
pub struct Object {
    /// Its position in [`CLASSES`].
    pub class: usize,
    pub center: [f64; 2],
    /// Half its size in pixels.
    pub radius: f64,
    turn: [f64; 2],
    stretch: f64,
    colors: [Rgb; 2],
    /// Of the texture, in units of `radius`.
    period: f64,
    phase: [f64; 2],
    speckle: Noise,
    light: [f64; 2],
}

impl Object {
    /// A random object of this size, not placed yet; with `hues` its colors have the hue of its
    /// class.
    pub fn new(pixels: f64, hues: bool, random: &mut Stream) -> Self {
        let angle = random.uniform(0.0, TAU);
        let light = random.uniform(0.0, TAU);
        let bright = Hsv::draw(random, [0.15, 0.9], [0.65, 1.0]);
        let dark = Hsv::draw(random, [0.3, 1.0], [0.05, 0.45]);
        let class = random.below(CLASSES.len() as u64) as usize;
        // The random hue varies within the class's sector of the color circle, a fifth of which
        // stays free.
        let sector = 6.0 / CLASSES.len() as f64;
        let of_class =
            |color: Hsv| Hsv { hue: (class as f64 + 0.8 * color.hue / 6.0) * sector, ..color };
        let [bright, dark] =
            [bright, dark].map(|color| if hues { of_class(color) } else { color }.to_rgb());
        Self {
            class,
            center: [0.0; 2],
            radius: pixels / 2.0,
            turn: [cos(angle), sin(angle)],
            stretch: random.uniform(0.85, 1.18),
            colors: if random.chance(0.5) { [bright, dark] } else { [dark, bright] },
            period: random.uniform(0.35, 0.6),
            phase: [random.uniform_f64(), random.uniform_f64()],
            speckle: Noise::new(random, 2, 0.25, 0.5),
            light: [cos(light), sin(light)],
        }
    }

    /// The largest distance of its pixels from the center.
    pub fn reach(&self) -> f64 {
        // The corners of a stretched square.
        self.radius * 1.45 + 1.0
    }

    /// A point of the scene in the object's own frame.
    fn local(&self, x: f64, y: f64) -> [f64; 2] {
        let (x, y) = ((x - self.center[0]) / self.radius, (y - self.center[1]) / self.radius);
        let [cosine, sine] = self.turn;
        [(x * cosine + y * sine) * self.stretch, (y * cosine - x * sine) / self.stretch]
    }

    /// How much of the pixel around a point the object covers, 0 to 1.
    pub fn coverage(&self, x: f64, y: f64) -> f64 {
        let [u, v] = self.local(x, y);
        (0.5 - CLASSES[self.class].shape.distance(u, v) * self.radius).clamp(0.0, 1.0)
    }

    /// How dark its shadow is at a point, 0 to 1.
    pub fn shadow(&self, x: f64, y: f64) -> f64 {
        let [u, v] = self
            .local(x + 0.12 * self.radius * self.light[0], y + 0.12 * self.radius * self.light[1]);
        1.0 - smoothstep(-0.2, 0.2, CLASSES[self.class].shape.distance(u, v))
    }

    /// Its color at a point.
    pub fn color(&self, x: f64, y: f64) -> Rgb {
        let [u, v] = self.local(x, y);
        let Class { shape, texture } = CLASSES[self.class];
        // Texture coordinates: one unit a period.
        let (s, t) = (u / self.period + self.phase[0], v / self.period + self.phase[1]);
        // Edges of the texture are a pixel and a half wide.
        let edge = 0.75 / (self.radius * self.period);
        let wave = |s: f64| smoothstep(-TAU * edge, TAU * edge, sin(TAU * s));
        let amount = match texture {
            Texture::Stripes => wave(s),
            Texture::Checker => {
                let (a, b) = (wave(0.5 * s), wave(0.5 * t));
                a + b - 2.0 * a * b
            }
            Texture::Dots => {
                let (a, b) = (s - s.round(), t - t.round());
                1.0 - smoothstep(0.3 - edge, 0.3 + edge, (a * a + b * b).sqrt())
            }
            Texture::Speckle => smoothstep(0.42, 0.58, self.speckle.at(u, v)),
        };
        let lit = 1.0
            + 0.3 * ((x - self.center[0]) * self.light[0] + (y - self.center[1]) * self.light[1])
                / self.radius;
        let rim = 1.0 - 0.45 * smoothstep(-0.1, 0.0, shape.distance(u, v));
        mix(self.colors[0], self.colors[1], amount).map(|value| value * lit * rim)
    }
}
