//! Gaussian blur, as torchvision's `gaussian_blur` on float tensors: a kernel of the method's size,
//! reflected at the borders (without repeating the border pixel), first along the rows, then down
//! the columns.

use libm::exp;

use super::fixed::Planes;
use super::vector::{VALUES, Vectors};
use crate::views::method::BLUR_KERNEL_FRACTION;

/// Weights at the ends of the kernel are dropped while they sum to less than this: at most a
/// fortieth of a gray level.
const NEGLIGIBLE: f64 = 1e-4;

/// The weight 1, which itself does not fit.
const ONE: i32 = 1 << 15;

/// The blur's weights and buffers.
#[derive(Debug, Default)]
pub(super) struct GaussianBlur {
    /// The weight of the center, then of each distance from it, for [`Vectors::times`].
    weights: Vec<i16>,
    /// A row with its reflections on both sides.
    padded: Vec<i16>,
    /// A row of each plane, blurred in both directions.
    blurred: [Vec<i16>; 3],
}

/// Computes the weights of the kernel's center and of one side; with the other side they sum to 1.
fn weights(size: usize, sigma: f32, weights: &mut Vec<i16>) {
    // The odd number nearest to a tenth of the size; the reflection has to stay within the view.
    let kernel = 2 * (size as f64 * BLUR_KERNEL_FRACTION / 2.0).floor() as usize + 1;
    let radius = (kernel / 2).min(size - 1);
    let density = |distance: usize| exp(-0.5 * (distance as f64 / f64::from(sigma)).powi(2));
    let mut total = 1.0 + 2.0 * (1..=radius).map(density).sum::<f64>();
    let mut kept = radius;
    let mut left_out = 0.0;
    while kept > 0 && left_out + 2.0 * density(kept) < NEGLIGIBLE * total {
        left_out += 2.0 * density(kept);
        kept -= 1;
    }
    total -= left_out;
    weights.clear();
    weights.push(0);
    let weight = |distance| (density(distance) / total * f64::from(ONE)).round() as i16;
    weights.extend((1..=kept).map(weight));
    // What rounding leaves goes to the center.
    let sides: i32 = weights.iter().map(|&weight| 2 * i32::from(weight)).sum();
    weights[0] = (ONE - sides).min(i32::from(i16::MAX)) as i16;
}

/// The index, within `size`, to which an index beyond the border is reflected.
#[inline(always)]
fn reflect(index: isize, size: usize) -> usize {
    let last = size as isize - 1;
    let index = index.abs();
    (if index > last { 2 * last - index } else { index }) as usize
}

impl GaussianBlur {
    /// Blurs the planes of a view of `size` pixels a side, and passes each row to `sink`, from the
    /// top. Leaves the planes blurred along their rows only.
    #[inline(always)]
    pub(super) fn apply<S: Vectors>(
        &mut self,
        simd: S,
        planes: &mut Planes,
        size: usize,
        sigma: f32,
        mut sink: impl FnMut(usize, [&[i16]; 3]),
    ) {
        weights(size, sigma, &mut self.weights);
        let stride = planes.stride;
        self.padded.resize(stride + 2 * self.weights.len(), 0);
        for row in planes.rows() {
            for plane in row {
                along(simd, plane, size, &self.weights, &mut self.padded);
            }
        }
        for row in &mut self.blurred {
            row.resize(stride, 0);
        }
        for y in 0..size {
            for (out, plane) in self.blurred.iter_mut().zip(&planes.planes) {
                down(simd, plane.values(), y, size, &self.weights, out);
            }
            sink(y, self.blurred.each_ref().map(Vec::as_slice));
        }
    }
}

/// Blurs a row of `width` pixels along itself.
#[inline(always)]
fn along<S: Vectors>(simd: S, row: &mut [i16], width: usize, weights: &[i16], padded: &mut [i16]) {
    let radius = weights.len() - 1;
    padded[radius..][..width].copy_from_slice(&row[..width]);
    for distance in 1..=radius {
        padded[radius - distance] = row[reflect(-(distance as isize), width)];
        let beyond = width - 1 + distance;
        padded[radius + beyond] = row[reflect(beyond as isize, width)];
    }
    sum(simd, row, padded, weights, |distance| [radius - distance, radius + distance]);
}

/// Blurs row `y` of a plane, of rows of `out`'s length, down its columns.
#[inline(always)]
fn down<S: Vectors>(
    simd: S,
    plane: &[i16],
    y: usize,
    size: usize,
    weights: &[i16],
    out: &mut [i16],
) {
    let stride = out.len();
    sum(simd, out, plane, weights, |distance| {
        let above = reflect(y as isize - distance as isize, size);
        let below = reflect((y + distance) as isize, size);
        [above * stride, below * stride]
    });
}

/// The weighted sum of rows; `places` gives where the two at a distance begin.
#[inline(always)]
fn sum<S: Vectors>(
    simd: S,
    sums: &mut [i16],
    values: &[i16],
    weights: &[i16],
    places: impl Fn(usize) -> [usize; 2],
) {
    let (sums, _) = sums.as_chunks_mut::<VALUES>();
    let weight = simd.splat(weights[0]);
    for (sum, value) in sums.iter_mut().zip(values[places(0)[0]..].as_chunks::<VALUES>().0) {
        simd.store(simd.times(simd.load(value), weight), sum);
    }
    let (pairs, rest) = weights[1..].as_chunks::<2>();
    let mut distance = 1;
    for &weights in pairs {
        add_products(simd, sums, values, [places(distance), places(distance + 1)], weights);
        distance += 2;
    }
    for &weight in rest {
        add_products(simd, sums, values, [places(distance)], [weight]);
    }
}

/// Adds the products of sums of two rows and their weight.
#[inline(always)]
fn add_products<S: Vectors, const N: usize>(
    simd: S,
    sums: &mut [[i16; VALUES]],
    values: &[i16],
    places: [[usize; 2]; N],
    weights: [i16; N],
) {
    let row = |start: usize| &values[start..].as_chunks::<VALUES>().0[..sums.len()];
    let mut rows = [[&[] as &[[i16; VALUES]]; 2]; N];
    let mut splat = [simd.splat(0); N];
    for n in 0..N {
        rows[n] = [row(places[n][0]), row(places[n][1])];
        splat[n] = simd.splat(weights[n]);
    }
    for i in 0..sums.len() {
        let mut sum = simd.load(&sums[i]);
        for n in 0..N {
            let both = simd.add(simd.load(&rows[n][0][i]), simd.load(&rows[n][1][i]));
            sum = simd.add(sum, simd.times(both, splat[n]));
        }
        simd.store(sum, &mut sums[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::render::fixed::WHITE;
    use crate::views::render::vector::Plain;

    #[test]
    fn the_kernel_has_the_size_of_the_method() {
        let mut found = Vec::new();
        weights(224, 1e6, &mut found);
        assert_eq!(found.len(), 12, "23 at 224");
        weights(96, 1e6, &mut found);
        assert_eq!(found.len(), 5, "9 at 96");
        weights(224, 0.1, &mut found);
        assert_eq!(found, [i16::MAX]);
        for sigma in [0.3, 0.9, 1.3, 2.0] {
            weights(224, sigma, &mut found);
            let sum = found.iter().map(|&weight| 2 * i32::from(weight)).sum::<i32>();
            assert_eq!(sum - i32::from(found[0]), ONE);
        }
    }

    /// Planes with the same values.
    fn planes(size: usize, value: impl Fn(usize, usize) -> f64) -> Planes {
        let mut planes = Planes::default();
        planes.resize(size, size);
        for (y, row) in planes.rows().enumerate() {
            for plane in row {
                for (x, out) in plane[..size].iter_mut().enumerate() {
                    *out = (value(x, y) * f64::from(WHITE)) as i16;
                }
            }
        }
        planes
    }

    #[test]
    fn a_plane_is_blurred_as_by_the_definition() {
        let (size, sigma) = (37, 1.1f32);
        let value = |x: usize, y: usize| ((x * 31 + y * 17) % 23) as f64 / 22.0;
        let mut blur = GaussianBlur::default();
        let mut rows = Vec::new();
        blur.apply(Plain, &mut planes(size, value), size, sigma, |_, [red, green, _]| {
            assert_eq!(red, green);
            rows.extend_from_slice(&red[..size]);
        });
        let half = blur.weights.len() as isize - 1;
        let density = |d: isize| (-0.5 * (d as f64 / f64::from(sigma)).powi(2)).exp();
        let total: f64 = (-half..=half).map(density).sum();
        for (index, &found) in rows.iter().enumerate() {
            let (x, y) = ((index % size) as isize, (index / size) as isize);
            let mut expected = 0.0;
            for dy in -half..=half {
                for dx in -half..=half {
                    let weight = density(dx) * density(dy) / (total * total);
                    expected += weight * value(reflect(x + dx, size), reflect(y + dy, size));
                }
            }
            let expected = expected * f64::from(WHITE);
            // A twentieth of a level.
            assert!((f64::from(found) - expected).abs() < 3.2, "{x} {y}: {found} for {expected}");
        }
    }

    #[test]
    fn tiny_views_are_blurred_too() {
        for size in [1, 2, 8] {
            GaussianBlur::default().apply(
                Plain,
                &mut planes(size, |_, _| 0.5),
                size,
                2.0,
                |_, [red, ..]| {
                    assert!(red[..size].iter().all(|value| value.abs_diff(WHITE / 2) <= 2));
                },
            );
        }
    }
}
