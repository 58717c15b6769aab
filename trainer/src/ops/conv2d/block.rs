//! The innermost loop of convolutions: a block of sums that stays in vector registers.
//!
//! A block is [`ROWS`] rows by [`width`] columns of a matrix product. Each of its numbers is one
//! sum, added term by term in a fixed order with fused multiply-adds, so that it is the same on any
//! processor that has those.

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Arch, Simd, WithSimd};

/// Rows of a block. With two vectors a row, twelve sums hide the latency of a multiply-add, and
/// with the operands they just fit the sixteen registers of AVX2.
pub(super) const ROWS: usize = 6;

/// Vectors of a row.
const VECTORS: usize = 2;

/// Columns of a block.
pub(super) fn width() -> usize {
    struct Width;

    impl WithSimd for Width {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            VECTORS * S::F32_LANES
        }
    }

    Arch::new().dispatch(Width)
}

/// The sums of a block.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd>([[S::f32s; VECTORS]; ROWS]);

impl<S: Simd> Sums<S> {
    #[inline(always)]
    pub fn zero(simd: S) -> Self {
        Self([[simd.splat_f32s(0.0); VECTORS]; ROWS])
    }

    /// Reads a row, which has at most [`width`] columns.
    #[inline(always)]
    pub fn read(&mut self, row: usize, from: &[f32]) {
        let (vectors, _) = S::as_simd_f32s(from);
        match vectors.first_chunk() {
            Some(vectors) => self.0[row] = *vectors,
            None => cast_slice_mut(&mut self.0[row])[..from.len()].copy_from_slice(from),
        }
    }

    /// Writes a row, which has at most [`width`] columns.
    #[inline(always)]
    pub fn write(&self, row: usize, to: &mut [f32]) {
        let (vectors, _) = S::as_mut_simd_f32s(to);
        match vectors.first_chunk_mut() {
            Some(vectors) => *vectors = self.0[row],
            None => {
                let length = to.len();
                to.copy_from_slice(&cast_slice(&self.0[row])[..length]);
            }
        }
    }

    /// Adds a row to `to`, which has [`width`] columns.
    #[inline(always)]
    pub fn add_to(&self, simd: S, row: usize, to: &mut [f32]) {
        let (vectors, _) = S::as_mut_simd_f32s(to);
        for (to, sum) in vectors.iter_mut().zip(self.0[row]) {
            *to = simd.add_f32s(*to, sum);
        }
    }

    /// Adds the products of `rows`, of equal lengths, with a panel: [`width`] columns for each
    /// number of a row.
    #[inline(always)]
    pub fn add_rows(&mut self, simd: S, rows: [&[f32]; ROWS], panel: &[f32]) {
        let mut sums = self.0;
        let [r0, r1, r2, r3, r4, r5] = rows;
        let terms = columns::<S>(panel).iter().zip(r0).zip(r1).zip(r2).zip(r3).zip(r4).zip(r5);
        for ((((((columns, a0), a1), a2), a3), a4), a5) in terms {
            add_products(simd, &mut sums, [*a0, *a1, *a2, *a3, *a4, *a5], columns);
        }
        self.0 = sums;
    }

    /// As [`Sums::add_rows`], from rows that lie side by side in memory.
    #[inline(always)]
    pub fn add_interleaved(&mut self, simd: S, rows: &[[f32; ROWS]], panel: &[f32]) {
        let mut sums = self.0;
        for (columns, rows) in columns::<S>(panel).iter().zip(rows) {
            add_products(simd, &mut sums, *rows, columns);
        }
        self.0 = sums;
    }
}

/// The lines of a panel.
#[inline(always)]
fn columns<S: Simd>(panel: &[f32]) -> &[[S::f32s; VECTORS]] {
    S::as_simd_f32s(panel).0.as_chunks().0
}

#[inline(always)]
fn add_products<S: Simd>(
    simd: S,
    sums: &mut [[S::f32s; VECTORS]; ROWS],
    rows: [f32; ROWS],
    columns: &[S::f32s; VECTORS],
) {
    for (sums, row) in sums.iter_mut().zip(rows) {
        let row = simd.splat_f32s(row);
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = simd.mul_add_f32s(row, *column, *sum);
        }
    }
}

/// Copies a line of at most [`width`] numbers; the fastest way is for one of just that many.
#[inline(always)]
pub(super) fn copy_line<S: Simd>(from: &[f32], to: &mut [f32]) {
    let (vectors, _) = S::as_mut_simd_f32s(to);
    match (S::as_simd_f32s(from).0.first_chunk::<VECTORS>(), vectors.first_chunk_mut()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}
