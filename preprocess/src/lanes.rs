//! Steps that the compiler does not turn into vector instructions by itself. They are on integers, so every processor
//! computes the same.

use pulp::{Arch, Simd, WithSimd};

/// Pixels whose differences are computed together, and the bytes that must lie there to read them.
pub(crate) const PIXELS: usize = 8;
pub(crate) const PIXEL_BYTES: usize = 28;

/// How many integers are in a vector.
pub(crate) const INTS: usize = 8;

/// Vectors of bytes and of integers, whose sums and products wrap around.
pub(crate) trait Lanes: Copy {
    /// [`INTS`] integers.
    type Ints: Copy;

    fn ints(self, values: [i32; INTS]) -> Self::Ints;

    fn add(self, left: Self::Ints, right: Self::Ints) -> Self::Ints;

    fn subtract(self, left: Self::Ints, right: Self::Ints) -> Self::Ints;

    fn multiply(self, left: Self::Ints, right: Self::Ints) -> Self::Ints;

    /// Divides by 2 to the power of `BITS`, rounding down.
    fn shift_right<const BITS: i32>(self, values: Self::Ints) -> Self::Ints;

    /// As bytes, what is too large or too small as the nearest one.
    fn bytes(self, values: Self::Ints) -> [u8; INTS];

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
    type Ints = [i32; INTS];

    #[inline(always)]
    fn ints(self, values: [i32; INTS]) -> [i32; INTS] {
        values
    }

    #[inline(always)]
    fn add(self, left: [i32; INTS], right: [i32; INTS]) -> [i32; INTS] {
        std::array::from_fn(|lane| left[lane].wrapping_add(right[lane]))
    }

    #[inline(always)]
    fn subtract(self, left: [i32; INTS], right: [i32; INTS]) -> [i32; INTS] {
        std::array::from_fn(|lane| left[lane].wrapping_sub(right[lane]))
    }

    #[inline(always)]
    fn multiply(self, left: [i32; INTS], right: [i32; INTS]) -> [i32; INTS] {
        std::array::from_fn(|lane| left[lane].wrapping_mul(right[lane]))
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, values: [i32; INTS]) -> [i32; INTS] {
        values.map(|value| value >> BITS)
    }

    #[inline(always)]
    fn bytes(self, values: [i32; INTS]) -> [u8; INTS] {
        values.map(|value| value.clamp(0, 255) as u8)
    }

    #[inline(always)]
    fn residuals(self, pixels: &[u8; PIXEL_BYTES], predicted: &[u8; PIXEL_BYTES]) -> [u32; PIXELS] {
        std::array::from_fn(|pixel| {
            let [red, green, blue] = [0, 1, 2]
                .map(|channel| pixels[pixel * 3 + channel].wrapping_sub(predicted[pixel * 3 + channel]));
            u32::from_le_bytes([green, red.wrapping_sub(green), blue.wrapping_sub(green), 0])
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::cast;
    use pulp::x86::V3;

    use super::{INTS, Lanes, PIXEL_BYTES, PIXELS};

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
        type Ints = __m256i;

        #[inline(always)]
        fn ints(self, values: [i32; INTS]) -> __m256i {
            cast(values)
        }

        #[inline(always)]
        fn add(self, left: __m256i, right: __m256i) -> __m256i {
            self.avx2._mm256_add_epi32(left, right)
        }

        #[inline(always)]
        fn subtract(self, left: __m256i, right: __m256i) -> __m256i {
            self.avx2._mm256_sub_epi32(left, right)
        }

        #[inline(always)]
        fn multiply(self, left: __m256i, right: __m256i) -> __m256i {
            self.avx2._mm256_mullo_epi32(left, right)
        }

        #[inline(always)]
        fn shift_right<const BITS: i32>(self, values: __m256i) -> __m256i {
            self.avx2._mm256_srai_epi32::<BITS>(values)
        }

        #[inline(always)]
        fn bytes(self, values: __m256i) -> [u8; INTS] {
            let [low, high]: [__m128i; 2] = cast(values);
            let words = self.sse2._mm_packs_epi32(low, high);
            let [bytes, _]: [[u8; INTS]; 2] = cast(self.sse2._mm_packus_epi16(words, words));
            bytes
        }

        #[inline(always)]
        fn residuals(self, pixels: &[u8; PIXEL_BYTES], predicted: &[u8; PIXEL_BYTES]) -> [u32; PIXELS] {
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
        type Output = Vec<i64>;

        #[inline(always)]
        fn run(self, lanes: impl Lanes) -> Vec<i64> {
            let mut found = Vec::new();
            let mut noise = 1u32;
            for _ in 0..1000 {
                let mut random = || {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    noise >> 16
                };
                let bytes: [u8; PIXEL_BYTES] = std::array::from_fn(|_| random() as u8);
                let others: [u8; PIXEL_BYTES] = std::array::from_fn(|_| random() as u8);
                found.extend(lanes.residuals(&bytes, &others).map(i64::from));
                let [left, right] = [0, 1].map(|_| {
                    let values = std::array::from_fn(|_| (random() << 16 | random()) as i32);
                    lanes.ints(values)
                });
                for ints in [
                    lanes.add(left, right),
                    lanes.subtract(left, right),
                    lanes.multiply(left, right),
                    lanes.shift_right::<11>(left),
                ] {
                    let small = lanes.shift_right::<22>(ints);
                    found.extend([0, 8, 16, 24].into_iter().flat_map(|_| lanes.bytes(small)).map(i64::from));
                }
            }
            found
        }
    }

    #[test]
    fn every_processor_computes_the_same() {
        assert_eq!(Differences.run(Portable), dispatch(Differences));
    }
}
