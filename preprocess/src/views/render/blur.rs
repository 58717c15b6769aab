//! Gaussian blur on planes, as torchvision's `gaussian_blur` on float tensors: a kernel of the
//! method's size, reflected at the borders (without repeating the border pixel), first
//! horizontally, then vertically.

use libm::exp;

use super::planes::Planes;
use crate::views::method::BLUR_KERNEL_FRACTION;

/// Pixels computed together, in registers.
const WIDTH: usize = 32;
/// Weights at the ends of the kernel are dropped while they sum to less than this: at most a
/// fortieth of a gray level.
const NEGLIGIBLE: f64 = 1e-4;

/// The blur's buffers.
#[derive(Debug, Default)]
pub(super) struct GaussianBlur {
    /// The weight of the center, then of each distance from it.
    weights: Vec<f32>,
    /// A row with its reflections on both sides.
    padded: Vec<f32>,
    /// Planes blurred horizontally, rows padded to a multiple of [`WIDTH`].
    horizontal: [Vec<f32>; 3],
    /// One row of each plane, blurred in both directions.
    rows: [Vec<f32>; 3],
}

/// Computes the weights of the kernel's center and of one side; with the other side they sum to 1.
fn weights(size: usize, sigma: f32, weights: &mut Vec<f32>) {
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
    weights.extend((0..=kept).map(|distance| (density(distance) / total) as f32));
}

/// The index, within `size`, to which an index beyond the border is reflected.
#[inline(always)]
fn reflect(index: isize, size: usize) -> usize {
    let last = size as isize - 1;
    let index = index.abs();
    (if index > last { 2 * last - index } else { index }) as usize
}

impl GaussianBlur {
    /// Blurs the planes, `[size, size]` each, and passes each row to `sink` as red, green and blue,
    /// from the top.
    #[inline(always)]
    pub(super) fn apply(
        &mut self,
        planes: &Planes,
        size: usize,
        sigma: f32,
        mut sink: impl FnMut(usize, [&[f32]; 3]),
    ) {
        weights(size, sigma, &mut self.weights);
        let radius = self.weights.len() - 1;
        let stride = size.next_multiple_of(WIDTH);
        self.padded.resize(stride + 2 * radius, 0.0);
        for (horizontal, plane) in
            self.horizontal.iter_mut().zip([&planes.red, &planes.green, &planes.blue])
        {
            horizontal.resize(stride * size, 0.0);
            for (out, row) in horizontal.chunks_exact_mut(stride).zip(plane.chunks_exact(size)) {
                blur_horizontally(row, &self.weights, &mut self.padded, out);
            }
        }
        for row in &mut self.rows {
            row.resize(stride, 0.0);
        }
        for y in 0..size {
            for (out, horizontal) in self.rows.iter_mut().zip(&self.horizontal) {
                blur_vertically(horizontal, y, size, &self.weights, out);
            }
            let [red, green, blue] = &self.rows;
            sink(y, [&red[..size], &green[..size], &blue[..size]]);
        }
    }
}

#[inline(always)]
fn blur_horizontally(row: &[f32], weights: &[f32], padded: &mut [f32], out: &mut [f32]) {
    let (size, radius) = (row.len(), weights.len() - 1);
    padded[radius..][..size].copy_from_slice(row);
    for distance in 1..=radius {
        padded[radius - distance] = row[reflect(-(distance as isize), size)];
        padded[radius + size - 1 + distance] = row[reflect((size - 1 + distance) as isize, size)];
    }
    let (blocks, _) = out.as_chunks_mut::<WIDTH>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let start = index * WIDTH;
        let mut sum = [0.0; WIDTH];
        add(&mut sum, weights[0], window(padded, start + radius));
        for (distance, &weight) in weights.iter().enumerate().skip(1) {
            let left = window(padded, start + radius - distance);
            let right = window(padded, start + radius + distance);
            add_both(&mut sum, weight, left, right);
        }
        *block = sum;
    }
}

#[inline(always)]
fn blur_vertically(plane: &[f32], y: usize, size: usize, weights: &[f32], out: &mut [f32]) {
    let stride = out.len();
    let (blocks, _) = out.as_chunks_mut::<WIDTH>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let start = index * WIDTH;
        let mut sum = [0.0; WIDTH];
        add(&mut sum, weights[0], window(plane, y * stride + start));
        for (distance, &weight) in weights.iter().enumerate().skip(1) {
            let above = reflect(y as isize - distance as isize, size);
            let below = reflect((y + distance) as isize, size);
            add_both(
                &mut sum,
                weight,
                window(plane, above * stride + start),
                window(plane, below * stride + start),
            );
        }
        // The weights sum to 1 except for rounding, which could leave [0, 1].
        for (out, value) in block.iter_mut().zip(sum) {
            *out = value.clamp(0.0, 1.0);
        }
    }
}

#[inline(always)]
fn window(values: &[f32], start: usize) -> &[f32; WIDTH] {
    values[start..].first_chunk().expect("rows are padded to complete blocks")
}

#[inline(always)]
fn add(sum: &mut [f32; WIDTH], weight: f32, values: &[f32; WIDTH]) {
    for i in 0..WIDTH {
        sum[i] += weight * values[i];
    }
}

#[inline(always)]
fn add_both(sum: &mut [f32; WIDTH], weight: f32, a: &[f32; WIDTH], b: &[f32; WIDTH]) {
    for i in 0..WIDTH {
        sum[i] += weight * (a[i] + b[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_the_size_of_the_method() {
        let mut found = Vec::new();
        weights(224, 1e6, &mut found);
        assert_eq!(found.len(), 12, "23 at 224");
        weights(96, 1e6, &mut found);
        assert_eq!(found.len(), 5, "9 at 96");
        weights(224, 0.1, &mut found);
        assert_eq!(found, [1.0]);
        for sigma in [0.3, 0.9, 1.3, 2.0] {
            weights(224, sigma, &mut found);
            let sum = found[0] + 2.0 * found[1..].iter().sum::<f32>();
            assert!((sum - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_plane_is_blurred_as_by_the_definition() {
        let size = 37;
        let value = |x: usize, y: usize| ((x * 31 + y * 17) % 23) as f32 / 22.0;
        let plane: Vec<f32> = (0..size * size).map(|i| value(i % size, i / size)).collect();
        let planes = Planes { red: plane.clone(), green: plane.clone(), blue: plane };
        let mut blur = GaussianBlur::default();
        let mut rows = Vec::new();
        blur.apply(&planes, size, 1.1, |_, [red, green, _]| {
            assert_eq!(red, green);
            rows.extend_from_slice(red);
        });
        let half = blur.weights.len() as isize - 1;
        for (index, &found) in rows.iter().enumerate() {
            let (x, y) = ((index % size) as isize, (index / size) as isize);
            let mut expected = 0.0;
            for dy in -half..=half {
                for dx in -half..=half {
                    let weight = blur.weights[dx.unsigned_abs()] * blur.weights[dy.unsigned_abs()];
                    expected += weight * value(reflect(x + dx, size), reflect(y + dy, size));
                }
            }
            assert!((found - expected).abs() < 1e-5, "{x} {y}: {found} for {expected}");
        }
    }

    #[test]
    fn tiny_views_are_blurred_too() {
        for size in [1, 2, 8] {
            let plane = vec![0.5; size * size];
            let planes = Planes { red: plane.clone(), green: plane.clone(), blue: plane };
            GaussianBlur::default().apply(&planes, size, 2.0, |_, [red, ..]| {
                assert!(red.iter().all(|value| (value - 0.5).abs() < 1e-6));
            });
        }
    }
}
