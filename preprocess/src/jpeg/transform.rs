//! The inverse cosine transform (ITU T.81, A.3.3) by the method of Loeffler, Ligtenberg and Moschytz (1989) on integers,
//! scaled and rounded as in libjpeg, so that it gives the same samples.

use super::SIDE;
use crate::lanes::{INTS, Lanes};

/// Blocks that are transformed together, a number of each in one vector.
pub(super) const BLOCKS: usize = INTS;
/// Bits behind the point of the factors.
const SCALE: u32 = 13;
/// Bits that the first pass takes off its results, which keep two behind the point.
const FIRST_SHIFT: i32 = SCALE as i32 - 2;
/// Bits that the second pass takes off: those two, and three for the 8 that both passes multiply by.
const SECOND_SHIFT: i32 = SCALE as i32 + 2 + 3;
/// The sample that 0 stands for.
const MIDDLE: i32 = 128;

/// The coefficients of [`BLOCKS`] blocks, row by row, `[64, BLOCKS]`.
#[derive(Clone, Copy)]
pub(super) struct Coefficients(pub [[i32; BLOCKS]; 64]);

impl Coefficients {
    pub const ZERO: Self = Self([[0; BLOCKS]; 64]);
}

/// A factor with [`SCALE`] bits behind the point.
const fn fixed(factor: f64) -> i32 {
    (factor * (1 << SCALE) as f64 + 0.5) as i32
}

/// Eight samples from eight coefficients, [`SCALE`] bits more behind the point.
#[inline(always)]
fn inverse_eight<L: Lanes>(lanes: L, at: [L::Ints; SIDE]) -> [L::Ints; SIDE] {
    let add = |left, right| lanes.add(left, right);
    let less = |left, right| lanes.subtract(left, right);
    let times = |value, factor: i32| lanes.multiply(value, lanes.ints([factor; INTS]));
    // Even part.
    let both = times(add(at[2], at[6]), fixed(0.541_196_100));
    let sine = less(both, times(at[6], fixed(1.847_759_065)));
    let cosine = add(both, times(at[2], fixed(0.765_366_865)));
    let sum = times(add(at[0], at[4]), 1 << SCALE);
    let difference = times(less(at[0], at[4]), 1 << SCALE);
    let even = [add(sum, cosine), add(difference, sine), less(difference, sine), less(sum, cosine)];
    // Odd part.
    let z1 = times(add(at[7], at[1]), fixed(0.899_976_223));
    let z2 = times(add(at[5], at[3]), fixed(2.562_915_447));
    let (z3, z4) = (add(at[7], at[3]), add(at[5], at[1]));
    let z5 = times(add(z3, z4), fixed(1.175_875_602));
    let z3 = less(z5, times(z3, fixed(1.961_570_560)));
    let z4 = less(z5, times(z4, fixed(0.390_180_644)));
    let odd = [
        add(less(times(at[1], fixed(1.501_321_110)), z1), z4),
        add(less(times(at[3], fixed(3.072_711_026)), z2), z3),
        add(less(times(at[5], fixed(2.053_119_869)), z2), z4),
        add(less(times(at[7], fixed(0.298_631_336)), z1), z3),
    ];
    [
        add(even[0], odd[0]),
        add(even[1], odd[1]),
        add(even[2], odd[2]),
        add(even[3], odd[3]),
        less(even[3], odd[3]),
        less(even[2], odd[2]),
        less(even[1], odd[1]),
        less(even[0], odd[0]),
    ]
}

/// Writes the samples of the blocks side by side, `[8, BLOCKS * 8]`, its lines `stride` apart.
#[inline(always)]
pub(super) fn inverse<L: Lanes>(lanes: L, coefficients: &Coefficients, samples: &mut [u8], stride: usize) {
    // Loops and arrays of eight places: longer chains of closures are not compiled for what the processor has.
    const EIGHT: [usize; SIDE] = [0, 1, 2, 3, 4, 5, 6, 7];
    let rounding = lanes.ints([1 << (FIRST_SHIFT - 1); INTS]);
    let mut columns = [[lanes.ints([0; INTS]); SIDE]; SIDE];
    for (column, halfway) in columns.iter_mut().enumerate() {
        let to = inverse_eight(lanes, EIGHT.map(|row| lanes.ints(coefficients.0[row * SIDE + column])));
        for (halfway, value) in halfway.iter_mut().zip(to) {
            *halfway = lanes.shift_right::<FIRST_SHIFT>(lanes.add(value, rounding));
        }
    }
    let rounding = lanes.ints([(MIDDLE << SECOND_SHIFT) + (1 << (SECOND_SHIFT - 1)); INTS]);
    for row in 0..SIDE {
        let from = EIGHT.map(|column| columns[column][row]);
        let levels = inverse_eight(lanes, from)
            .map(|level| lanes.bytes(lanes.shift_right::<SECOND_SHIFT>(lanes.add(level, rounding))));
        let (blocks, _) = samples[row * stride..][..BLOCKS * SIDE].as_chunks_mut();
        for (block, line) in blocks.iter_mut().zip(transposed(levels)) {
            *block = line;
        }
    }
}

/// Columns to rows: exchanges quarters, then quarters of those, then single bytes.
#[inline(always)]
fn transposed(rows: [[u8; 8]; 8]) -> [[u8; 8]; 8] {
    let mut rows = rows.map(u64::from_le_bytes);
    let mut exchange = |distance: usize, mask: u64| {
        for row in (0..8).filter(|row| row & distance == 0) {
            let bits = 8 * distance as u32;
            let differing = (rows[row] >> bits ^ rows[row + distance]) & mask;
            rows[row] ^= differing << bits;
            rows[row + distance] ^= differing;
        }
    };
    exchange(4, 0x0000_0000_FFFF_FFFF);
    exchange(2, 0x0000_FFFF_0000_FFFF);
    exchange(1, 0x00FF_00FF_00FF_00FF);
    rows.map(u64::to_le_bytes)
}
