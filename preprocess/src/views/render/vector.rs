//! Sixteen values computed together: the inner loops of resizing and blurring, where the compiler
//! by itself keeps sums in memory.

use super::fixed::times;

/// Values of a vector.
pub(super) const VALUES: usize = 16;

/// A processor's way of computing with sixteen values, `V`.
pub(super) trait Vectors: Copy {
    /// Sixteen values in registers.
    type V: Copy;
    /// Sixteen times the same value.
    fn splat(self, value: i16) -> Self::V;
    /// Reads from memory.
    fn load(self, values: &[i16; VALUES]) -> Self::V;
    /// Writes to memory.
    fn store(self, value: Self::V, values: &mut [i16; VALUES]);
    /// Sums without overflow checks.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// [`times`](super::fixed::times).
    fn times(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller values.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger values.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
}

/// Work that is compiled for each kind of processor.
pub(super) trait Work {
    /// Does it.
    fn run<S: Vectors>(self, simd: S);
}

/// Does the work as compiled for the widest vectors that this processor has of those below.
pub(super) fn run(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        struct Compiled<W>(pulp::x86::V3, W);

        impl<W: Work> pulp::NullaryFnOnce for Compiled<W> {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                self.1.run(self.0);
            }
        }

        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(Compiled(simd, work));
        }
    }
    work.run(Plain);
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Plain;

/// Applies a function to each of sixteen values.
#[inline(always)]
fn each(a: [i16; VALUES], b: [i16; VALUES], apply: impl Fn(i16, i16) -> i16) -> [i16; VALUES] {
    let mut values = [0; VALUES];
    for i in 0..VALUES {
        values[i] = apply(a[i], b[i]);
    }
    values
}

impl Vectors for Plain {
    type V = [i16; VALUES];

    #[inline(always)]
    fn splat(self, value: i16) -> Self::V {
        [value; VALUES]
    }

    #[inline(always)]
    fn load(self, values: &[i16; VALUES]) -> Self::V {
        *values
    }

    #[inline(always)]
    fn store(self, value: Self::V, values: &mut [i16; VALUES]) {
        *values = value;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, i16::wrapping_add)
    }

    #[inline(always)]
    fn times(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, times)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, i16::min)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(a, b, i16::max)
    }
}

#[cfg(target_arch = "x86_64")]
impl Vectors for pulp::x86::V3 {
    type V = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn splat(self, value: i16) -> Self::V {
        self.avx._mm256_set1_epi16(value)
    }

    #[inline(always)]
    fn load(self, values: &[i16; VALUES]) -> Self::V {
        pulp::bytemuck::cast(*values)
    }

    #[inline(always)]
    fn store(self, value: Self::V, values: &mut [i16; VALUES]) {
        *values = pulp::bytemuck::cast(value);
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx2._mm256_add_epi16(a, b)
    }

    #[inline(always)]
    fn times(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx2._mm256_mulhrs_epi16(a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx2._mm256_min_epi16(a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        self.avx2._mm256_max_epi16(a, b)
    }
}
