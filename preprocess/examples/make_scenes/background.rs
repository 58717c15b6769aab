//! The background of a scene: a gradient, clouds of noise, grain, and clutter of no class.

use std::f64::consts::{PI, TAU};

use libm::{cos, sin};
use scrl_preprocess::views::rng::Stream;

use crate::canvas::{Canvas, Size};
use crate::noise::{Noise, Rgb, mix, random_color, smoothstep};

/// A canvas with a background on it.
pub fn draw(size: Size, random: &mut Stream) -> Canvas {
    let mut canvas = ground(size, random);
    for _ in 0..4 + random.below(8) {
        blotch(&mut canvas, random);
    }
    for _ in 0..random.below(9) {
        streak(&mut canvas, random);
    }
    canvas
}

/// A gradient of two colors, clouds of a third, and fine warped grain, as of wood, grass or sand.
fn ground(size: Size, random: &mut Stream) -> Canvas {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let [a, b, c] = [(); 3].map(|()| random_color(random, [0.05, 0.6], [0.2, 0.9]));
    let angle = random.uniform(0.0, TAU);
    let (cosine, sine) = (cos(angle), sin(angle));
    let cell = random.uniform(40.0, 120.0);
    let clouds = Noise::new(random, 5, cell, 0.6);
    let cell = random.uniform(3.0, 9.0);
    let grain = Noise::new(random, 3, cell, 0.7);
    let stretch = random.uniform(1.0, 6.0);
    let strength = random.uniform(0.05, 0.4);
    Canvas::new(size, |x, y| {
        let across = ((x / width - 0.5) * cosine + (y / height - 0.5) * sine) / 1.5 + 0.5;
        let cloud = smoothstep(0.3, 0.7, clouds.at(x, y));
        let color = mix(mix(a, b, across), c, 0.8 * cloud);
        let (along, over) = (x * cosine + y * sine, y * cosine - x * sine);
        let shade = 1.0 + strength * 2.0 * (grain.at(along / stretch, over + 12.0 * cloud) - 0.5);
        color.map(|value| value * shade)
    })
}

/// A soft ellipse with an irregular edge.
fn blotch(canvas: &mut Canvas, random: &mut Stream) {
    let Size { width, height } = canvas.size;
    let center = [random.uniform(0.0, f64::from(width)), random.uniform(0.0, f64::from(height))];
    let radii = [(); 2].map(|()| random.uniform(10.0, 0.3 * f64::from(height)));
    let color: Rgb = random_color(random, [0.1, 0.7], [0.1, 0.95]);
    let opacity = random.uniform(0.2, 0.7);
    let softness = random.uniform(0.05, 0.5);
    let edge = Noise::new(random, 3, 0.6 * radii[0], 0.5);
    // The noise moves the edge by at most 0.6 radii.
    canvas.paint(center, 1.6 * radii[0].max(radii[1]), |x, y| {
        let (dx, dy) = ((x - center[0]) / radii[0], (y - center[1]) / radii[1]);
        let reach = (dx * dx + dy * dy).sqrt() + 1.2 * (edge.at(x, y) - 0.5);
        (color, opacity * (1.0 - smoothstep(1.0 - softness, 1.0, reach)))
    });
}

/// A long bent stroke.
fn streak(canvas: &mut Canvas, random: &mut Stream) {
    let Size { width, height } = canvas.size;
    let angle = random.uniform(0.0, PI);
    let (cosine, sine) = (cos(angle), sin(angle));
    let start = [random.uniform(0.0, f64::from(width)), random.uniform(0.0, f64::from(height))];
    let (bend, turns) = (random.uniform(2.0, 20.0), random.uniform(0.005, 0.04));
    let thickness = random.uniform(0.6, 4.0);
    let color = random_color(random, [0.0, 0.6], [0.1, 0.9]);
    let opacity = random.uniform(0.3, 0.8);
    canvas.paint(start, f64::INFINITY, |x, y| {
        let (along, over) = (
            (x - start[0]) * cosine + (y - start[1]) * sine,
            (y - start[1]) * cosine - (x - start[0]) * sine,
        );
        let distance = (over + bend * sin(turns * along)).abs();
        (color, opacity * (1.0 - smoothstep(thickness - 0.7, thickness + 0.7, distance)))
    });
}
