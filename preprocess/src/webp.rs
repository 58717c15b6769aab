//! Lossless WebP (RFC 9649) for views, made for speed: one fixed set of transforms, and buffers that are kept.
//!
//! Each pixel becomes its difference from the pixel above (in the top row: from the one to its left), red and blue less
//! green; the differences are coded with one Huffman code a channel, and a run of equal ones is one reference to the
//! pixel before. The `image-webp` crate writes the same kind of stream; this takes fewer passes and no new memory.

use crate::huffman::Code;

/// Literal greens, then the prefixes of run lengths.
const GREENS: usize = 256 + 24;
/// Longest run that one reference tells.
const MAX_RUN: usize = 4096;
/// Longest code of a literal or of a run's prefix.
const MAX_BITS: u8 = 15;
/// Longest code of a code's length.
const MAX_BITS_OF_LENGTH: u8 = 7;
/// The distance prefix of the pixel before.
const PIXEL_BEFORE: u8 = 1;
/// The predictor "pixel above".
const ABOVE: u8 = 2;
/// Behind the last pixel's differences: unlike any pixel's.
const NO_PIXEL: u32 = u32::MAX;
/// The order in which the lengths of the code of lengths are written.
const ORDER_OF_LENGTHS: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Encodes one picture after the other in buffers that it keeps. One for each thread.
#[derive(Default)]
pub(crate) struct WebpEncoder {
    /// The differences of each pixel: green in the lowest byte, then red and blue; [`NO_PIXEL`] last.
    residuals: Vec<u32>,
    /// The same before green is taken off: red, green, blue.
    differences: Vec<u8>,
    green: Code<GREENS>,
    red: Code<256>,
    blue: Code<256>,
    of_lengths: Code<16>,
}

/// Bits to bytes, from the lowest bit on.
struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    buffer: u64,
    /// Bits in `buffer`, fewer than 64.
    filled: u32,
}

impl BitWriter<'_> {
    /// Appends the lowest `count` bits of `bits`, whose others are 0.
    #[inline(always)]
    fn write(&mut self, bits: u64, count: u32) {
        self.buffer |= bits << self.filled;
        let filled = self.filled + count;
        if filled >= 64 {
            self.bytes.extend_from_slice(&self.buffer.to_le_bytes());
            // What did not fit; nothing where the buffer was empty before.
            self.buffer = bits.checked_shr(64 - self.filled).unwrap_or(0);
            self.filled = filled - 64;
        } else {
            self.filled = filled;
        }
    }

    fn finish(self) {
        let bytes = self.filled.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.buffer.to_le_bytes()[..bytes]);
    }
}

impl WebpEncoder {
    /// Encodes `[height, width, 3]` bytes, red first, into the end of `file`. Width and height are from 1 to 16384.
    pub(crate) fn encode(&mut self, pixels: &[u8], width: usize, height: usize, file: &mut Vec<u8>) {
        let start = file.len();
        // The sizes are filled in at the end.
        file.extend_from_slice(b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0");
        let body = file.len();
        let mut bits = BitWriter { bytes: file, buffer: 0, filled: 0 };
        write_header(&mut bits, width, height);
        self.predict(pixels, width);
        self.write_codes(&mut bits);
        self.write_pixels(&mut bits);
        bits.finish();
        let stream = (file.len() - body) as u32;
        if stream % 2 == 1 {
            file.push(0);
        }
        let whole = (file.len() - start - 8) as u32;
        file[start + 4..start + 8].copy_from_slice(&whole.to_le_bytes());
        file[body - 4..body].copy_from_slice(&stream.to_le_bytes());
    }

    /// Fills `residuals`.
    fn predict(&mut self, pixels: &[u8], width: usize) {
        let (first, rest) = pixels.split_at(width * 3);
        self.differences.clear();
        self.differences.extend_from_slice(&first[..3]);
        // Byte for byte, so that it is done in whole vectors.
        self.differences.extend(first[3..].iter().zip(first).map(|(pixel, left)| pixel.wrapping_sub(*left)));
        self.differences.extend(rest.iter().zip(pixels).map(|(pixel, above)| pixel.wrapping_sub(*above)));
        self.residuals.clear();
        self.residuals.extend(self.differences.as_chunks().0.iter().map(|&[red, green, blue]| {
            u32::from_le_bytes([green, red.wrapping_sub(green), blue.wrapping_sub(green), 0])
        }));
        self.residuals.push(NO_PIXEL);
    }

    /// Counts the symbols, builds a code for each channel, and writes the codes.
    fn write_codes(&mut self, bits: &mut BitWriter<'_>) {
        let mut greens = [0u32; GREENS];
        // Neighbors are often alike: in two tables in turn, an addition need not wait for the one before.
        let mut tables = [[[0u32; 256]; 3]; 2];
        let mut at = 0;
        while self.residuals[at] != NO_PIXEL {
            let pixel = self.residuals[at];
            let [green, red, blue, _] = pixel.to_le_bytes().map(usize::from);
            let table = &mut tables[at & 1];
            table[0][green] += 1;
            table[1][red] += 1;
            table[2][blue] += 1;
            at += 1;
            if self.residuals[at] == pixel {
                let run = run_length(pixel, &self.residuals[at..]);
                greens[256 + prefix(run).0] += 1;
                at += run;
            }
        }
        let [even, odd] = tables;
        let [literals, reds, blues] = [0, 1, 2]
            .map(|channel| std::array::from_fn(|symbol| even[channel][symbol] + odd[channel][symbol]));
        let literals: [u32; 256] = literals;
        greens[..256].copy_from_slice(&literals);
        write_code(bits, &greens, &mut self.green, &mut self.of_lengths);
        write_code(bits, &reds, &mut self.red, &mut self.of_lengths);
        write_code(bits, &blues, &mut self.blue, &mut self.of_lengths);
        // Opaque throughout: alpha never differs from what is predicted.
        write_single_symbol(bits, 0);
        write_single_symbol(bits, PIXEL_BEFORE);
    }

    fn write_pixels(&self, bits: &mut BitWriter<'_>) {
        // Bits and their number side by side: one access to memory a symbol.
        let [greens, reds, blues]: [[u32; 256]; 3] =
            [self.green.packed(), self.red.packed(), self.blue.packed()];
        let mut at = 0;
        while self.residuals[at] != NO_PIXEL {
            let pixel = self.residuals[at];
            let [green, red, blue, _] = pixel.to_le_bytes().map(usize::from);
            let [green, red, blue] = [greens[green], reds[red], blues[blue]];
            let [green_bits, red_bits, blue_bits] = [green, red, blue].map(|code| u64::from(code & 0xFFFF));
            let [to_red, to_blue] = [green >> 16, (green >> 16) + (red >> 16)];
            // At most three times 15 bits.
            let code = green_bits | red_bits << to_red | blue_bits << to_blue;
            bits.write(code, to_blue + (blue >> 16));
            at += 1;
            if self.residuals[at] == pixel {
                let run = run_length(pixel, &self.residuals[at..]);
                let (symbol, extra, extra_bits) = prefix(run);
                bits.write(self.green.bits[256 + symbol].into(), self.green.lengths[256 + symbol].into());
                bits.write(extra, extra_bits);
                at += run;
            }
        }
    }
}

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

/// How many pixels equal to `pixel` lie at the head of `after`, as far as one reference reaches.
fn run_length(pixel: u32, after: &[u32]) -> usize {
    after.iter().take(MAX_RUN).take_while(|&&other| other == pixel).count()
}

/// The prefix symbol of a run length from 1 on, the bits that follow it, and how many they are.
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

/// A code that has one symbol, which takes no bits.
fn write_single_symbol(bits: &mut BitWriter<'_>, symbol: u8) {
    // A simple code of one symbol, told in 8 bits.
    bits.write(0b101, 3);
    bits.write(symbol.into(), 8);
}

fn write_code<const N: usize>(
    bits: &mut BitWriter<'_>,
    frequencies: &[u32; N],
    code: &mut Code<N>,
    of_lengths: &mut Code<16>,
) {
    if let Some(symbol) = code.build(frequencies, MAX_BITS) {
        // A run's prefix never stands alone: a literal comes before it.
        return write_single_symbol(bits, symbol as u8);
    }
    let mut length_frequencies = [0; 16];
    for &length in &code.lengths {
        length_frequencies[usize::from(length)] += 1;
    }
    let single = of_lengths.build(&length_frequencies, MAX_BITS_OF_LENGTH);
    bits.write(0, 1);
    bits.write(ORDER_OF_LENGTHS.len() as u64 - 4, 4);
    for length in ORDER_OF_LENGTHS {
        let is_single = single == Some(length);
        let bits_of_length = of_lengths.lengths.get(length).copied().unwrap_or(0);
        bits.write(u64::from(if is_single { 1 } else { bits_of_length }), 3);
    }
    // Lengths for all symbols follow.
    bits.write(0, 1);
    for &length in &code.lengths {
        let length = usize::from(length);
        bits.write(of_lengths.bits[length].into(), of_lengths.lengths[length].into());
    }
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

    #[test]
    fn every_picture_comes_back() {
        let mut encoder = WebpEncoder::default();
        let mut noise = 1u32;
        let mut random = move || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        };
        for (width, height) in [(1, 1), (2, 1), (1, 3), (17, 5), (224, 224), (300, 700)] {
            let count = width * height;
            let pictures = [
                vec![0; count * 3],
                vec![200; count * 3],
                (0..count * 3).map(|_| random()).collect::<Vec<u8>>(),
                (0..count * 3).map(|i| (i / 700) as u8 ^ (random() >> 6)).collect(),
                (0..count).flat_map(|i| [(i % 251) as u8; 3]).collect(),
                (0..count * 3).map(|i| if i % 997 == 0 { random() } else { 255 }).collect(),
            ];
            for (index, pixels) in pictures.iter().enumerate() {
                let mut file = Vec::new();
                encoder.encode(pixels, width, height, &mut file);
                assert!(decoded(&file) == *pixels, "picture {index} of {width} × {height}");
            }
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
