//! Color jitter and grayscale on planes in [0, 1], as torchvision computes them on float tensors.
//!
//! Contrast needs the mean of the gray image after the steps before it. So there are two sweeps
//! over the planes: the first applies the steps before contrast and sums the gray image, the second
//! applies the rest. Within a sweep all steps are applied to one block after the other, while it is
//! in the first-level cache.

use scrl_schemas::{ColorJitter, ColorStep};

use super::planes::Planes;
use crate::views::method::LUMA;

/// Pixels of a block: three planes of them fit into the first-level cache.
const BLOCK: usize = 1024;
/// Partial sums of the gray image; a fixed number, so that the sum does not depend on the
/// processor's vectors.
const SUMS: usize = 16;
/// A full turn of the hue, in units in which red, yellow, green, cyan, blue and magenta are 0 to 5.
const TURN: f32 = 6.0;

/// One block of the three planes.
struct Block<'a> {
    red: &'a mut [f32],
    green: &'a mut [f32],
    blue: &'a mut [f32],
}

/// Applies the jitter in its order, then grayscale.
#[inline(always)]
pub(super) fn apply(planes: &mut Planes, jitter: Option<&ColorJitter>, grayscale: bool) {
    match jitter {
        Some(jitter) => {
            let contrast = jitter.order.iter().position(|&step| step == ColorStep::Contrast);
            let (before, after) = jitter.order.split_at(contrast.unwrap_or(0));
            let mut sum = 0.0;
            sweep(
                planes,
                #[inline(always)]
                |block| {
                    steps(block, jitter, before);
                    sum += block_gray_sum(block);
                },
            );
            let mean = (sum / planes.red.len() as f64) as f32;
            sweep(
                planes,
                #[inline(always)]
                |block| {
                    blend_with(block, jitter.contrast, mean);
                    steps(block, jitter, &after[1..]);
                    if grayscale {
                        to_gray(block);
                    }
                },
            );
        }
        None if grayscale => sweep(planes, to_gray),
        None => {}
    }
}

#[inline(always)]
fn sweep(planes: &mut Planes, mut apply: impl FnMut(&mut Block<'_>)) {
    let blocks = planes
        .red
        .chunks_mut(BLOCK)
        .zip(planes.green.chunks_mut(BLOCK))
        .zip(planes.blue.chunks_mut(BLOCK));
    for ((red, green), blue) in blocks {
        apply(&mut Block { red, green, blue });
    }
}

/// Brightness, saturation and hue; contrast is not among `order`.
#[inline(always)]
fn steps(block: &mut Block<'_>, jitter: &ColorJitter, order: &[ColorStep]) {
    for step in order {
        match step {
            ColorStep::Brightness => blend_with(block, jitter.brightness, 0.0),
            ColorStep::Saturation => blend_with_gray(block, jitter.saturation),
            ColorStep::Hue => turn_hue(block, jitter.hue),
            ColorStep::Contrast => {}
        }
    }
}

#[inline(always)]
fn unit(value: f32) -> f32 {
    value.clamp(0.0, 1.0)
}

#[inline(always)]
fn luma(red: f32, green: f32, blue: f32) -> f32 {
    LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
}

/// `factor` · pixel + (1 − `factor`) · `other`: brightness with black, contrast with the mean.
#[inline(always)]
fn blend_with(block: &mut Block<'_>, factor: f32, other: f32) {
    let rest = (1.0 - factor) * other;
    for plane in [&mut *block.red, &mut *block.green, &mut *block.blue] {
        for value in plane.iter_mut() {
            *value = unit(factor * *value + rest);
        }
    }
}

/// Saturation: blend with the gray image.
#[inline(always)]
fn blend_with_gray(block: &mut Block<'_>, factor: f32) {
    for ((r, g), b) in block.red.iter_mut().zip(&mut *block.green).zip(&mut *block.blue) {
        let rest = (1.0 - factor) * luma(*r, *g, *b);
        *r = unit(factor * *r + rest);
        *g = unit(factor * *g + rest);
        *b = unit(factor * *b + rest);
    }
}

#[inline(always)]
fn to_gray(block: &mut Block<'_>) {
    for ((r, g), b) in block.red.iter_mut().zip(&mut *block.green).zip(&mut *block.blue) {
        let gray = luma(*r, *g, *b);
        *r = gray;
        *g = gray;
        *b = gray;
    }
}

#[inline(always)]
fn block_gray_sum(block: &Block<'_>) -> f64 {
    let mut sums = [0.0f32; SUMS];
    let red = block.red.chunks_exact(SUMS);
    let green = block.green.chunks_exact(SUMS);
    let blue = block.blue.chunks_exact(SUMS);
    let mut tail = 0.0;
    for ((&r, &g), &b) in red.remainder().iter().zip(green.remainder()).zip(blue.remainder()) {
        tail += luma(r, g, b);
    }
    for ((r, g), b) in red.zip(green).zip(blue) {
        for i in 0..SUMS {
            sums[i] += luma(r[i], g[i], b[i]);
        }
    }
    let mut sum = f64::from(tail);
    for partial in sums {
        sum += f64::from(partial);
    }
    sum
}

/// Converts RGB to HSV, shifts the hue, and converts back. With M the largest of r, g, b, C
/// the difference from the smallest, and h the hue in sixths of a turn, a color is M − C · f(h
/// − h₀), where f is [`falloff`] and h₀ = 0, 2, 4 for red, green and blue: so neither
/// saturation nor a case for each sixth is needed.
#[inline(always)]
fn turn_hue(block: &mut Block<'_>, turns: f32) {
    let shift = turns * TURN;
    for ((r, g), b) in block.red.iter_mut().zip(&mut *block.green).zip(&mut *block.blue) {
        let (red, green, blue) = (*r, *g, *b);
        let high = larger(red, larger(green, blue));
        let low = smaller(red, smaller(green, blue));
        let chroma = high - low;
        let scale = if chroma > 0.0 { 1.0 / chroma } else { 0.0 };
        let at_blue = 4.0 + (red - green) * scale;
        let at_green = 2.0 + (blue - red) * scale;
        let at_red = (green - blue) * scale;
        let hue = if high == green { at_green } else { at_blue };
        let hue = if high == red { at_red } else { hue } + shift;
        *r = unit(high - chroma * falloff(hue));
        *g = unit(high - chroma * falloff(hue - 2.0));
        *b = unit(high - chroma * falloff(hue - 4.0));
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// How far a color is below the largest, as a fraction of the chroma, at `distance` sixths of a
/// turn from its own hue: 0 up to one sixth, 1 from two sixths on. `distance` is in (−9, 9).
#[inline(always)]
fn falloff(distance: f32) -> f32 {
    let distance = if distance >= TURN / 2.0 { distance - TURN } else { distance };
    let distance = if distance < -TURN / 2.0 { distance + TURN } else { distance };
    unit(distance.abs() - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hue_of(color: [f32; 3], turns: f32) -> [f32; 3] {
        let [mut red, mut green, mut blue] = color.map(|value| [value]);
        turn_hue(&mut Block { red: &mut red, green: &mut green, blue: &mut blue }, turns);
        [red[0], green[0], blue[0]]
    }

    #[test]
    fn a_third_of_a_turn_moves_each_color_to_the_next() {
        let close = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        for color in
            [[0.9, 0.2, 0.4], [0.1, 0.8, 0.3], [0.3, 0.3, 0.7], [1.0, 1.0, 0.0], [0.5, 0.5, 0.5]]
        {
            let [r, g, b] = color;
            assert!(close(hue_of(color, 0.0), color), "{color:?}");
            assert!(close(hue_of(color, 1.0 / 3.0), [b, r, g]), "{color:?}");
            assert!(close(hue_of(color, -1.0 / 3.0), [g, b, r]), "{color:?}");
        }
    }

    #[test]
    fn half_a_turn_of_red_is_cyan() {
        assert_eq!(hue_of([1.0, 0.0, 0.0], 0.5), [0.0, 1.0, 1.0]);
        assert_eq!(hue_of([1.0, 0.0, 0.0], -0.5), [0.0, 1.0, 1.0]);
    }
}
