//! Reads back what [`super::WebpEncoder`] writes, faster than a decoder of WebP in general can: transforms and the layout
//! of the codes are known, and pixels go straight to where they are wanted. Of any other stream it says so.

use super::bits::{BitReader, BitWriter};
use super::{GREENS, HEAD_BITS, MAX_BITS, ORDER_OF_LENGTHS, PIXEL_BEFORE, single_symbol, write_header};

/// Bits that one look into a table takes.
const INDEX_BITS: u32 = 11;
/// In a table: the code is longer.
const LONG: u16 = u16::MAX;
/// `RIFF`, its size, `WEBPVP8L`, its size.
const CONTAINER_BYTES: usize = 20;

/// Decodes a picture of the expected width, `[height, width, 3]`, red first. `None` if the stream is not this crate's, is
/// of another size, or is damaged; `pixels` then hold nothing of use.
pub(crate) fn decode(file: &[u8], width: usize, pixels: &mut [u8]) -> Option<()> {
    let height = pixels.len() / (width * 3);
    let (container, stream) = file.split_at_checked(CONTAINER_BYTES)?;
    let [size, length] =
        [4, 16].map(|at| container[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes)));
    let known = container.starts_with(b"RIFF") && &container[8..16] == b"WEBPVP8L";
    let length = length? as usize;
    if !known || size? as usize != file.len() - 8 || stream.len() != length.next_multiple_of(2) {
        return None;
    }
    let mut head = [0; HEAD_BITS as usize / 8 + 9];
    write_header(&mut BitWriter::new(&mut head), width, height);
    let mut bits = BitReader::new(stream);
    let mut expected = BitReader::new(&head);
    for left in (0..HEAD_BITS).step_by(8) {
        let count = (HEAD_BITS - left).min(8);
        if bits.read(count) != expected.read(count) {
            return None;
        }
    }
    let tables = Tables {
        green: read_code::<GREENS>(&mut bits)?,
        red: read_code::<256>(&mut bits)?,
        blue: read_code::<256>(&mut bits)?,
    };
    for symbol in [0, PIXEL_BEFORE] {
        let (code, count) = single_symbol(symbol);
        if bits.read(count) != code {
            return None;
        }
    }
    tables.read_differences(&mut bits, pixels)?;
    add_up(width * 3, pixels);
    (!bits.is_beyond_end()).then_some(())
}

/// Undoes the prediction: in the top row from the pixel to the left, elsewhere from the pixel above.
fn add_up(line: usize, pixels: &mut [u8]) {
    for at in 3..line {
        pixels[at] = pixels[at].wrapping_add(pixels[at - 3]);
    }
    let mut rest = pixels;
    while rest.len() > line {
        let (above, below) = rest.split_at_mut(line);
        below.iter_mut().zip(above).for_each(|(pixel, above)| *pixel = pixel.wrapping_add(*above));
        rest = below;
    }
}

/// The symbols of a code by their bits.
struct Table {
    /// By the next [`INDEX_BITS`] bits: the symbol times 16, and the length of its code; or [`LONG`].
    short: [u16; 1 << INDEX_BITS],
    /// How many codes there are of each length.
    counts: [u16; MAX_BITS as usize + 1],
    /// By length, then symbol.
    symbols: Vec<u16>,
}

impl Table {
    /// The code that has one symbol and no bits.
    fn single(symbol: u16) -> Self {
        Self {
            short: [symbol << 4; 1 << INDEX_BITS],
            counts: [0; MAX_BITS as usize + 1],
            symbols: Vec::new(),
        }
    }

    /// The canonical code of these lengths; `None` if there is none.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; MAX_BITS as usize + 1];
        lengths.iter().filter(|length| **length > 0).for_each(|length| counts[usize::from(*length)] += 1);
        let mut next = [0u32; MAX_BITS as usize + 2];
        for length in 1..=usize::from(MAX_BITS) {
            next[length + 1] = (next[length] + u32::from(counts[length])) << 1;
        }
        // Every string of bits must begin with a code, and with one only.
        if next[usize::from(MAX_BITS) + 1] != 2 << MAX_BITS {
            return None;
        }
        let mut short = [LONG; 1 << INDEX_BITS];
        let mut symbols: Vec<u16> =
            (0..lengths.len() as u16).filter(|symbol| lengths[usize::from(*symbol)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        for symbol in &symbols {
            let length = u32::from(lengths[usize::from(*symbol)]);
            let code = next[length as usize];
            next[length as usize] += 1;
            if length <= INDEX_BITS {
                let first = code.reverse_bits() >> (32 - length);
                let places = short[first as usize..].iter_mut().step_by(1 << length);
                places.for_each(|place| *place = symbol << 4 | length as u16);
            }
        }
        Some(Self { short, counts, symbols })
    }

    #[inline(always)]
    fn read(&self, bits: &mut BitReader) -> usize {
        let entry = self.short[bits.peek(INDEX_BITS) as usize];
        if entry == LONG {
            return self.read_long(bits);
        }
        bits.consume(u32::from(entry & 15));
        usize::from(entry >> 4)
    }

    /// Bit for bit: codes of a length are numbers in a row, and those of the next length follow them.
    #[cold]
    fn read_long(&self, bits: &mut BitReader) -> usize {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            let count = usize::from(*count);
            code |= bits.take(1) as usize;
            if code < first + count {
                return self.symbols[index + code - first].into();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        // Not reached, as the code is complete.
        0
    }
}

/// Reads a code as [`super::write_code`] writes it.
fn read_code<const N: usize>(bits: &mut BitReader) -> Option<Table> {
    if bits.read(1) == 1 {
        // One symbol, told in eight bits.
        return (bits.read(2) == 0b10).then(|| Table::single(bits.read(8) as u16));
    }
    if bits.read(4) != ORDER_OF_LENGTHS.len() as u64 - 4 {
        return None;
    }
    let mut of_lengths = [0; 16];
    for length in ORDER_OF_LENGTHS {
        match (of_lengths.get_mut(length), bits.read(3) as u8) {
            (Some(place), count) => *place = count,
            // Repetitions are never written.
            (None, 0) => {}
            (None, _) => return None,
        }
    }
    if bits.read(1) != 0 {
        return None;
    }
    let mut used = (0..16).filter(|length| of_lengths[usize::from(*length)] > 0);
    let of_lengths = match (used.next(), used.next()) {
        (Some(only), None) => Table::single(only),
        _ => Table::new(&of_lengths)?,
    };
    let mut lengths = [0; N];
    for length in &mut lengths {
        bits.refill();
        *length = of_lengths.read(bits) as u8;
    }
    Table::new(&lengths)
}

/// The codes of a picture.
struct Tables {
    green: Table,
    red: Table,
    blue: Table,
}

impl Tables {
    /// Reads the difference of each pixel from what is predicted.
    fn read_differences(&self, bits: &mut BitReader, pixels: &mut [u8]) -> Option<()> {
        let (pixels, _) = pixels.as_chunks_mut::<3>();
        let mut at = 0;
        while at < pixels.len() {
            bits.refill();
            let symbol = self.green.read(bits);
            if symbol < 256 {
                let green = symbol as u8;
                let red = (self.red.read(bits) as u8).wrapping_add(green);
                let blue = (self.blue.read(bits) as u8).wrapping_add(green);
                pixels[at] = [red, green, blue];
                at += 1;
            } else {
                let run = run_length(symbol - 256, bits);
                let pixel = *pixels.get(at.checked_sub(1)?)?;
                pixels.get_mut(at..at + run)?.fill(pixel);
                at += run;
            }
        }
        Some(())
    }
}

/// The reverse of [`super::prefix`].
fn run_length(prefix: usize, bits: &mut BitReader) -> usize {
    if prefix < 4 {
        return prefix + 1;
    }
    let extra_bits = prefix as u32 / 2 - 1;
    ((2 + prefix % 2) << extra_bits) + bits.take(extra_bits) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webp::WebpEncoder;
    use crate::webp::tests::{pictures, random_bytes};

    #[test]
    fn other_and_damaged_files_are_left_to_others() {
        let (width, height) = (40, 30);
        let picture = &pictures(width, height)[3];
        let mut file = Vec::new();
        WebpEncoder::default().encode(picture, width, height, &mut file);
        let mut pixels = vec![0; picture.len()];
        assert_eq!(decode(&file, 30, &mut pixels), None, "another width");
        for length in 0..file.len() {
            assert_eq!(decode(&file[..length], width, &mut pixels), None, "{length} bytes");
        }
        let mut other = Vec::new();
        image_webp::WebPEncoder::new(&mut other)
            .encode(picture, width as u32, height as u32, image_webp::ColorType::Rgb8)
            .unwrap();
        assert_eq!(decode(&other, width, &mut pixels), None, "another encoder");
        // Whatever stands in a file, it is read or not, without a panic.
        let mut random = random_bytes();
        for at in 0..file.len() {
            for _ in 0..4 {
                let mut damaged = file.clone();
                damaged[at] = random();
                let _ = decode(&damaged, width, &mut pixels);
            }
        }
    }
}
