//! The step of the WebP encoder that the compiler does not turn into vector instructions by itself. It is on integers, so
//! every processor computes the same.

use pulp::{Arch, Simd, WithSimd};

/// Pixels whose differences are computed together, and the bytes that must lie there to read them.
pub(crate) const PIXELS: usize = 8;
pub(crate) const PIXEL_BYTES: usize = 28;

/// Vectors of bytes, whose differences wrap around.
pub(crate) trait Lanes: Copy {
    /// Pixels less what is predicted, then red and blue less green: green in the lowest byte, then red and blue.
    fn residuals(self, pixels: &[u8; PIXEL_BYTES], predicted: &[u8; PIXEL_BYTES]) -> [u32; PIXELS];
}

/// Work that is done with any [`Lanes`].
pub(crate) trait Work {
    /// What it gives.
    type Output;

    /// Must be `inline(always)`, and all that it calls, so that it is compiled for what the processor has.
    fn run(self, lanes: impl Lanes) -> Self::Output;
}

/// Does the work with the best lanes that the processor has.
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, With { lanes: simd, work });
    }
    Arch::new().dispatch(With { lanes: Portable, work })
}

struct With<L, W> {
    lanes: L,
    work: W,
}

impl<L: Lanes, W: Work> WithSimd for With<L, W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> W::Output {
        self.work.run(self.lanes)
    }
}

/// For any processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn residuals(self, pixels: &[u8; PIXEL_BYTES], predicted: &[u8; PIXEL_BYTES]) -> [u32; PIXELS] {
        std::array::from_fn(|pixel| {
            let [red, green, blue] = [0, 1, 2].map(|channel| {
                pixels[pixel * 3 + channel].wrapping_sub(predicted[pixel * 3 + channel])
            });
            u32::from_le_bytes([green, red.wrapping_sub(green), blue.wrapping_sub(green), 0])
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::cast;
    use pulp::x86::V3;

    use super::{Lanes, PIXEL_BYTES, PIXELS};

    /// Where a shuffle puts zero.
    const NONE: i8 = -1;

    /// The same shuffle of four pixels in both halves of a vector.
    const fn of_pixels(first: [i8; 4], step: i8) -> [[i8; 16]; 2] {
        let mut indices = [0; 16];
        let mut index = 0;
        while index < 16 {
            let from = first[index % 4];
            indices[index] = if from == NONE { NONE } else { from + step * (index / 4) as i8 };
            index += 1;
        }
        [indices; 2]
    }

    impl Lanes for V3 {
        #[inline(always)]
        fn residuals(
            self,
            pixels: &[u8; PIXEL_BYTES],
            predicted: &[u8; PIXEL_BYTES],
        ) -> [u32; PIXELS] {
            const GREEN_FIRST: [[i8; 16]; 2] = of_pixels([1, 0, 2, NONE], 3);
            const GREEN_OF_OTHERS: [[i8; 16]; 2] = of_pixels([NONE, 0, 0, NONE], 4);
            let four_each = |bytes: &[u8; PIXEL_BYTES]| -> __m256i {
                let mut halves = [[0u8; 16]; 2];
                halves[0].copy_from_slice(&bytes[..16]);
                halves[1].copy_from_slice(&bytes[12..]);
                cast(halves)
            };
            let differences = self.avx2._mm256_sub_epi8(four_each(pixels), four_each(predicted));
            let differences = self.avx2._mm256_shuffle_epi8(differences, cast(GREEN_FIRST));
            let greens = self.avx2._mm256_shuffle_epi8(differences, cast(GREEN_OF_OTHERS));
            cast(self.avx2._mm256_sub_epi8(differences, greens))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differences of random pixels.
    struct Differences;

    impl Work for Differences {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run(self, lanes: impl Lanes) -> Vec<u32> {
            let mut found = Vec::new();
            let mut noise = 1u32;
            for _ in 0..1000 {
                let mut random = || {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    noise >> 16
                };
                let bytes: [u8; PIXEL_BYTES] = std::array::from_fn(|_| random() as u8);
                let others: [u8; PIXEL_BYTES] = std::array::from_fn(|_| random() as u8);
                found.extend(lanes.residuals(&bytes, &others));
            }
            found
        }
    }

    #[test]
    fn every_processor_computes_the_same() {
        assert_eq!(Differences.run(Portable), dispatch(Differences));
    }
}
