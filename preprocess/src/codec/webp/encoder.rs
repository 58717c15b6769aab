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
/// Unlike the residual of any pixel.
const NO_PIXEL: u32 = u32::MAX;
/// Pixels that are compared at once in the search for runs.
const GROUP: usize = 4;
/// More bytes than the header and the codes ever take: a code of lengths and 7 bits a symbol, three
/// times.
const HEAD_BYTES: usize = 1024;

/// Encodes one view after the other in buffers that it keeps. One for each thread.
#[derive(Default)]
pub(crate) struct WebpEncoder {
    /// The residual of each pixel: green in the lowest byte, then red and blue.
    residuals: Vec<u32>,
    spans: Vec<Span>,
    green: Code<GREENS>,
    red: Code<256>,
    blue: Code<256>,
    of_lengths: Code<16>,
}

/// Pixels that are coded one by one, then the number of further ones equal to the last of them.
struct Span {
    literals: Range<usize>,
    run: usize,
}

/// Finds the runs.
#[inline(always)]
fn find_spans(residuals: &[u32], spans: &mut Vec<Span>) {
    spans.clear();
    let mut start = 0;
    let mut before = NO_PIXEL;
    let mut run = 0;
    let mut at = 0;
    for group in residuals.as_chunks::<GROUP>().0 {
        if *group == [before; GROUP] && run < MAX_RUN {
            run += GROUP;
        } else {
            if run > 0 {
                // It may end within the group.
                let more =
                    group.iter().take_while(|&&pixel| pixel == before).count().min(MAX_RUN - run);
                spans.push(Span { literals: start..at - run, run: run + more });
                start = at + more;
                run = 0;
            }
            before = group[GROUP - 1];
        }
        at += GROUP;
    }
    if run > 0 {
        spans.push(Span { literals: start..at - run, run });
        start = at;
    }
    spans.push(Span { literals: start..residuals.len(), run: 0 });
}

/// How often each symbol occurs.
struct Histogram {
    /// Of green, red and blue, for each place in a group: neighbors are often alike, and an
    /// addition to another counter need not wait for the one before.
    tables: [[[u32; 256]; 3]; GROUP],
    runs: [u32; GREENS - 256],
    /// Bits that follow the prefixes of runs.
    extra_bits: u64,
}

impl Histogram {
    #[inline(always)]
    fn count(&mut self, place: usize, pixel: u32) {
        let [green, red, blue, _] = pixel.to_le_bytes().map(usize::from);
        self.tables[place][0][green] += 1;
        self.tables[place][1][red] += 1;
        self.tables[place][2][blue] += 1;
    }

    #[inline(always)]
    fn channel(&self, channel: usize) -> [u32; 256] {
        std::array::from_fn(|symbol| self.tables.iter().map(|table| table[channel][symbol]).sum())
    }

    #[inline(always)]
    fn add(&mut self, literals: &[u32]) {
        let (groups, rest) = literals.as_chunks::<GROUP>();
        for group in groups {
            for (place, &pixel) in group.iter().enumerate() {
                self.count(place, pixel);
            }
        }
        for &pixel in rest {
            self.count(0, pixel);
        }
    }

    fn add_run(&mut self, length: usize) {
        let (symbol, _, extra_bits) = prefix(length);
        self.runs[symbol] += 1;
        self.extra_bits += u64::from(extra_bits);
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
    fn code(&self, pixel: u32) -> (u64, u32) {
        let [green, red, blue, _] = pixel.to_le_bytes().map(usize::from);
        let [green, red, blue] = [self.green[green], self.red[red], self.blue[blue]];
        // The lengths add up in the lowest byte, of which a shift uses six bits.
        let (to_blue, end) = (green + red, green + red + blue);
        let [green_bits, red_bits, blue_bits] = [green, red, blue].map(|code| u64::from(code >> 8));
        (green_bits | red_bits << (green & 63) | blue_bits << (to_blue & 63), end & 63)
    }

    #[inline(always)]
    fn write(&self, literals: &[u32], writer: &mut BitWriter<'_>) {
        // The few numbers of a writer of its own stay in registers; each pair of pixels waits for
        // those of the pair before.
        let BitWriter { at, buffer, filled, .. } = *writer;
        let mut bits = BitWriter { bytes: &mut *writer.bytes, at, buffer, filled };
        let (pairs, rest) = literals.as_chunks();
        for &[first, second] in pairs {
            let ((first, length), (second, more)) = (self.code(first), self.code(second));
            // Nearly always both fit.
            if length + more <= BitWriter::MOST {
                bits.write(first | second << length, length + more);
            } else {
                bits.write(first, length);
                bits.write(second, more);
            }
        }
        for &pixel in rest {
            let (code, length) = self.code(pixel);
            bits.write(code, length);
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
/// left.
#[inline(always)]
fn predict(pixels: &[[u8; 3]], width: usize, residuals: &mut Vec<u32>) {
    residuals.resize(pixels.len(), 0);
    let (first_row, rest) = residuals.split_at_mut(width);
    subtract(&pixels[..1], &[[0; 3]], first_row);
    subtract(&pixels[1..], pixels, &mut first_row[1..]);
    subtract(&pixels[width..], pixels, rest);
}

/// Pixels less their predictions, then red and blue less green, modulo 256. The compiler
/// turns the loop into vector instructions.
#[inline(always)]
fn subtract(pixels: &[[u8; 3]], predictions: &[[u8; 3]], residuals: &mut [u32]) {
    for ((residual, pixel), prediction) in residuals.iter_mut().zip(pixels).zip(predictions) {
        let [red, green, blue] = [0, 1, 2].map(|c| pixel[c].wrapping_sub(prediction[c]));
        let (red, blue) = (red.wrapping_sub(green), blue.wrapping_sub(green));
        *residual = u32::from_le_bytes([green, red, blue, 0]);
    }
}

impl WebpEncoder {
    /// Appends `[height, width, 3]` bytes, red first, to `file` as WebP. Width and height are from
    /// 1 to 16384.
    pub(crate) fn encode(
        &mut self,
        pixels: &[u8],
        width: usize,
        height: usize,
        file: &mut Vec<u8>,
    ) {
        let (pixels, _) = pixels.as_chunks();
        vectorized!(self.encode_pixels(pixels, width, height, file));
    }

    #[inline(always)]
    fn encode_pixels(
        &mut self,
        pixels: &[[u8; 3]],
        width: usize,
        height: usize,
        file: &mut Vec<u8>,
    ) {
        predict(pixels, width, &mut self.residuals);
        find_spans(&self.residuals, &mut self.spans);
        let pixel_bits = self.build_codes();
        let start = file.len();
        // The sizes are filled in at the end.
        file.extend_from_slice(b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0");
        let body = file.len();
        file.reserve_exact(HEAD_BYTES + pixel_bits.div_ceil(8) + 8);
        file.resize(body + HEAD_BYTES + pixel_bits.div_ceil(8) + 8, 0);
        let mut bits = BitWriter::new(&mut file[body..]);
        write_header(&mut bits, width, height);
        self.write_codes(&mut bits);
        let coder =
            Coder { green: self.green.packed(), red: self.red.packed(), blue: self.blue.packed() };
        for span in &self.spans {
            coder.write(&self.residuals[span.literals.clone()], &mut bits);
            if span.run > 0 {
                coder.write_run(span.run, &mut bits);
            }
        }
        let stream = bits.finish();
        // Padded to an even number.
        file.truncate(body + stream.next_multiple_of(2));
        let riff = (file.len() - start - 8) as u32;
        file[start + 4..start + 8].copy_from_slice(&riff.to_le_bytes());
        file[body - 4..body].copy_from_slice(&(stream as u32).to_le_bytes());
    }

    /// Counts the symbols and builds a code for each channel. Returns how many bits the pixels will
    /// take.
    #[inline(always)]
    fn build_codes(&mut self) -> usize {
        let mut histogram =
            Histogram { tables: [[[0; 256]; 3]; GROUP], runs: [0; GREENS - 256], extra_bits: 0 };
        for span in &self.spans {
            histogram.add(&self.residuals[span.literals.clone()]);
            if span.run > 0 {
                histogram.add_run(span.run);
            }
        }
        let mut greens = [0; GREENS];
        greens[..256].copy_from_slice(&histogram.channel(0));
        greens[256..].copy_from_slice(&histogram.runs);
        let (reds, blues) = (histogram.channel(1), histogram.channel(2));
        self.green.build(&greens, MAX_BITS);
        self.red.build(&reds, MAX_BITS);
        self.blue.build(&blues, MAX_BITS);
        let bits = self.green.total_bits(&greens)
            + self.red.total_bits(&reds)
            + self.blue.total_bits(&blues);
        (bits + histogram.extra_bits) as usize
    }

    fn write_codes(&mut self, bits: &mut BitWriter<'_>) {
        write_code(bits, &self.green, &mut self.of_lengths);
        write_code(bits, &self.red, &mut self.of_lengths);
        write_code(bits, &self.blue, &mut self.of_lengths);
        // Opaque throughout: alpha never differs from what is predicted.
        write_single_symbol(bits, 0);
        write_single_symbol(bits, PIXEL_BEFORE);
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
            let pixels: Vec<[u8; 3]> = (0..3 * width).map(|_| [(); 3].map(|()| random())).collect();
            let (mut plain, mut found) = (Vec::new(), Vec::new());
            for (at, pixel) in pixels.iter().enumerate() {
                let above = at.checked_sub(if at < width { 1 } else { width });
                let prediction = above.map_or([0; 3], |above| pixels[above]);
                let [red, green, blue] =
                    [0, 1, 2].map(|c| i32::from(pixel[c]) - i32::from(prediction[c]));
                plain.push(
                    [green, red - green, blue - green]
                        .iter()
                        .rev()
                        .fold(0, |residual, value| residual << 8 | value.rem_euclid(256) as u32),
                );
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
                let mut file = Vec::new();
                encoder.encode(pixels, width, height, &mut file);
                assert!(decoded(&file) == *pixels, "image {index} of {width} × {height}");
            }
        }
    }

    #[test]
    fn images_with_long_codes_come_back() {
        let mut encoder = WebpEncoder::default();
        for width in 200..240 {
            let pixels = long_codes(width * 224 * 3);
            let mut file = Vec::new();
            encoder.encode(&pixels, width, 224, &mut file);
            assert!(decoded(&file) == pixels);
        }
    }
}
