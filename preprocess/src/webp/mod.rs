//! Encodes views as lossless WebP (RFC 9649), made for speed: one fixed set of transforms, and buffers that are kept.
//!
//! Each pixel becomes its difference from the pixel above (in the top row: from the one to its left), red and blue less
//! green; the differences are coded with one Huffman code a channel, and a run of equal ones is one reference to the
//! pixel before. The `image-webp` crate writes the same kind of stream; this takes fewer passes and no new memory.

mod bits;
mod encoder;

use bits::BitWriter;
pub(crate) use encoder::WebpEncoder;

/// Literal greens, then the prefixes of run lengths.
const GREENS: usize = 256 + 24;
/// Longest code of a literal or of a run's prefix.
const MAX_BITS: u8 = 15;
/// The distance prefix of the pixel before.
const PIXEL_BEFORE: u8 = 1;
/// The predictor "pixel above".
const ABOVE: u8 = 2;
/// The order in which the lengths of the code of lengths are written.
const ORDER_OF_LENGTHS: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// All that stands before the codes of the pixels, the same for every picture but for its sizes.
fn write_header(bits: &mut BitWriter<'_>, width: usize, height: usize) {
    bits.write(0x2F, 8);
    bits.write(width as u64 - 1, 14);
    bits.write(height as u64 - 1, 14);
    // No alpha, version 0.
    bits.write(0, 4);
    // A transform follows (1 bit): subtract green (2 bits).
    bits.write(1 | 2 << 1, 3);
    // A transform follows: prediction (0), in blocks of 2⁷⁺² pixels a side, all with the same predictor.
    bits.write(1 | 7 << 3, 6);
    bits.write(0, 1);
    write_single_symbol(bits, ABOVE);
    for _ in 0..4 {
        write_single_symbol(bits, 0);
    }
    // No further transform, no color cache, one set of codes.
    bits.write(0b000, 3);
}

/// The prefix symbol of a run length from 1 on, the bits that follow it, and how many they are.
#[inline(always)]
fn prefix(run: usize) -> (usize, u64, u32) {
    let value = run - 1;
    if value < 4 {
        return (value, 0, 0);
    }
    let highest = value.ilog2();
    let second = value >> (highest - 1) & 1;
    let extra_bits = highest - 1;
    (2 * highest as usize + second, value as u64 & ((1 << extra_bits) - 1), extra_bits)
}

/// Writes a code that has one symbol, which takes no bits: a simple code of one symbol, told in eight bits.
fn write_single_symbol(bits: &mut BitWriter<'_>, symbol: u8) {
    bits.write(0b101 | u64::from(symbol) << 3, 11);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(file: &[u8]) -> Vec<u8> {
        let mut decoder = image_webp::WebPDecoder::new(std::io::Cursor::new(file)).unwrap();
        let mut pixels = vec![0; decoder.output_buffer_size().unwrap()];
        decoder.read_image(&mut pixels).unwrap();
        pixels
    }

    /// Noise.
    fn random_bytes() -> impl FnMut() -> u8 {
        let mut noise = 1u32;
        move || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        }
    }

    /// Pictures of several kinds.
    fn pictures(width: usize, height: usize) -> Vec<Vec<u8>> {
        let mut random = random_bytes();
        let count = width * height;
        vec![
            vec![0; count * 3],
            vec![200; count * 3],
            (0..count * 3).map(|_| random()).collect::<Vec<u8>>(),
            (0..count * 3).map(|i| (i / 700) as u8 ^ (random() >> 6)).collect(),
            (0..count).flat_map(|i| [(i % 251) as u8; 3]).collect(),
            (0..count * 3).map(|i| if i % 997 == 0 { random() } else { 255 }).collect(),
            long_codes(count * 3),
        ]
    }

    /// Differences that are nearly always small: rare ones have codes of up to 15 bits in all three channels, and pairs of
    /// pixels then fill a whole word.
    fn long_codes(count: usize) -> Vec<u8> {
        let mut noise = count as u64;
        let mut random = move || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 40) as u32
        };
        let mut level = || {
            let spread = (random() | 1).leading_zeros().saturating_sub(8);
            (random() % (1 << spread.min(8))) as u8
        };
        (0..count).map(|_| level()).collect()
    }

    #[test]
    fn every_picture_comes_back() {
        let mut encoder = WebpEncoder::default();
        for (width, height) in [(1, 1), (2, 1), (1, 3), (17, 5), (224, 224), (300, 700)] {
            for (index, pixels) in pictures(width, height).iter().enumerate() {
                let mut file = Vec::new();
                encoder.encode(pixels, width, height, &mut file);
                assert!(decoded(&file) == *pixels, "picture {index} of {width} × {height}");
            }
        }
    }

    #[test]
    fn pictures_with_long_codes_come_back() {
        let mut encoder = WebpEncoder::default();
        for width in 200..240 {
            let pixels = long_codes(width * 224 * 3);
            let mut file = Vec::new();
            encoder.encode(&pixels, width, 224, &mut file);
            assert!(decoded(&file) == pixels);
        }
    }

    #[test]
    fn run_lengths_have_the_prefixes_of_the_format() {
        assert_eq!(prefix(1), (0, 0, 0));
        assert_eq!(prefix(4), (3, 0, 0));
        assert_eq!(prefix(5), (4, 0, 1));
        assert_eq!(prefix(7), (5, 0, 1));
        assert_eq!(prefix(4096), (23, 1023, 10));
    }
}
