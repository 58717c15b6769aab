//! Color jitter and grayscale, as torchvision computes them on float tensors.
//!
//! Contrast needs the mean of the gray image after the steps before it. So there are two sweeps
//! over the rows: the first applies the steps before contrast and sums the gray image, the second
//! applies the rest. Within a sweep all steps are applied to a row while it is in the first-level
//! cache.

use scrl_schemas::{ColorJitter, ColorStep};

use super::fixed::{BLOCK, Planes, WHITE, times, times_half, times_half_unsigned};
use crate::views::method::LUMA;

/// A full turn of the hue, in units in which red, yellow, green, cyan, blue and magenta are 0 to 5.
const TURN: f64 = 6.0;

/// The three planes of a row.
type Row<'a> = [&'a mut [i16]; 3];

/// Applies the jitter in its order, then grayscale.
#[inline(always)]
pub(super) fn apply(planes: &mut Planes, jitter: Option<&ColorJitter>, grayscale: bool) {
    let Some(jitter) = jitter else {
        if grayscale {
            planes.rows().for_each(|mut row| to_gray(&mut row));
        }
        return;
    };
    let contrast = jitter.order.iter().position(|&step| step == ColorStep::Contrast);
    let (before, after) = jitter.order.split_at(contrast.unwrap_or(0));
    let mut sums = [0u64; 3];
    let mut pixels = 0;
    let width = planes.width;
    for mut row in planes.rows() {
        steps(&mut row, jitter, before);
        for (sum, plane) in sums.iter_mut().zip(&row) {
            *sum += u64::from(plane[..width].iter().map(|&value| value as u32).sum::<u32>());
        }
        pixels += width as u64;
    }
    // The mean of the gray image is the gray of the means.
    let mean = luma(sums.map(|sum| ((sum + pixels / 2) / pixels) as i16));
    for mut row in planes.rows() {
        blend_with(&mut row, jitter.contrast, mean);
        steps(&mut row, jitter, &after[1..]);
        if grayscale {
            to_gray(&mut row);
        }
    }
}

/// Brightness, saturation and hue; contrast is not among `order`.
#[inline(always)]
fn steps(row: &mut Row<'_>, jitter: &ColorJitter, order: &[ColorStep]) {
    for step in order {
        match step {
            ColorStep::Brightness => blend_with(row, jitter.brightness, 0),
            ColorStep::Saturation => blend_with_gray(row, jitter.saturation),
            ColorStep::Hue => turn_hue(row, jitter.hue),
            ColorStep::Contrast => {}
        }
    }
}

/// Replaces each pixel of a row.
#[inline(always)]
fn map(row: &mut Row<'_>, change: impl Fn([i16; 3]) -> [i16; 3]) {
    let [red, green, blue] = row;
    let blocks = red
        .as_chunks_mut::<BLOCK>()
        .0
        .iter_mut()
        .zip(green.as_chunks_mut::<BLOCK>().0)
        .zip(blue.as_chunks_mut::<BLOCK>().0);
    for ((red, green), blue) in blocks {
        // Copies, of which the compiler knows that they do not overlap.
        let before = [*red, *green, *blue];
        let mut after = [[0; BLOCK]; 3];
        for i in 0..BLOCK {
            let pixel = change([before[0][i], before[1][i], before[2][i]]);
            after[0][i] = pixel[0];
            after[1][i] = pixel[1];
            after[2][i] = pixel[2];
        }
        [*red, *green, *blue] = after;
    }
}

/// Bits of a factor's difference from 1 where it is at most one half, as all of the paper's are.
const NEAR: u32 = 16;
/// The same where the factor is from 0 to 2.
const FAR: u32 = 15;

/// Whether a factor is beyond the range of [`NEAR`].
fn is_far(factor: f32) -> bool {
    (factor - 1.0).abs() > 0.5
}

/// `value` − `other`, less or more by a fraction: what a factor of 1 + `fraction` / 2^`BITS` makes of
/// the value, blended with the other.
#[inline(always)]
fn blend<const BITS: u32>(value: i16, other: i16, fraction: i16) -> i16 {
    let difference = value - other;
    let change =
        if BITS == NEAR { times_half(difference, fraction) } else { times(difference, fraction) };
    value.saturating_add(change).clamp(0, WHITE)
}

/// What a factor differs from 1, for [`blend`].
fn fraction<const BITS: u32>(factor: f32) -> i16 {
    let one = f64::from(1u32 << BITS);
    ((f64::from(factor) - 1.0) * one).round().clamp(-32768.0, 32767.0) as i16
}

#[inline(always)]
fn luma(pixel: [i16; 3]) -> i16 {
    const fn weight(channel: usize) -> u16 {
        (LUMA[channel] as f64 * 65536.0 + 0.5) as u16
    }
    let [red, green, blue] = pixel;
    let sum = times_half_unsigned(red as u16, const { weight(0) })
        + times_half_unsigned(green as u16, const { weight(1) })
        + times_half_unsigned(blue as u16, const { weight(2) });
    // The three products lose one and a half on average.
    sum as i16 + 1
}

/// `factor` · pixel + (1 − `factor`) · `other`: brightness with black, contrast with the mean.
#[inline(always)]
fn blend_with(row: &mut Row<'_>, factor: f32, other: i16) {
    if is_far(factor) {
        blend_all::<FAR>(
            row,
            factor,
            #[inline(always)]
            |_| other,
        );
    } else {
        blend_all::<NEAR>(
            row,
            factor,
            #[inline(always)]
            |_| other,
        );
    }
}

/// Saturation: blend with the gray image.
#[inline(always)]
fn blend_with_gray(row: &mut Row<'_>, factor: f32) {
    if is_far(factor) {
        blend_all::<FAR>(row, factor, luma);
    } else {
        blend_all::<NEAR>(row, factor, luma);
    }
}

/// Blends each pixel with what `other` makes of it.
#[inline(always)]
fn blend_all<const BITS: u32>(row: &mut Row<'_>, factor: f32, other: impl Fn([i16; 3]) -> i16) {
    let fraction = fraction::<BITS>(factor);
    map(
        row,
        #[inline(always)]
        |pixel @ [red, green, blue]| {
            let other = other(pixel);
            [
                blend::<BITS>(red, other, fraction),
                blend::<BITS>(green, other, fraction),
                blend::<BITS>(blue, other, fraction),
            ]
        },
    );
}

#[inline(always)]
fn to_gray(row: &mut Row<'_>) {
    map(
        row,
        #[inline(always)]
        |pixel| [luma(pixel); 3],
    );
}

/// Converts RGB to HSV, shifts the hue, and converts back. With M the largest of r, g, b, C the
/// difference from the smallest, and h the hue in sixths of a turn, a color is M − C · f(h − h₀),
/// where f is 0 up to one sixth of a turn and 1 from two sixths on, and h₀ = 0, 2, 4 for red, green
/// and blue. C · h is a difference of colors plus a multiple of C, and C · f(h − h₀) follows from C
/// · h without a division.
#[inline(always)]
fn turn_hue(row: &mut Row<'_>, turns: f32) {
    // For the product with eight times C.
    let shift = (f64::from(turns) * TURN * 8192.0).round() as i16;
    map(
        row,
        #[inline(always)]
        |pixel| {
            // In sixteenths of a level, as up to eight times C has to fit.
            let (red, green, blue) = (pixel[0] >> 2, pixel[1] >> 2, pixel[2] >> 2);
            let high = red.max(green).max(blue);
            let chroma = high - red.min(green).min(blue);
            let at_blue = 4 * chroma + red - green;
            let at_green = 2 * chroma + blue - red;
            let at_red = green - blue;
            let hue = if high == green { at_green } else { at_blue };
            let hue = if high == red { at_red } else { hue } + times_half(8 * chroma, shift);
            let [red, green, blue] = pixel;
            let high = red.max(green).max(blue);
            [
                (high - 4 * falloff(hue, chroma)).max(0),
                (high - 4 * falloff(hue - 2 * chroma, chroma)).max(0),
                (high - 4 * falloff(hue - 4 * chroma, chroma)).max(0),
            ]
        },
    );
}

/// How far a color is below the largest, at `distance` from its own hue; `distance` is from −8 to 8
/// times `chroma`, which is a sixth of a turn.
#[inline(always)]
fn falloff(distance: i16, chroma: i16) -> i16 {
    let distance = if distance >= 3 * chroma { distance - 6 * chroma } else { distance };
    let distance = if distance < -3 * chroma { distance + 6 * chroma } else { distance };
    (distance.abs() - chroma).clamp(0, chroma)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hue_of(color: [f32; 3], turns: f32) -> [f32; 3] {
        let mut planes = color.map(|value| vec![(value * f32::from(WHITE)).round() as i16; BLOCK]);
        turn_hue(&mut planes.each_mut().map(|plane| plane.as_mut_slice()), turns);
        planes.map(|plane| f32::from(plane[BLOCK - 1]) / f32::from(WHITE))
    }

    /// To a sixteenth of a level.
    fn close(a: [f32; 3], b: [f32; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1.0 / 16.0 / 255.0)
    }

    #[test]
    fn a_third_of_a_turn_moves_each_color_to_the_next() {
        for color in
            [[0.9, 0.2, 0.4], [0.1, 0.8, 0.3], [0.3, 0.3, 0.7], [1.0, 1.0, 0.0], [0.5, 0.5, 0.5]]
        {
            let [r, g, b] = color;
            assert!(close(hue_of(color, 0.0), color), "{color:?}");
            assert!(close(hue_of(color, 1.0 / 3.0), [b, r, g]), "{color:?}");
            assert!(close(hue_of(color, -1.0 / 3.0), [g, b, r]), "{color:?}");
        }
    }

    /// To a 64th of a level.
    #[test]
    fn factors_from_zero_to_two_blend_as_in_floating_point() {
        for factor in [0.0, 0.2, 0.4999, 0.5, 0.6, 1.0, 1.4, 1.5, 1.5001, 1.9, 2.0] {
            for (value, other) in [(0, 0), (100, 0), (9000, 4000), (4000, 9000), (WHITE, 0)] {
                let mut planes = [(); 3].map(|()| vec![value; BLOCK]);
                let row = &mut planes.each_mut().map(|plane| plane.as_mut_slice());
                blend_with(row, factor, other);
                let exact = f64::from(factor) * f64::from(value)
                    + (1.0 - f64::from(factor)) * f64::from(other);
                let expected = exact.clamp(0.0, f64::from(WHITE));
                let difference = f64::from(planes[1][3]) - expected;
                assert!(difference.abs() <= 1.0, "{factor} {value} {other}: {difference}");
            }
        }
    }

    #[test]
    fn half_a_turn_of_red_is_cyan() {
        assert!(close(hue_of([1.0, 0.0, 0.0], 0.5), [0.0, 1.0, 1.0]));
        assert!(close(hue_of([1.0, 0.0, 0.0], -0.5), [0.0, 1.0, 1.0]));
    }
}
