//! Value noise and colors.

use scrl_preprocess::views::rng::Stream;

/// Red, green, blue, each in [0, 1].
pub type Rgb = [f64; 3];

/// The color between two, `t` of the way.
pub fn mix(a: Rgb, b: Rgb, t: f64) -> Rgb {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * t)
}

/// A color by hue (from 0 to 6 for a full turn), saturation and value.
#[derive(Clone, Copy)]
pub struct Hsv {
    pub hue: f64,
    pub saturation: f64,
    pub value: f64,
}

impl Hsv {
    /// Of random hue, with saturation and value between the limits.
    pub fn draw(random: &mut Stream, saturation: [f64; 2], value: [f64; 2]) -> Self {
        Self {
            hue: random.uniform(0.0, 6.0),
            saturation: random.uniform(saturation[0], saturation[1]),
            value: random.uniform(value[0], value[1]),
        }
    }

    pub fn to_rgb(self) -> Rgb {
        [5.0, 3.0, 1.0].map(|offset| {
            let k = (offset + self.hue) % 6.0;
            self.value * (1.0 - self.saturation * k.min(4.0 - k).clamp(0.0, 1.0))
        })
    }
}

/// A color of random hue with saturation and value between the limits.
pub fn random_color(random: &mut Stream, saturation: [f64; 2], value: [f64; 2]) -> Rgb {
    Hsv::draw(random, saturation, value).to_rgb()
}

/// 0 below `low`, 1 above `high`, smooth between.
pub fn smoothstep(low: f64, high: f64, x: f64) -> f64 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Points along each side of a lattice, which repeats.
const LATTICE: usize = 64;

/// Smooth random values: octaves of value noise, each half as wide and `gain` times as strong as
/// the one before.
pub struct Noise {
    octaves: Vec<Vec<f64>>,
    cell: f64,
    gain: f64,
}

impl Noise {
    /// Noise whose widest features are `cell` pixels.
    pub fn new(random: &mut Stream, octaves: u32, cell: f64, gain: f64) -> Self {
        let lattice = |_| (0..LATTICE * LATTICE).map(|_| random.uniform_f64()).collect();
        Self { octaves: (0..octaves).map(lattice).collect(), cell, gain }
    }

    /// The value at a point, in [0, 1], one half on average.
    pub fn at(&self, x: f64, y: f64) -> f64 {
        let (mut sum, mut weights, mut weight, mut cell) = (0.0, 0.0, 1.0, self.cell);
        for octave in &self.octaves {
            sum += weight * interpolate(octave, x / cell, y / cell);
            weights += weight;
            weight *= self.gain;
            cell *= 0.5;
        }
        sum / weights
    }
}

fn interpolate(lattice: &[f64], x: f64, y: f64) -> f64 {
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (smoothstep(0.0, 1.0, x - left), smoothstep(0.0, 1.0, y - top));
    let wrap = |index: f64| (index as i64).rem_euclid(LATTICE as i64) as usize;
    let point = |dx: f64, dy: f64| lattice[wrap(top + dy) * LATTICE + wrap(left + dx)];
    let upper = point(0.0, 0.0) + u * (point(1.0, 0.0) - point(0.0, 0.0));
    let lower = point(0.0, 1.0) + u * (point(1.0, 1.0) - point(0.0, 1.0));
    upper + v * (lower - upper)
}
