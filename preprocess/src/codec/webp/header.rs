//! The header of a lossless WebP file, before the codes of its pixels.

use super::bits::BitWriter;

/// Symbols of the green code: 256 literals, then the prefixes of run lengths.
pub(super) const GREENS: usize = 256 + 24;
/// Longest code of a literal or of a run's prefix.
pub(super) const MAX_BITS: u8 = 15;
/// The distance prefix of the previous pixel.
pub(super) const PIXEL_BEFORE: u8 = 1;
/// The predictor "pixel above".
pub(super) const ABOVE: u8 = 2;
/// The order in which the code lengths of the code-length code are written.
pub(super) const ORDER_OF_LENGTHS: [usize; 19] =
    [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Writes everything before the codes of the pixels; only the sizes differ between images.
pub(super) fn write_header(bits: &mut BitWriter<'_>, width: usize, height: usize) {
    bits.write(0x2F, 8);
    bits.write(width as u64 - 1, 14);
    bits.write(height as u64 - 1, 14);
    // No alpha, version 0.
    bits.write(0, 4);
    // A transform follows (1 bit): subtract green (2 bits).
    bits.write(1 | 2 << 1, 3);
    // A transform follows: prediction (0), in square blocks of 2⁷⁺² pixels a side, all with
    // the same predictor.
    bits.write(1 | 7 << 3, 6);
    bits.write(0, 1);
    write_single_symbol(bits, ABOVE);
    for _ in 0..4 {
        write_single_symbol(bits, 0);
    }
    // No further transform, no color cache, one set of codes.
    bits.write(0b000, 3);
}

/// The prefix symbol of a run length of at least 1, the extra bits that follow it, and their
/// number.
#[inline(always)]
pub(super) fn prefix(run: usize) -> (usize, u64, u32) {
    let value = run - 1;
    if value < 4 {
        return (value, 0, 0);
    }
    let highest = value.ilog2();
    let second = value >> (highest - 1) & 1;
    let extra_bits = highest - 1;
    (2 * highest as usize + second, value as u64 & ((1 << extra_bits) - 1), extra_bits)
}

/// Writes a simple code of one symbol, given in eight bits; the symbol itself then takes no bits.
pub(super) fn write_single_symbol(bits: &mut BitWriter<'_>, symbol: u8) {
    bits.write(0b101 | u64::from(symbol) << 3, 11);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_lengths_have_the_prefixes_of_the_format() {
        assert_eq!(prefix(1), (0, 0, 0));
        assert_eq!(prefix(4), (3, 0, 0));
        assert_eq!(prefix(5), (4, 0, 1));
        assert_eq!(prefix(7), (5, 0, 1));
        assert_eq!(prefix(4096), (23, 1023, 10));
    }
}
