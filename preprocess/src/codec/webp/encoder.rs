//! The encoder: few passes over the pixels, and no new memory.

use std::ops::Range;

use super::bits::BitWriter;
use super::header::{
    GREENS, MAX_BITS, ORDER_OF_LENGTHS, PIXEL_BEFORE, prefix, write_header, write_single_symbol,
};
use super::huffman::Code;
use crate::vectorized;

/// Longest run of one reference.
const MAX_RUN: usize = 4096;
/// Longest code of a code length.
const MAX_BITS_OF_LENGTH: u8 = 7;
/// One of so many groups of pixels is counted.
const SAMPLED: usize = 4;
/// Pixels that are compared at once in the search for runs.
const GROUP: usize = 4;
/// What a file begins with: the sizes of what follows, behind RIFF and VP8L, are filled in.
const HEAD: &[u8; 20] = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0";
/// More bytes than the header and the codes ever take: a code of lengths and 7 bits a symbol, three
/// times.
const HEAD_BYTES: usize = 1024;

/// Encodes one view after the other in buffers that it keeps. One for each thread.
#[derive(Default)]
pub(crate) struct WebpEncoder {
    /// The residual of each pixel: red, green, blue, and 0.
    residuals: Vec<[u8; 4]>,
    spans: Vec<Span>,
    green: Code<GREENS>,
    red: Code<256>,
    blue: Code<256>,
    of_lengths: Code<16>,
    /// The last file, and room behind it.
    file: Vec<u8>,
}

/// Pixels that are coded one by one, then the number of further ones equal to the last of them.
struct Span {
    literals: Range<usize>,
    run: usize,
}

/// Finds the runs of at least [`GROUP`] pixels.
#[inline(always)]
fn find_spans(residuals: &[[u8; 4]], spans: &mut Vec<Span>) {
    spans.clear();
    let (mut start, mut at) = (0, 1);
    while let Some(pixels) = residuals.get(at - 1..at + GROUP) {
        if pixels[1..] != pixels[..GROUP] {
            at += GROUP;
            continue;
        }
        let further = residuals[at + GROUP..].iter().take(MAX_RUN - GROUP);
        let run = GROUP + further.take_while(|&&pixel| pixel == pixels[0]).count();
        spans.push(Span { literals: start..at, run });
        start = at + run;
        at = start;
    }
    spans.push(Span { literals: start..residuals.len(), run: 0 });
}

/// How often each symbol occurs.
struct Histogram {
    /// Of green, red and blue, for each place in a group: neighbors are often alike, and an
    /// addition to another counter need not wait for the one before.
    tables: [[[u32; 256]; 3]; GROUP],
    runs: [u32; GREENS - 256],
}

impl Histogram {
    #[inline(always)]
    fn count(&mut self, place: usize, pixel: [u8; 4]) {
        let [red, green, blue, _] = pixel.map(usize::from);
        self.tables[place][0][green] += 1;
        self.tables[place][1][red] += 1;
        self.tables[place][2][blue] += 1;
    }

    /// How often about each symbol occurs in all pixels; at least once, as it may be among those
    /// that were not counted.
    #[inline(always)]
    fn channel(&self, channel: usize) -> [u32; 256] {
        std::array::from_fn(|symbol| {
            1 + SAMPLED as u32 * self.tables.iter().map(|table| table[channel][symbol]).sum::<u32>()
        })
    }

    #[inline(always)]
    fn add(&mut self, literals: &[[u8; 4]]) {
        let (groups, _) = literals.as_chunks::<GROUP>();
        for group in groups.iter().step_by(SAMPLED) {
            for (place, &pixel) in group.iter().enumerate() {
                self.count(place, pixel);
            }
        }
    }
}

/// The codes of all symbols, each beside its length: one access to memory a symbol.
struct Coder {
    green: [u32; GREENS],
    red: [u32; 256],
    blue: [u32; 256],
}

impl Coder {
    /// The bits of a pixel, at most three times [`MAX_BITS`], and their number.
    #[inline(always)]
    fn color(&self, pixel: [u8; 4]) -> (u64, u32) {
        let [red, green, blue, _] = pixel.map(usize::from);
        let [green, red, blue] = [self.green[green], self.red[red], self.blue[blue]];
        // The lengths add up in the lowest byte, of which a shift uses six bits.
        let (to_blue, end) = (green + red, green + red + blue);
        let [green_bits, red_bits, blue_bits] = [green, red, blue].map(|code| u64::from(code >> 8));
        (green_bits | red_bits << (green & 63) | blue_bits << (to_blue & 63), end & 63)
    }

    /// The same for a gray pixel, whose red and blue take no bits.
    #[inline(always)]
    fn gray(&self, pixel: [u8; 4]) -> (u64, u32) {
        let green = self.green[usize::from(pixel[1])];
        (u64::from(green >> 8), green & 63)
    }

    #[inline(always)]
    fn write(
        &self,
        literals: &[[u8; 4]],
        writer: &mut BitWriter<'_>,
        code: impl Fn([u8; 4]) -> (u64, u32),
    ) {
        // The few numbers of a writer of its own stay in registers; each pair of pixels waits for
        // those of the pair before.
        let BitWriter { at, buffer, filled, .. } = *writer;
        let mut bits = BitWriter { bytes: &mut *writer.bytes, at, buffer, filled };
        let (pairs, rest) = literals.as_chunks();
        for &[first, second] in pairs {
            let ((first, length), (second, more)) = (code(first), code(second));
            // Nearly always both fit.
            if length + more <= BitWriter::MOST {
                bits.write(first | second << length, length + more);
            } else {
                bits.write(first, length);
                bits.write(second, more);
            }
        }
        for &pixel in rest {
            let (bits_of_pixel, length) = code(pixel);
            bits.write(bits_of_pixel, length);
        }
        let BitWriter { at, buffer, filled, .. } = bits;
        (writer.at, writer.buffer, writer.filled) = (at, buffer, filled);
    }

    fn write_run(&self, length: usize, bits: &mut BitWriter<'_>) {
        let (symbol, extra, extra_bits) = prefix(length);
        let code = self.green[256 + symbol];
        bits.write(u64::from(code >> 8), code & 63);
        bits.write(extra, extra_bits);
    }
}

/// Computes the residual of each pixel: from the pixel above, in the top row from the one to its
/// left; then red and blue less green; all modulo 256. Returns whether any pixel has a color.
#[inline(always)]
fn predict(pixels: &[[u8; 4]], width: usize, residuals: &mut Vec<[u8; 4]>) -> bool {
    residuals.resize(pixels.len(), [0; 4]);
    let (first_row, rest) = residuals.split_at_mut(width);
    first_row[0] = pixels[0];
    subtract(&pixels[1..width], pixels, &mut first_row[1..]);
    subtract(&pixels[width..], pixels, rest);
    let mut all = 0;
    for residual in residuals {
        let pixel = u32::from_le_bytes(*residual);
        let green = pixel >> 8 & 0xFF;
        let green = green | green << 16;
        // Red and blue have a byte above them, from which they may borrow.
        let colors = ((pixel & 0x00FF_00FF | 0x0100_0100) - green) & 0x00FF_00FF;
        *residual = (colors | pixel & 0xFF00).to_le_bytes();
        all |= colors;
    }
    all != 0
}

#[inline(always)]
fn subtract(pixels: &[[u8; 4]], predictions: &[[u8; 4]], residuals: &mut [[u8; 4]]) {
    let pixels = pixels.as_flattened().iter().zip(predictions.as_flattened());
    for (residual, (pixel, prediction)) in residuals.as_flattened_mut().iter_mut().zip(pixels) {
        *residual = pixel.wrapping_sub(*prediction);
    }
}

impl WebpEncoder {
    /// Encodes `[height, width]` pixels: red, green, blue, and 0. Width and height are from 1 to
    /// 16384.
    pub(crate) fn encode(&mut self, pixels: &[[u8; 4]], width: usize, height: usize) -> &[u8] {
        let mut size = 0;
        vectorized!(size = self.encode_pixels(pixels, width, height));
        &self.file[..size]
    }

    /// Writes the file to the start of `self.file`. Returns its size.
    #[inline(always)]
    fn encode_pixels(&mut self, pixels: &[[u8; 4]], width: usize, height: usize) -> usize {
        let colored = predict(pixels, width, &mut self.residuals);
        find_spans(&self.residuals, &mut self.spans);
        self.build_codes(colored);
        let most = HEAD_BYTES + (pixels.len() * 3 * usize::from(MAX_BITS)).div_ceil(8);
        if self.file.len() < most {
            self.file.resize(most, 0);
        }
        let (head, stream) = self.file.split_at_mut(HEAD.len());
        let mut bits = BitWriter::new(stream);
        write_header(&mut bits, width, height);
        write_code(&mut bits, &self.green, &mut self.of_lengths);
        write_code(&mut bits, &self.red, &mut self.of_lengths);
        write_code(&mut bits, &self.blue, &mut self.of_lengths);
        // Opaque throughout: alpha never differs from what is predicted.
        write_single_symbol(&mut bits, 0);
        write_single_symbol(&mut bits, PIXEL_BEFORE);
        let coder =
            Coder { green: self.green.packed(), red: self.red.packed(), blue: self.blue.packed() };
        for span in &self.spans {
            let literals = &self.residuals[span.literals.clone()];
            if colored {
                coder.write(
                    literals,
                    &mut bits,
                    #[inline(always)]
                    |pixel| coder.color(pixel),
                );
            } else {
                coder.write(
                    literals,
                    &mut bits,
                    #[inline(always)]
                    |pixel| coder.gray(pixel),
                );
            }
            if span.run > 0 {
                coder.write_run(span.run, &mut bits);
            }
        }
        let stream = bits.finish();
        let size = HEAD.len() + stream.next_multiple_of(2);
        head.copy_from_slice(HEAD);
        head[4..8].copy_from_slice(&(size as u32 - 8).to_le_bytes());
        head[16..].copy_from_slice(&(stream as u32).to_le_bytes());
        // Padded to an even number; the last file may have left something there.
        self.file[HEAD.len() + stream] = 0;
        size
    }

    /// Counts the symbols and builds a code for each channel.
    #[inline(always)]
    fn build_codes(&mut self, colored: bool) {
        let mut histogram = Histogram { tables: [[[0; 256]; 3]; GROUP], runs: [0; GREENS - 256] };
        for span in &self.spans {
            histogram.add(&self.residuals[span.literals.clone()]);
            if span.run > 0 {
                histogram.runs[prefix(span.run).0] += 1;
            }
        }
        let mut greens = [0; GREENS];
        greens[..256].copy_from_slice(&histogram.channel(0));
        greens[256..].copy_from_slice(&histogram.runs);
        self.green.build(&greens, MAX_BITS);
        let (mut reds, mut blues) = (histogram.channel(1), histogram.channel(2));
        if !colored {
            // Nothing but 0 occurs.
            reds[1..].fill(0);
            blues[1..].fill(0);
        }
        self.red.build(&reds, MAX_BITS);
        self.blue.build(&blues, MAX_BITS);
    }
}

fn write_code<const N: usize>(bits: &mut BitWriter<'_>, code: &Code<N>, of_lengths: &mut Code<16>) {
    if let Some(symbol) = code.single {
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

    /// With a zero behind each pixel.
    fn padded(bytes: &[u8]) -> Vec<[u8; 4]> {
        bytes.as_chunks().0.iter().map(|&[red, green, blue]| [red, green, blue, 0]).collect()
    }

    /// Noise.
    fn random_bytes() -> impl FnMut() -> u8 {
        let mut noise = 1u32;
        move || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        }
    }

    /// Images of several kinds.
    fn images(width: usize, height: usize) -> Vec<Vec<u8>> {
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

    /// Differences that are nearly always small: rare ones have codes of up to 15 bits in all three
    /// channels, and pairs of pixels then fill a word.
    fn long_codes(count: usize) -> Vec<u8> {
        let mut noise = count as u64;
        let mut random = move || {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (noise >> 40) as u32
        };
        let mut level = || {
            let bits = (random() | 1).leading_zeros().saturating_sub(8);
            (random() % (1 << bits.min(8))) as u8
        };
        (0..count).map(|_| level()).collect()
    }

    #[test]
    fn every_processor_computes_the_same() {
        let mut random = random_bytes();
        for width in [1, 7, 64, 1000] {
            let bytes: Vec<u8> = (0..9 * width).map(|_| random()).collect();
            let pixels = padded(&bytes);
            let (mut plain, mut found) = (Vec::new(), Vec::new());
            for (at, pixel) in pixels.iter().enumerate() {
                let above = at.checked_sub(if at < width { 1 } else { width });
                let prediction = above.map_or([0; 4], |above| pixels[above]);
                let [red, green, blue] =
                    [0, 1, 2].map(|c| i32::from(pixel[c]) - i32::from(prediction[c]));
                plain.push([red - green, green, blue - green, 0].map(|value| value as u8));
            }
            vectorized!(predict(&pixels, width, &mut found));
            assert_eq!(found, plain);
        }
    }

    #[test]
    fn every_image_comes_back() {
        let mut encoder = WebpEncoder::default();
        for (width, height) in [(1, 1), (2, 1), (1, 3), (17, 5), (224, 224), (300, 700)] {
            for (index, pixels) in images(width, height).iter().enumerate() {
                let file = encoder.encode(&padded(pixels), width, height);
                assert!(decoded(file) == *pixels, "image {index} of {width} × {height}");
                // Whatever was encoded before.
                let mut first = WebpEncoder::default();
                assert!(first.encode(&padded(pixels), width, height) == file);
            }
        }
    }

    #[test]
    fn images_with_long_codes_come_back() {
        let mut encoder = WebpEncoder::default();
        for width in 200..240 {
            let pixels = long_codes(width * 224 * 3);
            assert!(decoded(encoder.encode(&padded(&pixels), width, 224)) == pixels);
        }
    }
}
