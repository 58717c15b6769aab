//! Sums over the rows of a map that do not depend on how its images are divided among processes.
//!
//! A map is added up in pieces that never span two images, and the pieces with twice float64's
//! precision: what their order changes lies far below the last bit of a float32.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::cpu::CHUNK;
use crate::collective::Ranks;

/// Columns that one thread adds up at a time.
const COLUMNS: usize = 512;

/// Rows in a piece of work.
pub(super) fn piece(channels: usize) -> usize {
    (CHUNK / channels).max(1)
}

/// Rows and channels of a map. A process without matched boxes has none of the heads' rows.
pub(super) fn sizes(x: &Tensor) -> Result<(usize, usize)> {
    match x.dims().last() {
        Some(&channels) if channels > 0 => Ok((x.elem_count() / channels, channels)),
        _ => bail!("batch norm of a tensor of shape {:?}", x.dims()),
    }
}

/// The numbers of each piece over which a map is summed up: an image, or equal parts of a large one
/// and a smaller rest.
pub(super) fn pieces(x: &Tensor) -> Result<Vec<usize>> {
    let (rows, c) = sizes(x)?;
    let image = (x.elem_count() / x.dims()[0].max(1)).max(1);
    let size = piece(c) * c;
    let of_image = || (0..image).step_by(size).map(|first| size.min(image - first));
    Ok((0..rows * c / image).flat_map(|_| of_image()).collect())
}

/// The pieces of `numbers`.
pub(super) fn split<'a>(mut numbers: &'a [f32], sizes: &[usize]) -> Vec<&'a [f32]> {
    let mut next = |size: &usize| {
        let (piece, rest) = numbers.split_at(*size);
        numbers = rest;
        piece
    };
    sizes.iter().map(&mut next).collect()
}

/// Sums of numbers with twice float64's precision: a sum and what rounding it left out (Knuth, The
/// Art of Computer Programming, volume 2, section 4.2.2, theorem B).
pub(super) struct Sums {
    sums: Vec<f64>,
    rests: Vec<f64>,
}

impl Sums {
    /// The sums of `length` columns over `rows`.
    pub fn of<T: Copy + Into<f64> + Sync>(rows: &[impl AsRef<[T]> + Sync], length: usize) -> Self {
        let (mut sums, mut rests) = (vec![0.0; length], vec![0.0; length]);
        let blocks = sums.par_chunks_mut(COLUMNS).zip(rests.par_chunks_mut(COLUMNS));
        blocks.enumerate().for_each(|(block, (sums, rests))| {
            for row in rows {
                let row = &row.as_ref()[block * COLUMNS..][..sums.len()];
                vectorized!(add_exactly(sums, rests, row));
            }
        });
        Self { sums, rests }
    }

    /// The sums over all ranks.
    pub fn among(&self, ranks: &Ranks) -> Self {
        let length = self.sums.len();
        let all = ranks.gather(&[&self.sums[..], &self.rests].concat());
        Self::of(&all.chunks_exact(length).collect::<Vec<_>>(), length)
    }

    pub fn rounded(self) -> Vec<f64> {
        self.sums.into_iter().zip(self.rests).map(|(sum, rest)| sum + rest).collect()
    }
}

#[inline(always)]
fn add_exactly<T: Copy + Into<f64>>(sums: &mut [f64], rests: &mut [f64], numbers: &[T]) {
    for ((sum, rest), number) in sums.iter_mut().zip(rests).zip(numbers) {
        let number = (*number).into();
        let total = *sum + number;
        let of_number = total - *sum;
        *rest += (*sum - (total - of_number)) + (number - of_number);
        *sum = total;
    }
}
